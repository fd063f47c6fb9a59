"""How fast a child works and how long yet, read from its spool alone, from outside and while it is written.

A spool tells (step, seconds); seconds go on over kills, steps fall back to the last checkpoint. So only stretches in
which the step rose count; of their recent ones eight blocks are made, and the median block's seconds per step is the
pace: one stall or one resumption spoils one block, while what recurs (a checkpoint, sample images) is in each.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from tasks.cards import read_json
from tasks.spool import SpoolLine, SpoolReader

NUM_INTERVALS, NUM_BLOCKS = 64, 8
TAIL_BYTES = 1 << 18
SILENT_SECONDS = 60.0
"""Nothing new for so long, and for ten times what lies between two reports, is worth saying."""


@dataclass(frozen=True)
class Pace:
    """Where a child stands.

    Attributes:
        step: steps done, of `total` (0 = unknown).
        message: what it says it does.
        per_second: steps a second; 0 while unknown.
        left_seconds: how long yet; None while unknown.
        news_seconds: since its last report.
        is_silent: whether that is unusually long.
        metrics: its last numbers.
        batch_size: images a step takes, of a training; else 0.
    """

    step: int
    total: int
    message: str
    per_second: float
    left_seconds: float | None
    news_seconds: float
    is_silent: bool
    metrics: dict[str, float]
    batch_size: int = 0


def read_pace(work: Path, now: float | None = None) -> Pace | None:
    """Return the pace of the child that reports, or last reported, below a stage's folder; None without a report."""
    found = newest_spool(work)
    if found is None:
        return None
    try:
        reader = SpoolReader(found, max(0, found.stat().st_size - TAIL_BYTES))
        lines, written = reader.read(), found.stat().st_mtime
    except OSError:  # tidied away this moment
        return None
    pace = pace_of(lines, written, time.time() if now is None else now)
    batch_size = read_json(found.parent.parent / "job.json").get("batch_size")
    return replace(pace, batch_size=batch_size) if pace and isinstance(batch_size, int) else pace


def pace_of(lines: Sequence[SpoolLine], written: float, now: float) -> Pace | None:
    """Return the pace by a spool's last lines; `written` is when the last came, in Unix seconds like `now`."""
    if not lines:
        return None
    last = lines[-1]
    news = max(0.0, now - max(written, last.time))
    seconds = seconds_per_step(lines)
    left = None
    if last.step >= last.total > 0:
        left = 0.0
    elif last.total and seconds:
        left = seconds * (last.total - last.step)
    told = [b.seconds - a.seconds for a, b in pairwise(lines) if b.seconds > a.seconds]
    usual = statistics.median(told[-NUM_INTERVALS:]) if told else 0.0
    is_silent = news > max(SILENT_SECONDS, 10 * usual)
    if left is not None and not is_silent:
        left = max(0.0, left - news)
    metrics = next((dict(line.metrics) for line in reversed(lines) if line.metrics and line.at is None), {})
    return Pace(
        step=last.step,
        total=last.total,
        message=last.message,
        per_second=1 / seconds if seconds else 0.0,
        left_seconds=left,
        news_seconds=news,
        is_silent=is_silent,
        metrics=metrics,
    )


def seconds_per_step(lines: Sequence[SpoolLine]) -> float:
    """Return the median of blocks of recent stretches; 0 where fewer than two reports say anything."""
    stretches = [
        (after.seconds - before.seconds, after.step - before.step)
        for before, after in pairwise(lines)
        if after.step > before.step and after.seconds > before.seconds and after.total == before.total
    ][-NUM_INTERVALS:]
    if not stretches:
        return 0.0
    size = -(-len(stretches) // NUM_BLOCKS)
    blocks = [stretches[start : start + size] for start in range(0, len(stretches), size)]
    return statistics.median(sum(s for s, _ in block) / sum(n for _, n in block) for block in blocks)


def newest_spool(work: Path) -> Path | None:
    """Return the spool written last below a stage's folder: it may have several children, one after another."""
    found: list[tuple[float, Path]] = []
    name = "output/metrics.jsonl"
    for path in (work / name, *work.glob(f"*/{name}"), *work.glob(f"shards/*/{name}")):
        try:
            found.append((path.stat().st_mtime, path))
        except OSError:
            continue
    return max(found)[1] if found else None


def seconds_said(seconds: float) -> str:
    """Return a time span in the two largest units that matter."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole < 600 and whole % 60 else "")
    if whole < 86_400:
        return f"{whole // 3600} h" + (f" {whole % 3600 // 60} min" if whole % 3600 >= 60 else "")
    return f"{whole // 86_400} d" + (f" {whole % 86_400 // 3600} h" if whole % 86_400 >= 3600 else "")


def pace_said(pace: Pace) -> str:
    """Return how far, how fast, how long yet, with the loss where there is one."""
    words = []
    if pace.total:
        words.append(f"{pace.step}/{pace.total} ({100 * pace.step // pace.total} %)")
    elif pace.step:
        words.append(f"{pace.step} done")
    if pace.per_second >= 0.1:
        images = f" ({pace.batch_size * pace.per_second:,.0f} images/s)" if pace.batch_size else ""
        words.append(f"{pace.per_second:.3g}/s{images}")
    elif pace.per_second:
        words.append(f"{seconds_said(1 / pace.per_second)} each")
    if pace.left_seconds and not pace.is_silent:
        words.append(f"about {seconds_said(max(1.0, pace.left_seconds))} left")
    if "loss" in pace.metrics:
        words.append(f"loss {pace.metrics['loss']:.4g}")
    if pace.message:
        words.append(pace.message)
    if pace.is_silent:
        words.append(f"no news for {seconds_said(pace.news_seconds)}")
    return ", ".join(words)
