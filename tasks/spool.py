"""Reading `metrics.jsonl`, the write-ahead spool of a child process, from where one left off."""

import json
from dataclasses import dataclass
from pathlib import Path

_START = '{"step"'


@dataclass(frozen=True)
class SpoolLine:
    """One report of a child: where it stands and what it measured.

    Attributes:
        step: steps done.
        total: steps in all (0 = unknown).
        metrics: name -> value.
        seconds: what the child's work took so far, all its lives together.
        time: Unix time of the measurement; 0 where the line does not say.
        at: step the metrics are at, where it is not `step`: an evaluation's points lie at solver steps.
    """

    step: int
    total: int
    metrics: dict[str, float]
    seconds: float
    message: str = ""
    time: float = 0.0
    at: int | None = None


class SpoolReader:
    """Reads whole lines appended since the last call; `offset` (bytes) is all there is to remember."""

    def __init__(self, path: Path, offset: int = 0):
        self.path = path
        self.offset = offset

    def read(self) -> list[SpoolLine]:
        """Return the new whole lines; a line still being written waits for the next call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        lines = (parse_line(raw.decode(errors="replace")) for raw in whole.splitlines())
        return [line for line in lines if line is not None]


def parse_line(text: str) -> SpoolLine | None:
    """Read one line; what a killed writer left unfinished before it on the same line is skipped."""
    start = text.rfind(_START)
    try:
        entry = json.loads(text[max(start, 0) :])
        metrics = {str(k): float(v) for k, v in (entry.get("metrics") or {}).items() if v is not None}
        return SpoolLine(
            step=int(entry["step"]),
            total=int(entry.get("total") or 0),
            metrics=metrics,
            seconds=float(entry.get("seconds") or 0.0),
            message=str(entry.get("message") or ""),
            time=float(entry.get("time") or 0.0),
            at=None if entry.get("at") is None else int(entry["at"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
