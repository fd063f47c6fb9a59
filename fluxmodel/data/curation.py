"""Curation: from a source to a dataset, with a decision per image and rule.

Two passes, so that memory hardly grows with the images: the first measures each item, decoding it once, and spools
what has pixels; `decide` looks at the table of measurements alone; the second writes what is kept into shards.
Always seen = kept + dropped, every drop has one reason, and a bad file never ends the run.

The tables are streamed; in memory stays for each item its row of `DECIDING_COLUMNS` and its id, with the search for
duplicates about 1 KB an item (peak 238 MiB at 10 000 images, 324 MiB at 100 000; `benchmarks.curation --memory`).
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxmodel.data.curated_dataset import RECORD, CuratedDataset, ShardWriter, sample_schema
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.curation_tally import Dropped, Tally
from fluxmodel.data.scoring_models import ScoringModel
from fluxmodel.data.sources import Source, open_source
from fluxmodel.errors import InputError, StageError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from fluxmodel.data.decisions import Decisions
    from fluxmodel.data.spool import Spool

__all__ = ["CuratedDataset", "CurationReport", "CurationRules", "Dropped", "curate", "curate_source"]

Progress = Callable[[int, int, str], None]
_MIN_KEPT_FOR_A_TEST_IMAGE = 20
_IMAGES_AT_ONCE = 16
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class CurationReport:
    """What curation did; `curation.json` holds the same.

    `seen` = `kept` + the sum of `dropped` counts images; `problems` counts captions, metadata rows, folders and
    shards that could not be read whole; `refused` lists the first of both kinds, rare reasons first.
    """

    data: str
    seen: int
    kept: int
    dropped: dict[str, int]
    refused: tuple[Dropped, ...]
    num_refused: int
    problems: dict[str, int]
    ignored_files: dict[str, int]
    splits: dict[str, int]
    skipped_rules: dict[str, str]
    partly_applied: dict[str, str]
    models: dict[str, dict[str, Any]]
    image_size: int
    report: Path


def curate(
    data: str,
    rules: CurationRules,
    output: Path,
    progress: Progress | None = None,
    cache: str | Path | None = None,
    changes: Path | None = None,
    models: Sequence[ScoringModel] = (),
) -> CurationReport:
    """Write the curated dataset of `data` into the empty directory `output`.

    Args:
        data: what to curate.
        rules: what an image must satisfy.
        output: becomes the dataset; equal content gives equal bytes.
        progress: gets items done, items in all, and a word.
        cache: directory of all caches; measures of known bytes are taken from it. None: no cache.
        changes: file that gets what changed in the source since its last curation with this cache, as JSON.
        models: that score images; the rules of the others are skipped.

    Raises:
        InputError: the source or a model cannot be opened, no image can be used, or none is left to train on.
        StageError: a model fails on too many images, or the disk is full; `output` then holds no dataset.
    """
    source = open_source(data, rules.max_file_bytes)
    return curate_source(source, rules, Path(output), progress, cache, changes, models)


def curate_source(
    source: Source,
    rules: CurationRules,
    output: Path,
    progress: Progress | None = None,
    cache: str | Path | None = None,
    changes: Path | None = None,
    models: Sequence[ScoringModel] = (),
) -> CurationReport:
    """Curate an open source; see `curate`."""
    try:
        return _curate(source, rules, output, progress, cache, changes, models)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        (output / RECORD).unlink(missing_ok=True)  # the page beside it is missing, or half of it
        raise StageError(
            f"{output}: the data set cannot be written ({os.strerror(error.errno)}); free some space there and run the "
            "command again."
        ) from error


def _curate(
    source: Source,
    rules: CurationRules,
    output: Path,
    progress: Progress | None,
    cache: str | Path | None,
    changes: Path | None,
    models: Sequence[ScoringModel],
) -> CurationReport:
    """Measure, decide and write."""
    from fluxmodel.data.curation_funnel import summary
    from fluxmodel.data.curation_page import write_page
    from fluxmodel.data.curation_sections import Curated
    from fluxmodel.data.decisions import all_drawn, decide, partly_applied, skipped_rules
    from fluxmodel.data.diversity import measure_diversity
    from fluxmodel.data.measurements import DECIDING_COLUMNS, first_captions, read_measurements
    from fluxmodel.data.spool import Spool
    from fluxmodel.data.thresholds import THRESHOLDS

    tally, spool = Tally(), Spool(output / ".spool.arrow")
    try:
        _measure(source, rules, output, spool, tally, progress, cache, changes)
        scored = _score(models, spool, rules, output, cache, progress)
        measurements = read_measurements(output, (*DECIDING_COLUMNS, *_asked_for(rules)))
        skipped = skipped_rules(rules, all_drawn(measurements), scored)
        decisions = decide(measurements, rules, skipped)
        _note_dropped(output, measurements, decisions, rules, tally)
        if not decisions.kept.any():
            raise InputError(_nothing_kept_sentence(source, tally))
        in_test = _test_mask(measurements, decisions.kept, rules)
        if in_test.sum() == decisions.kept.sum():
            raise InputError(_nothing_to_train_sentence(source, int(in_test.sum()), rules))
        num_shards = _write_shards(spool, measurements, decisions.kept, in_test, rules, output)
        partly = partly_applied(measurements, skipped)
        report = _report(source, rules, tally, skipped, partly, scored, decisions.kept, in_test, output)
        told = summary(
            measurements, decisions, rules, THRESHOLDS, lambda other: decide(measurements, other, skipped)
        )
        told["diversity"] = measure_diversity(output, measurements, decisions.kept)
        record = _write_record(report, rules, num_shards, told)
        captions = partial(first_captions, output)
        curated = Curated(record, measurements, decisions, rules, THRESHOLDS, captions)
        write_page(output, curated, partial(_images, spool, measurements))
    finally:
        spool.remove()
    return report


def _measure(
    source: Source,
    rules: CurationRules,
    output: Path,
    spool: Spool,
    tally: Tally,
    progress: Progress | None,
    cache: str | Path | None,
    changes: Path | None,
) -> None:
    """Measure every item; say what of the source is new where that is asked for."""
    from fluxmodel.data.measurement_pass import MeasurementPass, open_cache
    from fluxmodel.data.source_ledger import SourceLedger

    ledger = None if cache is None else SourceLedger(Path(cache), source.spec)
    with nullcontext() if cache is None else open_cache(cache) as kept:
        measuring = MeasurementPass(rules, kept)
        try:
            measuring.run(source, output, spool, tally, ledger, progress)
            found = ledger.finish(measuring.num_decoded) if ledger else None
        finally:
            if ledger is not None:
                ledger.abandon()
    if changes is not None and found is not None:
        found.write(changes)


def _asked_for(rules: CurationRules) -> list[str]:
    """Return the larger columns that a rule looks at; they are not read without it."""
    from fluxmodel.data.measurements import EMBEDDING, WORDS

    larger = {WORDS: rules.max_images_a_word, EMBEDDING: rules.max_similarity}
    return [name for name, limit in larger.items() if limit is not None]


def _score(
    models: Sequence[ScoringModel],
    spool: Spool,
    rules: CurationRules,
    output: Path,
    cache: str | Path | None,
    progress: Progress | None,
) -> dict[str, dict[str, Any]]:
    """Ask the models; torch is loaded where there is one."""
    if not models:
        return {}
    from fluxmodel.data.scoring_pass import score_images

    return score_images(models, spool, output, rules.max_pixels, cache, progress)


def _note_dropped(
    output: Path,
    measurements: pa.Table,
    decisions: Decisions,
    rules: CurationRules,
    tally: Tally,
) -> None:
    """Log all decisions and count the dropped images."""
    from fluxmodel.data.decision_log import log_decisions

    for failure in log_decisions(output, measurements, decisions, rules):
        tally.drop(failure.name, failure.reason, failure.detail)


def _images(spool: Spool, measurements: pa.Table, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Yield the encoded images of these rows that have pixels, a few in memory at a time."""
    has_pixels, places = _has_pixels(measurements), _places(measurements)
    row_of = {int(places[row]): row for row in sorted(rows) if has_pixels[row]}
    wanted = list(row_of)
    for start in range(0, len(wanted), _IMAGES_AT_ONCE):
        found = spool.images(wanted[start : start + _IMAGES_AT_ONCE])
        yield from ((row_of[place], image) for place, image in found.items())


def _has_pixels(measurements: pa.Table) -> np.ndarray:
    return measurements["refusal"].is_null().to_numpy()


def _places(measurements: pa.Table) -> np.ndarray:
    """Return the place in the spool of each row of the measurements that has pixels, int64 [n]."""
    import numpy as np

    return np.cumsum(_has_pixels(measurements)) - 1


def _test_mask(measurements: pa.Table, kept: np.ndarray, rules: CurationRules) -> np.ndarray:
    """Return which kept images are held out, bool [n]: a function of seed and pixels, never of order.

    A survivor stands for its whole group, so no two images of one group lie on both sides.
    """
    import numpy as np

    from fluxmodel.data.decisions import draws

    rows = np.flatnonzero(kept)
    places = np.full(len(kept), np.inf)
    places[rows] = draws(measurements["pixel_sha256"].take(rows), f"split {rules.seed} ")
    in_test = places < rules.test_fraction
    if rules.test_fraction > 0 and not in_test.any() and len(rows) >= _MIN_KEPT_FOR_A_TEST_IMAGE:
        in_test[np.argmin(places)] = True
    return in_test


def _write_shards(
    spool: Spool,
    measurements: pa.Table,
    kept: np.ndarray,
    in_test: np.ndarray,
    rules: CurationRules,
    output: Path,
) -> int:
    """Write the kept images with their usable captions and their split; return the number of shards."""
    import numpy as np
    import pyarrow as pa

    from fluxmodel.data.decisions import usable_captions
    from fluxmodel.data.measurements import caption_facts

    has_pixels = _has_pixels(measurements)
    kept, in_test = kept[has_pixels], in_test[has_pixels]
    usable = usable_captions(measurements, rules)[has_pixels[caption_facts(measurements)[0]]]
    writer, schema, first = ShardWriter(output), sample_schema(), 0
    captions_column = schema.get_field_index("captions")
    for start, batch in spool.batches():
        here = slice(start, start + batch.num_rows)
        num_captions = len(batch["captions"].flatten())
        columns = batch.columns
        columns[captions_column] = _only(batch["captions"], usable[first : first + num_captions])
        first += num_captions
        split = pa.array(np.where(in_test[here], "test", "train").tolist(), pa.string())
        chosen = pa.RecordBatch.from_arrays([*columns, split], schema=schema).filter(pa.array(kept[here]))
        if chosen.num_rows:
            writer.write(chosen)
    writer.close()
    return writer.num_shards


def _only(captions: pa.ListArray, usable: np.ndarray) -> pa.ListArray:
    """Return the lists without the captions that are not usable, bool [m] over all of them."""
    import numpy as np
    import pyarrow as pa

    if usable.all():
        return captions
    ends = np.cumsum(captions.value_lengths().to_numpy())
    before = np.concatenate([[0], np.cumsum(usable)])
    offsets = np.concatenate([[0], before[ends]]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), captions.flatten().filter(pa.array(usable)), type=captions.type
    )


def _report(source, rules, tally, skipped, partly, scored, kept, in_test, output) -> CurationReport:
    num_kept, num_test = int(kept.sum()), int(in_test.sum())
    assert tally.seen == num_kept + tally.num_dropped, "an image was lost or counted twice"
    return CurationReport(
        data=source.name,
        seen=tally.seen,
        kept=num_kept,
        dropped=tally.dropped_counts(),
        refused=tally.listed(),
        num_refused=tally.num_refused,
        problems=tally.problem_counts(),
        ignored_files=dict(sorted(getattr(source, "ignored", {}).items())),
        splits={"train": num_kept - num_test, "test": num_test},
        skipped_rules=skipped,
        partly_applied=partly,
        models=scored,
        image_size=rules.image_size,
        report=output / "report.html",
    )


def _write_record(
    report: CurationReport, rules: CurationRules, num_shards: int, told: Mapping[str, Any]
) -> dict[str, Any]:
    """Write curation.json, the last word on what the directory holds, and return it."""
    stands = {"rules": rules.model_dump(mode="json"), "num_shards": num_shards, "format": 1}
    record = {**asdict(report), **stands, **told}
    path: Path = record.pop("report")
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    aside = path.parent / f"{RECORD}.tmp"
    aside.write_text(text, encoding="utf-8")
    aside.replace(path.parent / RECORD)
    return record


def _nothing_to_train_sentence(source: Source, num_test: int, rules: CurationRules) -> str:
    held = "the one kept image is" if num_test == 1 else f"all {num_test} kept images are"
    return (
        f"--data {source.spec}: {held} held out by rules.test_fraction {rules.test_fraction}, and none is left to "
        "train on; add images, or lower rules.test_fraction."
    )


def _nothing_kept_sentence(source: Source, tally: Tally) -> str:
    first = next(iter(tally.listed()), None)
    said = f"{first.path} ({first.detail or first.reason})" if first else ""
    if not tally.seen:
        what = (
            "the table has no rows" if getattr(source, "kind", "") == "table" else "there is no image in it"
        )
        trouble = f"; the first trouble: {said}" if said else ""
        return f"--data {source.spec}: {what}{trouble}; name a source that holds images."
    counts = ", ".join(f"{count} {reason}" for reason, count in tally.dropped_counts().items())
    example = f"; the first: {said}" if said else ""
    return f"--data {source.spec}: none of the {tally.seen} images can be used ({counts}){example}."
