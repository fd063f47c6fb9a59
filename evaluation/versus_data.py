"""What two versions learned from: images added, removed and captioned anew, found by content and not by name.

An image is the same where its pixels are (`pixel_sha256`), so a renamed file is no change, and a file replaced under
its old name is one image removed and one added. Its captions are those that training may pick from: the dataset's own
and those of the caption stage.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.errors import ArtifactError

NUM_SHOWN = 12
_COLUMNS = ["id", "pixel_sha256", "split", "captions"]


@dataclass(frozen=True)
class Learned:
    """What a version learned from: directories of the curated dataset and of its captions."""

    dataset: Path
    captions: Path | None = None


class ShownImage(BaseModel):
    """One of the images that a change is shown by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    png: str = Field(description="Base64 of a PNG.")
    old: str = Field(default="", description="A caption it had; empty where it was not there.")
    new: str = Field(default="", description="The caption in its place.")


class DataChange(BaseModel):
    """How the data differ; counts are exact, `shown` is the first few of each kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_old: int
    num_new: int
    added: int
    removed: int
    replaced: int = Field(description="Of the added, images under the name of one that was removed.")
    recaptioned: int = Field(description="Images of both with other captions.")
    resplit: int = Field(description="Images of both that moved between training and test.")
    unchanged: int
    shown: dict[str, list[ShownImage]] = Field(default={}, description="added, removed, recaptioned.")

    @property
    def is_same(self) -> bool:
        """Whether nothing differs."""
        return not (self.added or self.removed or self.recaptioned or self.resplit)


@dataclass
class _Image:
    """One image of a dataset as far as its change can be told."""

    id: str
    split: str
    captions: list[str] = field(default_factory=list)


def data_change(old: Learned, new: Learned, num_shown: int = NUM_SHOWN) -> DataChange:
    """Return how two datasets and their captions differ.

    Raises:
        ArtifactError: one of them is damaged.
    """
    left = _images(old)
    right = left if new == old else _images(new)
    added = [key for key in right if key not in left]
    removed = [key for key in left if key not in right]
    both = [key for key in right if key in left]
    recaptioned = [key for key in both if set(left[key].captions) != set(right[key].captions)]
    gone = {left[key].id for key in removed}
    chosen = {kind: keys[:num_shown] for kind, keys in
              (("added", added), ("removed", removed), ("recaptioned", recaptioned))}  # fmt: skip
    pixels = _thumbnails(new, {*chosen["added"], *chosen["recaptioned"]}) | _thumbnails(
        old, set(chosen["removed"])
    )
    return DataChange(
        num_old=len(left),
        num_new=len(right),
        added=len(added),
        removed=len(removed),
        replaced=sum(right[key].id in gone for key in added),
        recaptioned=len(recaptioned),
        resplit=sum(left[key].split != right[key].split for key in both),
        unchanged=sum(_content(left[key]) == _content(right[key]) for key in both),
        shown={
            kind: [_shown(key, left.get(key), right.get(key), pixels.get(key, "")) for key in keys]
            for kind, keys in chosen.items()
            if keys
        },
    )


def _images(learned: Learned) -> dict[str, _Image]:
    """Images by content in the order of the dataset, their own captions before those of the caption stage."""
    found: dict[str, _Image] = {}
    by_id: dict[str, _Image] = {}
    for row in _rows(learned.dataset, _COLUMNS):
        image = _Image(row["id"], row["split"], [each["text"] for each in row["captions"] or []])
        found[row["pixel_sha256"]] = by_id[row["id"]] = image
    if learned.captions is not None:
        for row in _table_rows(learned.captions / "captions.parquet", ["id", "text"]):
            if row["id"] in by_id:
                by_id[row["id"]].captions.append(row["text"])
    for image in found.values():
        image.captions = list(dict.fromkeys(image.captions))
    return found


def _content(image: _Image) -> tuple[str, set[str]]:
    return image.split, set(image.captions)


def _rows(dataset: Path, columns: list[str]) -> Iterable[dict[str, Any]]:
    CuratedDataset(dataset)  # says what is wrong with it, if anything is
    for shard in sorted(dataset.glob("shard-*.parquet")):
        yield from _table_rows(shard, columns)


def _table_rows(path: Path, columns: list[str]) -> Iterable[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=2048, columns=columns):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({type(error).__name__}); curate the data again."
        ) from error


def _shown(key: str, old: _Image | None, new: _Image | None, png: str) -> ShownImage:
    """The image with the captions that are only on one side, the first of each in order."""
    before, after = (old.captions if old else []), (new.captions if new else [])
    lost = [text for text in before if text not in after] or before
    gained = [text for text in after if text not in before] or after
    image = new or old
    assert image is not None
    return ShownImage(id=image.id, png=png, old=lost[0] if lost else "", new=gained[0] if gained else "")


def _thumbnails(learned: Learned, keys: set[str]) -> dict[str, str]:
    """PNG of each of these images, as training sees it."""
    from PIL import Image

    from fluxmodel.data.decode import Refusal, decode, fit

    if not keys:
        return {}
    record, found = CuratedDataset(learned.dataset).record, {}
    for row in _rows(learned.dataset, ["pixel_sha256", "image"]):
        if row["pixel_sha256"] not in keys:
            continue
        try:
            side = min(int(record["image_size"]), 128)
            pixels = fit(decode(row["image"]["bytes"], record["rules"]["max_pixels"]), side)
        except Refusal as refusal:
            raise ArtifactError(
                f"{learned.dataset} holds a damaged image ({refusal}); curate the data again."
            ) from refusal
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
        found[row["pixel_sha256"]] = base64.b64encode(buffer.getvalue()).decode()
        if len(found) == len(keys):
            break
    return found
