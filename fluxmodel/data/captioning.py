"""Captions for every image of a curated dataset, by a captioner, beside the original ones and with their provenance.

Nothing is overwritten: captions.parquet has a row for each text. A scene's own description (procedural data) is the
truth that captions are scored against; it stays in the dataset and never becomes a row, so nothing can learn from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.data.caption_report import HeldOutScenes, caption_report, held_out_scenes
from fluxmodel.data.caption_scores import shortened
from fluxmodel.data.curated_dataset import SPLITS, CuratedDataset
from fluxmodel.data.procedural import LEVELS, Level, Scene, parse_caption
from fluxmodel.encoders.captioner import Captioner, Written
from fluxmodel.errors import ArtifactError, InputError
from fluxmodel.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np

ROWS, REPORT, CARD, SHARD = "captions.parquet", "captions.json", "card.json", "written.json"
_UNSEEN = "unseen pairs"
TRUE_KINDS = ("detailed", "short")
"""Kinds in which a drawn scene describes itself."""
DERIVED = "derived"
UNPARSABLE, LOW_SCORE, EMPTY = "unparsable", "low_score", "empty"
_REVISION_FILES = ("manifest.json", "card.json")
NO_CAPTIONER = "no captioner was given, so the given captions are kept as they are"


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


DEFAULTS = CaptionSettings()


@dataclass(frozen=True)
class CaptionRow:
    """One text of one image and where it comes from; `model` is None where a person or the source wrote it."""

    id: str
    split: str
    text: str
    kind: str
    model: str | None = None
    revision: str | None = None
    prompt_hash: str | None = None
    tokens: int | None = None
    score: float | None = None
    flags: tuple[str, ...] = ()


def caption_dataset(
    dataset: str | Path,
    captioner: str | Path | None,
    output: str | Path,
    settings: CaptionSettings = DEFAULTS,
    progress: Progress = silent,
    shards: Sequence[str | Path] = (),
) -> dict[str, float]:
    """Caption both splits of a curated dataset into the existing directory `output`.

    Args:
        dataset: directory of a curated dataset.
        captioner: directory of an image-text-to-text model; None keeps the given captions.
        output: receives captions.parquet, captions.json (scores, errors, examples) and card.json (numbers alone).
        settings: how.
        progress: told after every batch.
        shards: directories that `caption_shard` wrote, all of them: the captions are taken from there, and are the
            same to the last digit, since a shard is made of whole batches.

    Returns:
        The numbers of card.json: `f1` of the captioner, `alt_f1` of the alt texts, `flagged`, ...

    Raises:
        ArtifactError: `dataset` is no curated dataset, or a batch is in none of the shards.
        InputError: `captioner` is no captioner.
    """
    source = CuratedDataset(dataset)
    level = level_of(source)
    writer: _Pen | _Shards | None = None
    if captioner is not None:
        writer = _Shards(shards) if shards else _Pen(captioner, settings)
    labels = _Labels(writer, captioner, level, settings)
    unseen = held_out_scenes(level, settings.num_held_out) if writer and level else None
    rows = [row for split in SPLITS for row in _originals(source, split)]
    if writer is not None:
        for batch, written in _written(writer, _batches(source, unseen, settings.batch_size), progress):
            if unseen is not None and batch.part == _UNSEEN:
                unseen.written.extend(written)
                continue
            for own, text in zip(batch.ids, written, strict=True):
                rows += labels.rows(own, batch.part, text)
    rows.sort(key=lambda row: SPLITS.index(row.split))  # a split's own captions, then what was written of it
    write_rows(rows, Path(output) / ROWS)
    report = caption_report(source, rows, unseen, labels.provenance)
    (Path(output) / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    card = {"kind": "captions", "metrics": report["metrics"]}
    (Path(output) / CARD).write_text(json.dumps(card, indent=2) + "\n")
    total = sum(source.num(split) for split in SPLITS) + (len(unseen.scenes) if unseen else 0)
    progress(total, total, "captioned")
    return report["metrics"]


def caption_shard(
    dataset: str | Path,
    captioner: str | Path,
    output: str | Path,
    shard: int,
    num_shards: int,
    settings: CaptionSettings = DEFAULTS,
    progress: Progress = silent,
) -> None:
    """Write what the captioner says of every `num_shards`-th batch from batch `shard` on, as written.json in `output`.

    Raises:
        ArtifactError: `dataset` is no curated dataset.
        InputError: `captioner` is no captioner.
    """
    source = CuratedDataset(dataset)
    level = level_of(source)
    pen = _Pen(captioner, settings)
    unseen = held_out_scenes(level, settings.num_held_out) if level else None
    batches = _batches(source, unseen, settings.batch_size)[shard::num_shards]
    said = {batch.number: written for batch, written in _written(pen, batches, progress)}
    told = {"captioner": pen.name, "prompt_hash": pen.prompt_hash, "prompt": pen.text, "batches": said}
    (Path(output) / SHARD).write_text(json.dumps(told) + "\n")


@dataclass(frozen=True)
class _Batch:
    """Images captioned at once: `part` is their split, or the scenes with unseen pairs; pixels [n, h, w, 3]."""

    number: int
    part: str
    ids: Sequence[str]
    pixels: np.ndarray


def _batches(source: CuratedDataset, unseen: HeldOutScenes | None, size: int) -> list[_Batch]:
    parts = [(split, source.ids(split), source.pixels(split)) for split in SPLITS]
    if unseen is not None:
        parts.append((_UNSEEN, [str(number) for number in range(len(unseen.scenes))], unseen.pixels))
    pieces = [
        (part, ids[start : start + size], pixels[start : start + size])
        for part, ids, pixels in parts
        for start in range(0, len(ids), size)
    ]
    return [_Batch(number, *piece) for number, piece in enumerate(pieces)]


def _written(
    writer: _Pen | _Shards, batches: Sequence[_Batch], progress: Progress
) -> Iterator[tuple[_Batch, list[Written]]]:
    done, total = 0, sum(len(batch.ids) for batch in batches)
    for batch in batches:
        yield batch, writer.write(batch)
        done += len(batch.ids)
        progress(done, total, "captioning images" if batch.part in SPLITS else f"captioning {batch.part}")


class _Pen:
    """A captioner at work."""

    def __init__(self, directory: str | Path, settings: CaptionSettings):
        self._captioner, self._batch_size = (
            Captioner.from_directory(directory, settings.prompt),
            settings.batch_size,
        )
        self.name, self.prompt_hash, self.text = (
            self._captioner.name,
            self._captioner.prompt_hash,
            self._captioner.text,
        )

    def write(self, batch: _Batch) -> list[Written]:
        """Caption a batch."""
        return self._captioner.caption(torch.from_numpy(batch.pixels).permute(0, 3, 1, 2), self._batch_size)


class _Shards:
    """What captioners wrote elsewhere.

    Raises:
        ArtifactError: a directory holds no shard.
    """

    def __init__(self, directories: Sequence[str | Path]):
        self._batches: dict[int, list[Written]] = {}
        for directory in directories:
            try:
                told = json.loads((Path(directory) / SHARD).read_text())
                self.name, self.prompt_hash, self.text = (
                    told[k] for k in ("captioner", "prompt_hash", "prompt")
                )
                for number, written in told["batches"].items():
                    self._batches[int(number)] = [Written(*each) for each in written]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ArtifactError(
                    f"{directory}: no shard of captions there ({error}); caption again."
                ) from error

    def write(self, batch: _Batch) -> list[Written]:
        """Return what was written of a batch.

        Raises:
            ArtifactError: it is in no shard.
        """
        written = self._batches.get(batch.number, [])
        if len(written) != len(batch.ids):
            raise ArtifactError(
                f"The shards hold {len(written)} captions of batch {batch.number}, which has {len(batch.ids)} images; "
                "caption again."
            )
        return written


class _Labels:
    """Makes rows of what a captioner wrote."""

    def __init__(
        self,
        writer: _Pen | _Shards | None,
        directory: str | Path | None,
        level: Level | None,
        settings: CaptionSettings,
    ):
        self.level = level
        self.limit = settings.low_score if settings.low_score is not None else (-0.05 if level else -2.0)
        self.provenance: dict[str, str | float | None] = {"captioner": None, "reason": NO_CAPTIONER}
        if writer is not None and directory is not None:
            self.provenance = {
                "captioner": writer.name,
                "revision": revision_of(directory),
                "prompt_hash": writer.prompt_hash,
                "prompt": writer.text,
                "low_score": self.limit,
            }

    def rows(self, own: str, split: str, written: Written) -> Iterator[CaptionRow]:
        """Yield the detailed caption, flagged where it has to be, and the short one made of it."""
        flags = tuple(self._flags(written))
        name, revision, prompt = (str(self.provenance[k]) for k in ("captioner", "revision", "prompt_hash"))
        score = round(written.score, 4)
        yield CaptionRow(
            own, split, written.text, "detailed", name, revision, prompt, written.num_tokens, score, flags
        )
        short = shortened(written.text, self.level) if self.level else None
        if short is not None:
            words = len(short.split())
            yield CaptionRow(
                own, split, short, "short", f"{name}+{DERIVED}", revision, prompt, words, score, flags
            )

    def _flags(self, written: Written) -> Iterator[str]:
        if not written.text:
            yield EMPTY
        elif self.level and not _parses(written.text, self.level):
            yield UNPARSABLE
        if written.score < self.limit:
            yield LOW_SCORE


def level_of(source: CuratedDataset) -> Level | None:
    """Return the level of drawn scenes; None where nobody knows what the images show."""
    scenes = next((s for split in SPLITS for s in source.scenes(split)[:1]), None)
    return LEVELS[Scene.from_json(scenes).level] if scenes else None


def revision_of(directory: str | Path) -> str:
    """Return a digest over the files of a captioner's directory.

    Raises:
        InputError: there is no captioner.
    """
    if not (Path(directory) / "config.json").is_file():
        raise InputError(
            f"{directory}: no config.json there; name the directory of an image-text-to-text model of transformers"
        )
    digest = hashlib.sha256()
    for path in sorted(
        p for p in Path(directory).rglob("*") if p.is_file() and p.name not in _REVISION_FILES
    ):
        digest.update(f"{path.relative_to(directory).as_posix()}\0".encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def write_rows(rows: Sequence[CaptionRow], path: Path) -> None:
    """Write the table of captions; equal rows give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, texts = pa.string(), pa.list_(pa.string())
    types = {"tokens": pa.int32(), "score": pa.float64(), "flags": texts}
    schema = pa.schema([(name, types.get(name, text)) for name in CaptionRow.__dataclass_fields__])
    table = pa.Table.from_pylist([{**asdict(row), "flags": list(row.flags)} for row in rows], schema)
    pq.write_table(table, path, compression="zstd")


def read_rows(directory: str | Path, split: str | None = None) -> list[CaptionRow]:
    """Read the captions of a directory that `caption_dataset` wrote.

    Raises:
        ArtifactError: there are none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(Path(directory) / ROWS).to_pylist()
        every = [CaptionRow(**{**row, "flags": tuple(row["flags"])}) for row in rows]
    except (OSError, pa.ArrowInvalid, TypeError, KeyError) as error:
        raise ArtifactError(
            f"{directory}: no captions can be read there ({error}); caption again."
        ) from error
    return [row for row in every if split in (None, row.split)]


def trainable_captions(rows: Sequence[CaptionRow], ids: Sequence[str]) -> list[list[CaptionRow]]:
    """Return of every id the captions to learn from, newest of a kind last.

    A text that cannot be read, or none, is left out where the image has another.
    """
    by_id: dict[str, list[CaptionRow]] = {own: [] for own in ids}
    for row in rows:
        if row.id in by_id and row.text:
            by_id[row.id].append(row)
    return [
        [row for row in own if UNPARSABLE not in row.flags] or own for own in (by_id[name] for name in ids)
    ]


def _originals(source: CuratedDataset, split: str) -> Iterator[CaptionRow]:
    """Yield the captions that came with the images, except what a drawn scene says of itself."""
    for own, scene, captions in zip(
        source.ids(split), source.scenes(split), source.captions(split), strict=True
    ):
        for caption in captions:
            if scene is None or caption.kind not in TRUE_KINDS:
                yield CaptionRow(own, split, caption.text, caption.kind, caption.model)


def _parses(text: str, level: Level) -> bool:
    try:
        parse_caption(text, level)
    except InputError:
        return False
    return True
