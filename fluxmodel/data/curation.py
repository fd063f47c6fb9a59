"""Curation: from a source to a dataset, with a decision per image and rule.

Two passes, so that memory hardly grows with the images: the first looks at each image alone and spools those
that pass; duplicates are found among their hashes; the second writes the survivors into shards. Always
seen = kept + dropped, every drop has one reason, and a bad file never ends the run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fluxmodel.data.curated_dataset import RECORD, CuratedDataset, ShardWriter, sample_schema
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.curation_tally import Dropped, Tally
from fluxmodel.data.records import Reason
from fluxmodel.data.sources import Source, open_source
from fluxmodel.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from fluxmodel.data.decision_log import DecisionLog
    from fluxmodel.data.spool import Spool

__all__ = ["CuratedDataset", "CurationReport", "CurationRules", "Dropped", "curate", "curate_source"]

Progress = Callable[[int, int, str], None]
_MIN_KEPT_FOR_A_TEST_IMAGE = 20
_PROGRESS_EVERY = 256
_PROCEDURAL_SKIP = "procedural scenes that differ in one object are neighbours by perceptual hash"
_RULE_SKIP = "switched off by the rule near_duplicate_distance"


@dataclass(frozen=True)
class CurationReport:
    """What curation did; `curation.json` holds the same.

    `seen` = `kept` + the sum of `dropped` counts images; `caption_problems` counts captions, metadata rows and
    folders that could not be read; `refused` lists the first of both kinds, rare reasons first.
    """

    data: str
    seen: int
    kept: int
    dropped: dict[str, int]
    refused: tuple[Dropped, ...]
    num_refused: int
    caption_problems: dict[str, int]
    ignored_files: dict[str, int]
    splits: dict[str, int]
    skipped_rules: dict[str, str]
    image_size: int
    report: Path


def curate(data: str, rules: CurationRules, output: Path, progress: Progress | None = None) -> CurationReport:
    """Write the curated dataset of `data` into the empty directory `output`.

    Raises:
        InputError: the source cannot be opened, or not one image of it can be used.
    """
    return curate_source(open_source(data, rules.max_file_bytes), rules, Path(output), progress)


def curate_source(
    source: Source, rules: CurationRules, output: Path, progress: Progress | None = None
) -> CurationReport:
    """Curate an open source; see `curate`."""
    from fluxmodel.data.curation_page import Gallery, write_page
    from fluxmodel.data.decision_log import DecisionLog
    from fluxmodel.data.spool import Spool

    tally, gallery = Tally(), Gallery()
    log, spool = DecisionLog(output / "decisions.parquet"), Spool(output / ".spool.arrow")
    try:
        _look_at_each(source, rules, spool, log, tally, gallery, progress)
        skipped = _skipped_rules(source, rules)
        kept = _drop_duplicates(
            spool, None if skipped else rules.near_duplicate_distance, log, tally, gallery
        )
        if not kept.any():
            raise InputError(_nothing_kept_sentence(source, tally))
        in_test = _test_mask(spool.pixel_digests, kept, rules)
        gallery.choose_kept(kept)
        num_shards = _write_shards(spool, kept, in_test, output, gallery)
    finally:
        log.close()
        spool.remove()
    report = _report(source, rules, tally, skipped, kept, in_test, output)
    _write_record(report, rules, num_shards)
    write_page(report, gallery)
    return report


def _look_at_each(
    source: Source,
    rules: CurationRules,
    spool: Spool,
    log: DecisionLog,
    tally: Tally,
    gallery,
    progress: Progress | None,
) -> None:
    """Apply the rules that need no other image; spool what passes, count what does not."""
    from fluxmodel.data.image_checks import DUPLICATE_RULES, Decision, check_image
    from fluxmodel.data.records import UnreadableFile

    known_ids: set[str] = set()
    not_reached = [
        Decision(rule, None) for rule in DUPLICATE_RULES[: 1 if _skipped_rules(source, rules) else 2]
    ]
    for item in source:
        if isinstance(item, UnreadableFile) and not item.is_image:
            tally.note_problem(item)
            continue
        image = check_image(item, rules, known_ids)
        failure = image.failure
        if failure is None:
            log.add(image.id, image.path, image.decisions)
            spool.add(image)
        else:
            log.add(image.id, image.path, [*image.decisions, *not_reached])
            tally.drop(image.path or image.id, failure.reason or Reason.UNREADABLE, failure.detail or "")
            gallery.note_dropped(image, failure)
        tally.seen += 1
        if progress and (tally.seen % _PROGRESS_EVERY == 0 or tally.seen == len(source)):
            progress(tally.seen, len(source), f"{tally.num_dropped} dropped")
    spool.finish()


def _skipped_rules(source: Source, rules: CurationRules) -> dict[str, str]:
    """Return the rules that are not applied, each with the reason."""
    if rules.near_duplicate_distance is None:
        return {"near_duplicate": _RULE_SKIP}
    return {"near_duplicate": _PROCEDURAL_SKIP} if source.is_procedural else {}


def _drop_duplicates(
    spool: Spool, distance: int | None, log: DecisionLog, tally: Tally, gallery
) -> np.ndarray:
    """Decide on exact, then near duplicates; return which candidates are kept, bool [n]."""
    import numpy as np

    from fluxmodel.data.dedup import exact_groups, near_groups, survivors
    from fluxmodel.data.image_checks import Decision

    areas = np.array(spool.areas, np.int64)
    exact = survivors(exact_groups(spool.pixel_digests), areas, spool.ids)
    kept = exact == np.arange(len(spool))
    near, hashes = exact.copy(), spool.hashes
    if distance is not None:
        unique = np.flatnonzero(kept)
        groups = near_groups(hashes[unique], spool.signatures[unique], distance)
        near[unique] = unique[survivors(groups, areas[unique], [spool.ids[index] for index in unique])]
    for index, (sample_id, path) in enumerate(zip(spool.ids, spool.paths, strict=True)):
        decisions = [_duplicate_decision("exact_duplicate", spool, index, int(exact[index]), None)]
        if distance is not None and kept[index]:
            bits = float(np.bitwise_count(hashes[index] ^ hashes[near[index]]))
            decisions.append(_duplicate_decision("near_duplicate", spool, index, int(near[index]), bits))
        elif distance is not None:
            decisions.append(Decision("near_duplicate", None))
        log.add(sample_id, path, decisions)
        failure = next((decision for decision in decisions if decision.passed is False), None)
        if failure is not None and failure.reason is not None:
            tally.drop(path or sample_id, failure.reason, failure.detail or "")
            survivor = exact[index] if failure.rule == "exact_duplicate" else near[index]
            gallery.note_duplicate(index, int(survivor), failure)
    return kept & (near == np.arange(len(spool)))


def _duplicate_decision(rule: str, spool: Spool, index: int, survivor: int, bits: float | None):
    """Return the decision of a duplicate rule; `value` is the distance to the survivor in bits."""
    from fluxmodel.data.image_checks import Decision

    if index == survivor:
        return Decision(rule, True)
    reason = Reason.EXACT_DUPLICATE if rule == "exact_duplicate" else Reason.NEAR_DUPLICATE
    return Decision(rule, False, bits, reason, f"of {spool.ids[survivor]}")


def _test_mask(digests: list[bytes], kept: np.ndarray, rules: CurationRules) -> np.ndarray:
    """Return which kept candidates are held out, bool [n]: a function of seed and pixels, never of order.

    A survivor stands for its whole group, so no two images of one group lie on both sides.
    """
    import numpy as np

    key = f"split {rules.seed} ".encode()
    places = np.array(
        [int.from_bytes(hashlib.sha256(key + digest).digest()[:8], "big") / 2**64 for digest in digests]
    )
    in_test = kept & (places < rules.test_fraction)
    if rules.test_fraction > 0 and not in_test.any() and kept.sum() >= _MIN_KEPT_FOR_A_TEST_IMAGE:
        in_test[np.argmin(np.where(kept, places, np.inf))] = True
    return in_test


def _write_shards(spool: Spool, kept: np.ndarray, in_test: np.ndarray, output: Path, gallery) -> int:
    """Write the kept candidates with their split; return the number of shards."""
    import numpy as np
    import pyarrow as pa

    writer, schema = ShardWriter(output), sample_schema()
    for start, batch in spool.batches():
        gallery.take(start, batch)
        here = slice(start, start + batch.num_rows)
        split = pa.array(np.where(in_test[here], "test", "train").tolist(), pa.string())
        chosen = pa.RecordBatch.from_arrays([*batch.columns, split], schema=schema).filter(
            pa.array(kept[here])
        )
        if chosen.num_rows:
            writer.write(chosen)
    writer.close()
    return writer.num_shards


def _report(source, rules, tally, skipped, kept, in_test, output) -> CurationReport:
    num_kept, num_test = int(kept.sum()), int(in_test.sum())
    assert tally.seen == num_kept + tally.num_dropped, "an image was lost or counted twice"
    return CurationReport(
        data=source.name,
        seen=tally.seen,
        kept=num_kept,
        dropped=tally.dropped_counts(),
        refused=tally.listed(),
        num_refused=tally.num_refused,
        caption_problems=tally.problem_counts(),
        ignored_files=dict(sorted(getattr(source, "ignored", {}).items())),
        splits={"train": num_kept - num_test, "test": num_test},
        skipped_rules=skipped,
        image_size=rules.image_size,
        report=output / "report.html",
    )


def _write_record(report: CurationReport, rules: CurationRules, num_shards: int) -> None:
    """Write curation.json, the last word on what the directory holds."""
    record = asdict(report) | {"rules": rules.model_dump(mode="json"), "num_shards": num_shards, "format": 1}
    path: Path = record.pop("report")
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (path.parent / RECORD).write_text(text, encoding="utf-8")


def _nothing_kept_sentence(source: Source, tally: Tally) -> str:
    counts = ", ".join(f"{count} {reason}" for reason, count in tally.dropped_counts().items())
    first = next(iter(tally.listed()), None)
    example = f"; the first: {first.path} ({first.detail or first.reason})" if first else ""
    return f"--data {source.spec}: none of the {tally.seen} images can be used ({counts}){example}."
