"""The artifact of curation on disk: parquet shards of kept samples, read back by split.

Images stay encoded as they came (`datasets` shows them as its `Image` feature); `CuratedDataset.pixels` decodes
and fits them. No file holds a time or a place, so equal input gives equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fluxmodel.data.records import Caption
from fluxmodel.data.storage import open_regular
from fluxmodel.errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

RECORD = "curation.json"
SPLITS = ("train", "test")
_SHARD_BYTES = 256_000_000
_TEXT_COLUMNS = ("id", "source", "licence", "sha256", "pixel_sha256", "phash", "scene", "split")


def sample_schema() -> pa.Schema:
    """Return the columns of a shard, annotated so that `datasets` knows image and captions."""
    import pyarrow as pa

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    caption = pa.struct([("text", pa.string()), ("kind", pa.string()), ("model", pa.string())])
    columns = [
        ("id", pa.string()),
        ("image", image),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("sha256", pa.string()),
        ("pixel_sha256", pa.string()),
        ("phash", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("captions", pa.list_(caption)),
        ("scene", pa.string()),
        ("split", pa.string()),
    ]
    text = {"dtype": "string", "_type": "Value"}
    features: dict[str, object] = dict.fromkeys(_TEXT_COLUMNS, text)
    features |= {name: {"dtype": "int32", "_type": "Value"} for name in ("width", "height")}
    features["image"] = {"_type": "Image"}
    features["captions"] = {"feature": {"text": text, "kind": text, "model": text}, "_type": "List"}
    ordered = {name: features[name] for name, _ in columns}
    return pa.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": ordered}})})


def require_columns(schema: pa.Schema, names: Sequence[str], place: Path) -> None:
    """See that the shard at `place` has some columns, each once and of the type that is written.

    Raises:
        ArtifactError: one is missing, or of another type.
    """
    written = sample_schema()
    for name in names:
        places = schema.get_all_field_indices(name)
        if len(places) != 1:
            raise ArtifactError(f"{place}: there is no column {name!r}; curate the data again.")
        found, wanted = schema.field(places[0]).type, written.field(name).type
        if found != wanted:
            raise ArtifactError(
                f"{place}: the column {name!r} is {found}, not {wanted}; curate the data again."
            )


class ShardWriter:
    """Writes kept samples into shard-00000.parquet, shard-00001.parquet, ... of bounded size."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer = None
        self.num_shards = 0
        self._num_bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Append the rows of one batch as one row group."""
        import pyarrow.parquet as pq

        if self._writer is None:
            path = self._directory / f"shard-{self.num_shards:05d}.parquet"
            self._writer = pq.ParquetWriter(path, batch.schema, compression="zstd", write_statistics=False)
            self.num_shards, self._num_bytes = self.num_shards + 1, 0
        self._writer.write_batch(batch)
        self._num_bytes += batch.nbytes
        if self._num_bytes >= _SHARD_BYTES:
            self.close()

    def close(self) -> None:
        """Finish the open shard."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _read_record(path: Path) -> dict:
    with open_regular(path) as file:
        return json.load(file)


class CuratedDataset:
    """A curated dataset on disk; rows of a split always come in the same order."""

    def __init__(self, directory: str | Path, cache: str | Path | None = None) -> None:
        """Open the directory.

        Args:
            directory: of the artifact.
            cache: folder of all caches; with one, an image decoded and fitted before is not decoded again.

        Raises:
            ArtifactError: it is no curated dataset, or a shard is missing or damaged.
        """
        self.directory, self._cache = Path(directory), cache
        self._columns: dict[str, dict[str, list]] = {}
        try:
            self.record: dict = _read_record(self.directory / RECORD)
            self.image_size: int = self.record["image_size"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{self.directory}: no curated dataset there ({RECORD} is missing or damaged); curate the data again."
            ) from error
        self._shards = sorted(path for path in self.directory.glob("shard-*.parquet") if path.is_file())
        if len(self._shards) != self.record.get("num_shards"):
            raise ArtifactError(
                f"{self.directory}: {len(self._shards)} shards where {self.record.get('num_shards')} were written; "
                "curate the data again."
            )

    def num(self, split: str) -> int:
        """Return the number of images of a split."""
        return len(self._texts(split)["id"])

    def ids(self, split: str) -> list[str]:
        """Return the ids of a split."""
        return list(self._texts(split)["id"])

    def pixel_digests(self, split: str) -> list[str]:
        """Return the sha256 of each image's size and decoded pixels, as hex."""
        return list(self._texts(split)["pixel_sha256"])

    def scenes(self, split: str) -> list[str | None]:
        """Return the ground truth of each image as JSON, None where there is none."""
        return list(self._texts(split)["scene"])

    def captions(self, split: str) -> list[list[Caption]]:
        """Return all captions of each image."""
        return [[Caption(**caption) for caption in captions] for captions in self._texts(split)["captions"]]

    def columns(self, split: str, names: Sequence[str]) -> dict[str, list]:
        """Return columns of a split by name, as the shards hold them."""
        found: dict[str, list] = {name: [] for name in names}
        for row in self.rows(split, names):
            for name, values in found.items():
                values.append(row[name])
        return found

    def pixels(self, split: str, limit: int | None = None) -> np.ndarray:
        """Return the images of a split, or its first `limit`, as uint8 RGB [n, image_size, image_size, 3]."""
        import numpy as np

        num = self.num(split) if limit is None else min(limit, self.num(split))
        pixels = np.empty((num, self.image_size, self.image_size, 3), np.uint8)
        for index, image in zip(range(num), self.iter_pixels(split), strict=False):
            pixels[index] = image
        return pixels

    def iter_pixels(self, split: str, wanted: Collection[int] | None = None) -> Iterator[np.ndarray]:
        """Yield the images of a split one by one, uint8 RGB [image_size, image_size, 3].

        Where the places `wanted` are given only those are decoded, in the order of the split.
        """
        if self._cache is None:
            yield from (image for _, image in self._decoded(split, wanted))
            return
        from fluxmodel.data.pixel_cache import PixelCache

        places = range(self.num(split)) if wanted is None else sorted(wanted)
        digests = self.pixel_digests(split)
        with PixelCache(self._cache, self.image_size) as kept:
            missing = {place for place in places if digests[place] not in kept}
            decoded = self._decoded(split, missing) if missing else iter(())
            for place in places:
                image = None if place in missing else kept.image(digests[place])
                if image is None and place not in missing:  # damaged where it was kept
                    _, image = next(self._decoded(split, {place}))
                elif image is None:
                    _, image = next(decoded)
                kept.put(digests[place], image.tobytes())
                yield image

    def _decoded(self, split: str, wanted: Collection[int] | None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the places `wanted`, by default all, with their images, decoded and fitted."""
        from fluxmodel.data.decode import Refusal, decode, fit

        max_pixels = self.record["rules"]["max_pixels"]
        for place, row in enumerate(self.rows(split, ["id", "image"])):
            if wanted is not None and place not in wanted:
                continue
            try:
                yield place, fit(decode(row["image"]["bytes"], max_pixels), self.image_size)
            except Refusal as refusal:
                raise ArtifactError(
                    f"{self.directory}: image {row['id']!r} is damaged ({refusal}); curate the data again."
                ) from refusal

    def _texts(self, split: str) -> dict[str, list]:
        """Return the columns without images, read once a split."""
        if split not in self._columns:
            self._columns[split] = self.columns(split, ["id", "captions", "scene", "pixel_sha256"])
        return self._columns[split]

    def rows(self, split: str, columns: Sequence[str]) -> Iterator[dict]:
        """Yield the rows of a split as dictionaries, reading one row group at a time."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, not {split!r}")
        for shard in self._shards:
            try:
                with pq.ParquetFile(shard) as file:
                    require_columns(file.schema_arrow, [*columns, "split"], shard)
                    for batch in file.iter_batches(batch_size=512, columns=[*columns, "split"]):
                        yield from (row for row in batch.to_pylist() if row.pop("split") == split)
            except (OSError, pa.ArrowInvalid) as error:
                raise ArtifactError(f"{shard}: cannot be read ({error}); curate the data again.") from error
