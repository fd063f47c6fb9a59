"""The pass of the models over what could be decoded: it fills their columns of measurements.parquet.

A score is kept by the pixels, the caption where it is of both, and the model's files: what was scored is not scored
again, nor decoded for it. An image that a model cannot score has no number and is counted; too many fail the stage.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fluxmodel.data.measurements import MEASUREMENTS, measurement_schema
from fluxmodel.data.scoring_models import ScoringModel
from fluxmodel.errors import StageError

if TYPE_CHECKING:
    import pyarrow as pa

    from fluxmodel.data.content_cache import ContentCache
    from fluxmodel.data.image_scorers import ImageScorer
    from fluxmodel.data.spool import Spool

Progress = Callable[[int, int, str], None]
_SCORE = struct.Struct("<f")
_MAX_FAILED_SHARE, _MAY_ALWAYS_FAIL = 0.01, 1


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
        passes = [stack.enter_context(_ModelPass(model, cache)) for model in models]
        values = {each.model.column: [] for each in passes}
        total = spool.num_images
        for start, batch in spool.batches():
            images = _Images(batch, max_pixels)
            for each in passes:
                values[each.model.column].append(each.run(images))
            if progress:
                progress(min(start + batch.num_rows, total), total, "scored")
    _fill(output / MEASUREMENTS, {name: np.concatenate(found) for name, found in values.items() if found})
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

    def __init__(self, model: ScoringModel, cache: str | Path | None):
        self.model = model
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

    def run(self, images: _Images) -> np.ndarray:
        """Return the score of each image, float32 [n], nan where there is none."""
        found = np.full(len(images), np.nan, np.float32)
        waiting = []
        for place in range(len(images)):
            if self._reads_captions and not images.captions[place]:
                continue
            value = self._kept(self._key(images, place))
            if value is None:
                waiting.append(place)
            else:
                found[place] = value
        from fluxmodel.data.image_scorers import BATCH

        for start in range(0, len(waiting), BATCH):
            self._score(images, waiting[start : start + BATCH], found)
        if self._cache is not None and waiting:
            self._cache.flush()
        self.done.scored += int(np.isfinite(found).sum())
        self._require_few_failures(len(images))
        return found

    def _score(self, images: _Images, places: Sequence[int], found: np.ndarray) -> None:
        """Score some images; where that fails its halves, down to the image whose own failure it is."""
        from fluxmodel.errors import InputError

        scorer = self._scorer
        try:
            prepared = [scorer.prepare(images.pixels(place)) for place in places]
            scores = scorer.score(prepared, [images.captions[place] for place in places])
        except InputError:
            raise
        except Exception as error:  # whatever a processor or a network says of one image concerns that image
            if len(places) == 1:
                self._note_failure(images.ids[places[0]], error)
                return
            half = len(places) // 2
            self._score(images, places[:half], found)
            self._score(images, places[half:], found)
            return
        for place, score in zip(places, scores, strict=True):
            if not math.isfinite(score):
                raise StageError(
                    f"models.{self.model.column} gives image {images.ids[place]!r} the score {score}; "
                    "use another model."
                )
            found[place] = score
            if self._cache is not None:
                self._cache.put(self._key(images, place), _SCORE.pack(score))

    def _note_failure(self, name: str, error: Exception) -> None:
        self.done.failed += 1
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        self.done.first_failure = self.done.first_failure or f"{name}: {said}"

    def _require_few_failures(self, num_here: int) -> None:
        seen = self.done.scored + self.done.failed
        if self.done.failed > max(_MAY_ALWAYS_FAIL, _MAX_FAILED_SHARE * seen):
            raise StageError(
                f"models.{self.model.column} failed on {self.done.failed} of {seen} images (the first: "
                f"{self.done.first_failure}). What was scored is kept: mend the model, or leave it out, and run again."
            )

    def _key(self, images: _Images, place: int) -> str:
        caption = images.captions[place] if self._reads_captions else ""
        return hashlib.sha256(f"{images.digests[place]}\0{caption}".encode()).hexdigest()

    def _kept(self, key: str) -> float | None:
        value = None if self._cache is None else self._cache.get(key)
        return _SCORE.unpack(value)[0] if value is not None and len(value) == _SCORE.size else None


def _open_cache(model: ScoringModel, cache: str | Path) -> ContentCache:
    from importlib.metadata import version

    from fluxmodel.data.content_cache import ContentCache
    from fluxmodel.data.image_measures import recipe

    # The recipe of the measures stands for the decoder; the scorers' own code is beside it.
    code = Path(__file__).with_name("image_scorers.py").read_bytes()
    return ContentCache(
        cache,
        {
            "name": "scores",
            **model.semantic(),
            "decoder": recipe()["code"],
            "code": hashlib.sha256(code).hexdigest(),
            **{name: version(name) for name in ("torch", "transformers", "pillow", "numpy")},
        },
    )


def _first_text(captions: Sequence[dict[str, str]] | None) -> str:
    return next((each["text"] for each in captions or () if each["text"]), "")


def _fill(path: Path, values: dict[str, np.ndarray]) -> None:
    """Write the columns, one row group at a time; the file is replaced when it is whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, start, whole = measurement_schema(), 0, path.with_suffix(".scored")
    with pq.ParquetFile(path) as file, pq.ParquetWriter(whole, schema, compression="zstd") as writer:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number)
            has_pixels = table["refusal"].is_null().to_numpy()
            end = start + int(has_pixels.sum())
            for name, scores in values.items():
                column = np.full(table.num_rows, np.nan, np.float32)
                column[has_pixels] = scores[start:end]
                place = schema.get_field_index(name)
                table = table.set_column(place, schema.field(name), pa.array(column, mask=np.isnan(column)))
            writer.write_table(table)
            start = end
    os.replace(whole, path)
