"""Captions for every image of a curated dataset, by a captioner, beside the original ones and with their provenance.

Nothing is overwritten: captions.parquet has a row for each text. A scene's own description (procedural data) is the
truth that captions are scored against; it stays in the dataset and never becomes a row, so nothing can learn from it.
What is written is kept at once (`kept_captions`); one image's failure is that image's alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.data.caption_agreement import Agreement
from fluxmodel.data.caption_labels import Labels
from fluxmodel.data.caption_page import Selection, write_page
from fluxmodel.data.caption_report import HeldOutScenes, caption_report, held_out_scenes
from fluxmodel.data.caption_rows import ROWS, CaptionRow, write_rows
from fluxmodel.data.caption_writers import CaptionFailure, Result, open_writer
from fluxmodel.data.curated_dataset import SPLITS, CuratedDataset
from fluxmodel.data.kept_captions import FailureBudget, KeptCaptions, result_of, told_of
from fluxmodel.data.procedural import LEVELS, Level, Scene
from fluxmodel.encoders.captioner import Written
from fluxmodel.errors import ArtifactError
from fluxmodel.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np

REPORT, CARD, PAGE, SHARD = "captions.json", "card.json", "captions.html", "written.json"
_UNSEEN = "unseen pairs"
TRUE_KINDS = ("detailed", "short")
"""Kinds in which a drawn scene describes itself."""
NO_CAPTIONER = "no captioner was given, so the given captions are kept as they are"
_FAILURES_TOLD = 100
"""Failures that captions.json names; all are counted."""


class CaptionSettings(BaseModel):
    """How images are captioned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int = Field(default=250, gt=0, description="Images captioned at once.")
    prompt: str | None = Field(
        default=None, description="What to ask; by default what the captioner expects."
    )
    low_score: float | None = Field(
        default=None,
        description="Mean log-probability below which a caption is flagged; by default -0.05 where the words are those "
        "of drawn scenes (a third of the wrong captions and 3 % of the right lie below), and -2 elsewhere.",
    )
    num_held_out: int = Field(
        default=500, ge=0, description="Fresh scenes with unseen pairs it is judged on."
    )
    max_failed_share: float = Field(
        default=0.05, ge=0, le=1, description="Share of the images that may fail before the stage does."
    )
    max_failed: int = Field(default=1000, ge=0, description="Images that may fail, however many there are.")
    clip_tokenizer: str | None = Field(
        default=None,
        description="Directory of CLIP's tokenizer; by default lengths are estimated from words.",
    )
    t5_tokenizer: str | None = Field(
        default=None, description="Directory of T5's tokenizer; by default lengths are estimated from words."
    )


DEFAULTS = CaptionSettings()


def caption_dataset(
    dataset: str | Path,
    captioner: str | Path | None,
    output: str | Path,
    settings: CaptionSettings = DEFAULTS,
    progress: Progress = silent,
    shards: Sequence[str | Path] = (),
    cache: str | Path | None = None,
    dual_encoder: str | Path | None = None,
) -> dict[str, float]:
    """Caption both splits of a curated dataset into the existing directory `output`.

    Args:
        dataset: directory of a curated dataset.
        captioner: directory of an image-text-to-text model, or the address of an endpoint
            (`http://HOST:PORT/v1?model=NAME`); None keeps the given captions.
        output: receives captions.parquet, captions.json (scores, flags, failures, examples), captions.html (old and new
            side by side) and card.json (numbers alone).
        settings: how.
        progress: told after every batch.
        shards: directories that `caption_shard` wrote, all of them: the captions are taken from there, and are the
            same to the last digit, since a shard is made of whole batches.
        cache: folder of all caches, where captions are kept as soon as they are written, and decoded images; None
            keeps none.
        dual_encoder: directory of a CLIP that compares new captions with the old; None compares nothing.

    Returns:
        The numbers of card.json: `f1` of the captioner, `alt_f1` of the alt texts, `flagged`, ...

    Raises:
        ArtifactError: `dataset` is no curated dataset, or a batch is in none of the shards.
        InputError: `captioner` is no captioner, or an endpoint refuses as a whole.
        StageError: too many images failed; what was written is kept.
    """
    source = CuratedDataset(dataset, cache)
    level = level_of(source)
    unseen = held_out_scenes(level, settings.num_held_out) if captioner is not None and level else None
    total = sum(_sizes(source, unseen, settings.batch_size))
    rows = [row for split in SPLITS for row in _originals(source, split)]
    report: dict[str, Any] = {}
    page = Selection()
    provenance: dict[str, Any] = {"captioner": None, "reason": NO_CAPTIONER}
    if captioner is not None:
        budget = FailureBudget(total, settings.max_failed_share, settings.max_failed)
        pen = _Shards(shards, budget) if shards else _Pen(captioner, settings, cache, budget)
        labels = Labels(pen.identity, level, settings)
        desk = _Desk(rows, labels, Agreement(dual_encoder) if dual_encoder is not None else None, page)
        for batch, results in _written(pen, _batches(source, unseen, settings.batch_size), total, progress):
            if unseen is not None and batch.part == _UNSEEN:
                unseen.written += [r if isinstance(r, Written) else Written("", None, None) for r in results]
            else:
                desk.take(batch, results)
        rows, provenance, report = desk.rows(), labels.provenance, desk.told()
    rows.sort(key=lambda row: SPLITS.index(row.split))  # a split's own captions, then what was written of it
    write_rows(rows, Path(output) / ROWS)
    report = caption_report(source, rows, unseen, provenance) | report
    report["metrics"]["num_failed"] = float(report.get("failures", {}).get("num", 0))
    _write_report(Path(output), report, page if captioner is not None else None)
    progress(total, total, "captioned")
    return report["metrics"]


def _write_report(output: Path, report: dict[str, Any], page: Selection | None) -> None:
    (output / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    if page is not None:
        write_page(output / PAGE, report, page)
    card = {"kind": "captions", "metrics": report["metrics"]}
    (output / CARD).write_text(json.dumps(card, indent=2) + "\n")


def caption_shard(
    dataset: str | Path,
    captioner: str | Path,
    output: str | Path,
    shard: int,
    num_shards: int,
    settings: CaptionSettings = DEFAULTS,
    progress: Progress = silent,
    cache: str | Path | None = None,
) -> None:
    """Write what the captioner says of every `num_shards`-th batch from batch `shard` on, as written.json in `output`.

    Raises:
        ArtifactError: `dataset` is no curated dataset.
        InputError: `captioner` is no captioner, or an endpoint refuses as a whole.
        StageError: too many images of the shard failed; what was written is kept.
    """
    source = CuratedDataset(dataset, cache)
    level = level_of(source)
    unseen = held_out_scenes(level, settings.num_held_out) if level else None
    total = sum(_sizes(source, unseen, settings.batch_size)[shard::num_shards])
    budget = FailureBudget(total, settings.max_failed_share, settings.max_failed)
    pen = _Pen(captioner, settings, cache, budget)
    batches = _batches(source, unseen, settings.batch_size, shard, num_shards)
    said = {
        batch.number: [told_of(result) for result in results]
        for batch, results in _written(pen, batches, total, progress)
    }
    (Path(output) / SHARD).write_text(json.dumps({"writer": pen.identity, "batches": said}) + "\n")


@dataclass(frozen=True)
class _Batch:
    """Images captioned at once: `part` is their split, or the scenes with unseen pairs; pixels [n, h, w, 3]."""

    number: int
    part: str
    ids: Sequence[str]
    pixels: np.ndarray


def _sizes(source: CuratedDataset, unseen: HeldOutScenes | None, size: int) -> list[int]:
    """Return how many images each batch has."""
    parts = [source.num(split) for split in SPLITS] + ([len(unseen.scenes)] if unseen else [])
    return [min(size, num - start) for num in parts for start in range(0, num, size)]


def _batches(
    source: CuratedDataset, unseen: HeldOutScenes | None, size: int, shard: int = 0, num_shards: int = 1
) -> Iterator[_Batch]:
    """Yield every `num_shards`-th batch; one of them is in memory at a time."""
    import numpy as np

    parts = [(split, source.ids(split), source.iter_pixels(split)) for split in SPLITS]
    if unseen is not None:
        names = [str(number) for number in range(len(unseen.scenes))]
        parts.append((_UNSEEN, names, iter(unseen.pixels)))
    number = 0
    for part, ids, images in parts:
        for start in range(0, len(ids), size):
            pixels = list(islice(images, size))
            if number % num_shards == shard:
                yield _Batch(number, part, ids[start : start + size], np.stack(pixels))
            number += 1


def _written(
    pen: _Pen | _Shards, batches: Iterator[_Batch], total: int, progress: Progress
) -> Iterator[tuple[_Batch, list[Result]]]:
    done = 0
    try:
        for batch in batches:
            yield batch, pen.write(batch)
            done += len(batch.ids)
            progress(done, total, "captioning images" if batch.part in SPLITS else f"captioning {batch.part}")
    finally:
        pen.close()


class _Pen:
    """A captioner at work."""

    def __init__(
        self,
        captioner: str | Path,
        settings: CaptionSettings,
        cache: str | Path | None,
        budget: FailureBudget,
    ):
        writer = open_writer(captioner, settings.prompt, settings.batch_size)
        self.identity = {
            "captioner": writer.name,
            "revision": writer.revision,
            "revision_is": writer.content,
            "prompt_hash": writer.prompt_hash,
            "prompt": writer.text,
        }
        self._kept = KeptCaptions(writer, cache, budget)

    def write(self, batch: _Batch) -> list[Result]:
        """Caption a batch."""
        return self._kept.write(batch.pixels, batch.ids)

    def close(self) -> None:
        self._kept.close()


class _Shards:
    """What captioners wrote elsewhere.

    Raises:
        ArtifactError: a directory holds no shard.
    """

    def __init__(self, directories: Sequence[str | Path], budget: FailureBudget):
        self._batches: dict[int, list[Result]] = {}
        self._budget = budget
        budget.note_kept()  # nobody is asked here, so nobody can be gone
        self.identity: dict[str, Any] = {}
        for directory in directories:
            try:
                told = json.loads((Path(directory) / SHARD).read_text())
                self.identity = dict(told["writer"])
                for number, results in told["batches"].items():
                    self._batches[int(number)] = [result_of(each) for each in results]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ArtifactError(
                    f"{directory}: no shard of captions there ({error}); caption again."
                ) from error

    def write(self, batch: _Batch) -> list[Result]:
        """Return what was written of a batch.

        Raises:
            ArtifactError: it is in no shard.
        """
        results = self._batches.get(batch.number, [])
        if len(results) != len(batch.ids):
            raise ArtifactError(
                f"The shards hold {len(results)} captions of batch {batch.number}, which has {len(batch.ids)} images; "
                "caption again."
            )
        self._budget.note(results)
        return results

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class _Desk:
    """Where captions come in, batch by batch, and become rows beside the originals."""

    originals: list[CaptionRow]
    labels: Labels
    agreement: Agreement | None
    page: Selection
    _new: list[CaptionRow] = field(default_factory=list)
    _failed: list[dict[str, str]] = field(default_factory=list)
    _reasons: Counter[str] = field(default_factory=Counter)
    _old: dict[tuple[str, str], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._first: dict[tuple[str, str], str] = {}
        for row in self.originals:
            self._first.setdefault((row.split, row.id), row.text)

    def take(self, batch: _Batch, results: Sequence[Result]) -> None:
        """Take the captions of a batch."""
        old = [self._first.get((batch.part, own)) for own in batch.ids]
        new = [result.text if isinstance(result, Written) else "" for result in results]
        theirs, ours = (
            self.agreement.of(batch.pixels, texts) if self.agreement else [None] * len(new)
            for texts in ([text or "" for text in old], new)
        )
        for i, (own, result) in enumerate(zip(batch.ids, results, strict=True)):
            before, after = theirs[i], ours[i]
            if before is not None and old[i]:
                self._old[batch.part, own] = before
            if isinstance(result, CaptionFailure):
                self._reasons[result.reason] += 1
                if len(self._failed) < _FAILURES_TOLD:
                    self._failed.append({"id": own, "reason": result.reason, "detail": result.detail})
                self.page.note_failure(own, batch.pixels[i], old[i], result)
                continue
            rows = list(self.labels.rows(own, batch.part, result, before if old[i] else None, after))
            self._new += rows
            self.page.note(rows[0], batch.pixels[i], old[i], self._old.get((batch.part, own)))

    def rows(self) -> list[CaptionRow]:
        """Return the originals, the first of each image with its agreement, and then the new rows."""
        left, old = dict(self._old), []
        for row in self.originals:
            agreement = left.pop((row.split, row.id), None)
            old.append(row if agreement is None else replace(row, agreement=round(agreement, 4)))
        return old + self._new

    def told(self) -> dict[str, Any]:
        """Return failures, lengths and agreement as JSON."""
        failures = {"num": self._reasons.total(), "reasons": dict(self._reasons), "images": self._failed}
        told: dict[str, Any] = {"failures": failures, "lengths": self.labels.tokens.told()}
        ours = [r.agreement for r in self._new if r.kind == "detailed" and r.agreement is not None]
        if ours and self._old:
            theirs = list(self._old.values())
            told["agreement"] = {"new": sum(ours) / len(ours), "old": sum(theirs) / len(theirs)}
        return told


def level_of(source: CuratedDataset) -> Level | None:
    """Return the level of drawn scenes; None where nobody knows what the images show."""
    scenes = next((s for split in SPLITS for s in source.scenes(split)[:1]), None)
    return LEVELS[Scene.from_json(scenes).level] if scenes else None


def _originals(source: CuratedDataset, split: str) -> Iterator[CaptionRow]:
    """Yield the captions that came with the images, except what a drawn scene says of itself."""
    for own, scene, captions in zip(
        source.ids(split), source.scenes(split), source.captions(split), strict=True
    ):
        for caption in captions:
            if scene is None or caption.kind not in TRUE_KINDS:
                yield CaptionRow(own, split, caption.text, caption.kind, caption.model)
