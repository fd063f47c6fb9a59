"""The pass of the models over what could be decoded: it fills their columns of measurements.parquet.

A score is kept by the pixels, the caption where it is of both, and the model's files: what was scored is not scored
again, nor decoded for it. An image that a model cannot score has no number and is counted; too many fail the stage.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fluxmodel.data.measurements import EMBEDDING, MEASUREMENTS, measurement_schema
from fluxmodel.data.scoring_models import BATCH, ScoringModel
from fluxmodel.errors import StageError

if TYPE_CHECKING:
    import pyarrow as pa

    from fluxmodel.data.content_cache import ContentCache
    from fluxmodel.data.image_scorers import ImageScorer
    from fluxmodel.data.spool import Spool

Progress = Callable[[int, int, str], None]
_MAX_FAILED_SHARE = 0.01
"""Of all images; one image may fail wherever."""


@dataclass
class Scored:
    """What one model did.

    Attributes:
        revision: digest of its files.
        labels: of a classifier, those whose probabilities were added.
        scored: images that have a number.
        failed: images it could not score.
        first_failure: of them, in words.
    """

    revision: str
    labels: tuple[str, ...] = ()
    scored: int = 0
    failed: int = 0
    first_failure: str = ""


def score_images(
    models: Sequence[ScoringModel],
    spool: Spool,
    output: Path,
    max_pixels: int,
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Score every spooled image by every model, and write the numbers into measurements.parquet of `output`.

    Args:
        models: each fills another column.
        spool: the images with pixels, in the order of the rows that have no refusal.
        output: the dataset being made.
        max_pixels: limit of the decoder.
        cache: folder of all caches.
        progress: gets images done, images in all, and a word.

    Returns:
        What each model did, by column; plain JSON.

    Raises:
        InputError: a model cannot be read.
        StageError: a model fails on more than one image in a hundred, or gives no finite number.
    """
    with ExitStack() as stack:
        may_fail = max(1, int(_MAX_FAILED_SHARE * spool.num_images))
        passes = [stack.enter_context(_ModelPass(model, cache, may_fail)) for model in models]
        columns = {
            each.model.column: stack.enter_context(_Column(output, each.model.column)) for each in passes
        }
        total = spool.num_images
        for start, batch in spool.batches():
            images = _Images(batch, max_pixels)
            for each in passes:
                columns[each.model.column].add(each.run(images))
            if progress:
                progress(min(start + batch.num_rows, total), total, "scored")
        _fill(output / MEASUREMENTS, columns)
    return {each.model.column: asdict(each.done) for each in passes}


class _Images:
    """One batch of the spool; an image is decoded when a model wants it."""

    def __init__(self, batch: pa.RecordBatch, max_pixels: int):
        self._bytes = batch["image"].field("bytes")
        self._max_pixels = max_pixels
        self.ids = batch["id"].to_pylist()
        self.digests = batch["pixel_sha256"].to_pylist()
        self.captions = [_first_text(each) for each in batch["captions"].to_pylist()]

    def __len__(self) -> int:
        return len(self.ids)

    def pixels(self, place: int) -> np.ndarray:
        """Decode one, uint8 RGB [h, w, 3]."""
        from fluxmodel.data.decode import decode

        return decode(self._bytes[place].as_py(), self._max_pixels)


class _ModelPass:
    """One model over all images; it is loaded when it meets an image whose score is not kept."""

    def __init__(self, model: ScoringModel, cache: str | Path | None, may_fail: int):
        self.model, self._may_fail = model, may_fail
        self.done = Scored(model.revision, model.labels)
        self._cache = None if cache is None else _open_cache(model, cache)

    def __enter__(self) -> _ModelPass:
        return self

    def __exit__(self, *_: object) -> None:
        if self._cache is not None:
            self._cache.close()

    @cached_property
    def _scorer(self) -> ImageScorer:
        from fluxmodel.data.image_scorers import open_scorer

        return open_scorer(self.model)

    @property
    def _reads_captions(self) -> bool:
        return self.model.column == "agreement"

    def run(self, images: _Images) -> list[bytes | None]:
        """Return the score of each image as the column holds it, None where there is none."""
        found: list[bytes | None] = [None] * len(images)
        waiting = []
        for place in range(len(images)):
            if self._reads_captions and not images.captions[place]:
                continue
            value = self._kept(self._key(images, place))
            if value is None:
                waiting.append(place)
            else:
                found[place] = value
        for start in range(0, len(waiting), BATCH):
            self._score(images, waiting[start : start + BATCH], found)
        if self._cache is not None and waiting:
            self._cache.flush()
        self.done.scored += len(found) - found.count(None)
        self._require_few_failures()
        return found

    def _score(self, images: _Images, places: Sequence[int], found: list[bytes | None]) -> None:
        """Score some images; where that fails its halves, down to the image whose own failure it is."""
        from fluxmodel.data.caption_writers import is_out_of_memory
        from fluxmodel.errors import InputError

        scorer = self._scorer
        try:
            prepared = [scorer.prepare(images.pixels(place)) for place in places]
            scores = scorer.score(prepared, [images.captions[place] for place in places])
        except InputError:
            raise
        except Exception as error:  # whatever a processor or a network says of one image concerns that image
            if len(places) == 1 and is_out_of_memory(error):
                raise StageError(
                    f"models.{self.model.column}: there is no memory to score a single image; free some and run again."
                ) from error
            if len(places) == 1:
                self._note_failure(images.ids[places[0]], error)
                return
            half = len(places) // 2
            self._score(images, places[:half], found)
            self._score(images, places[half:], found)
            return
        for place, score in zip(places, scores, strict=True):
            if not np.isfinite(score).all():
                raise StageError(
                    f"models.{self.model.column} gives image {images.ids[place]!r} the score {score}; "
                    "use another model."
                )
            found[place] = value = np.asarray(score, _type_of(self.model.column)).tobytes()
            if self._cache is not None:
                self._cache.put(self._key(images, place), value)

    def _note_failure(self, name: str, error: Exception) -> None:
        self.done.failed += 1
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        self.done.first_failure = self.done.first_failure or f"{name}: {said}"

    def _require_few_failures(self) -> None:
        if self.done.failed > self._may_fail:
            raise StageError(
                f"models.{self.model.column} failed on {self.done.failed} images, {self._may_fail} may fail (the "
                f"first: {self.done.first_failure}). What was scored is kept: mend the model, or "
                "leave it out, and run again."
            )

    def _key(self, images: _Images, place: int) -> str:
        caption = images.captions[place] if self._reads_captions else ""
        return hashlib.sha256(f"{images.digests[place]}\0{caption}".encode()).hexdigest()

    def _kept(self, key: str) -> bytes | None:
        return None if self._cache is None else self._cache.get(key)


def _open_cache(model: ScoringModel, cache: str | Path) -> ContentCache:
    from importlib.metadata import version

    from fluxmodel.data.content_cache import ContentCache
    from fluxmodel.data.image_measures import recipe

    # The recipe of the measures stands for the decoder; the scorers' own code is beside it.
    package = Path(__file__).parents[1]
    parts = ("data/image_scorers.py", "encoders/dual_encoder.py", "pixels.py")
    code = b"".join((package / part).read_bytes() for part in parts)
    return ContentCache(
        cache,
        {
            "name": "scores",
            **model.semantic(),
            "decoder": recipe()["code"],
            "code": hashlib.sha256(code).hexdigest(),
            **{name: version(name) for name in ("torch", "transformers", "tokenizers", "pillow", "numpy")},
        },
    )


def _first_text(captions: Sequence[dict[str, str]] | None) -> str:
    return next((each["text"] for each in captions or () if each["text"]), "")


class _Column:
    """The values of one column for all images, on the disk until they are written: vectors take a KB each."""

    def __init__(self, folder: Path, name: str):
        self._path, self._name = folder / f".{name}.values", name
        self._file = self._path.open("w+b")
        self._sizes: list[np.ndarray] = []
        self._next = 0

    def __enter__(self) -> _Column:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def add(self, values: Sequence[bytes | None]) -> None:
        """Append the values of some images."""
        self._sizes.append(np.array([-1 if value is None else len(value) for value in values], np.int32))
        self._file.write(b"".join(value for value in values if value is not None))

    def rewind(self) -> None:
        """Begin to give back."""
        self._sizes = [np.concatenate(self._sizes)] if self._sizes else [np.empty(0, np.int32)]
        self._file.seek(0)

    def take(self, has_pixels: np.ndarray) -> pa.Array:
        """Return the next rows of the table, null where there is no value."""
        import pyarrow as pa

        sizes = np.full(len(has_pixels), -1, np.int32)
        num = int(has_pixels.sum())
        sizes[has_pixels] = self._sizes[0][self._next : self._next + num]
        self._next += num
        has_value = sizes >= 0
        ends = np.concatenate([[0], np.cumsum(np.where(has_value, sizes, 0))])
        data = self._file.read(int(ends[-1]))
        if self._name == EMBEDDING:
            pieces = [data[start:end] for start, end in pairwise(ends)]
            return pa.array(pieces, pa.binary(), mask=~has_value)
        column = np.zeros(len(sizes), np.float32)
        column[has_value] = np.frombuffer(data, np.float32)
        return pa.array(column, mask=~has_value)


def _type_of(column: str) -> type[np.floating]:
    return np.float16 if column == EMBEDDING else np.float32


def _fill(path: Path, columns: dict[str, _Column]) -> None:
    """Write the columns, one row group at a time; the file is replaced when it is whole."""
    import pyarrow.parquet as pq

    schema, whole = measurement_schema(), path.with_suffix(".scored")
    for column in columns.values():
        column.rewind()
    with pq.ParquetFile(path) as file, pq.ParquetWriter(whole, schema, compression="zstd") as writer:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number)
            has_pixels = table["refusal"].is_null().to_numpy()
            for name, column in columns.items():
                place = schema.get_field_index(name)
                table = table.set_column(place, schema.field(name), column.take(has_pixels))
            writer.write_table(table)
    os.replace(whole, path)
