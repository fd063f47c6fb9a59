"""The images that passed every rule of their own, kept on disk until the duplicates among them are known.

In memory stays only what the search for duplicates needs: some 400 bytes an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fluxmodel.data.curated_dataset import sample_schema
from fluxmodel.data.perceptual_hash import color_signatures, perceptual_hashes

if TYPE_CHECKING:
    import pyarrow as pa

    from fluxmodel.data.image_checks import CheckedImage

_BATCH_IMAGES, _BATCH_BYTES = 512, 32_000_000


class Spool:
    """Appends candidates in order, hashes them by the batch, gives the batches back."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.ids: list[str] = []
        self.paths: list[str | None] = []
        self.areas: list[int] = []
        self.pixel_digests: list[bytes] = []
        self._hashes: list[np.ndarray] = []
        self._signatures: list[np.ndarray] = []
        self._path = path
        self._schema = pa.schema([field for field in sample_schema() if field.name != "split"])
        self._writer = pa.ipc.new_file(str(path), self._schema)
        self._pending: list[CheckedImage] = []
        self._pending_bytes = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def hashes(self) -> np.ndarray:
        """The perceptual hashes, uint64 [n]."""
        return np.concatenate([np.empty(0, np.uint64), *self._hashes])

    @property
    def signatures(self) -> np.ndarray:
        """The colour signatures, uint8 [n, 192]."""
        return np.concatenate([np.empty((0, 192), np.uint8), *self._signatures])

    def add(self, image: CheckedImage) -> None:
        """Append a candidate."""
        assert image.sample is not None
        self.ids.append(image.id)
        self.paths.append(image.path)
        self.areas.append(image.width * image.height)
        self.pixel_digests.append(bytes.fromhex(image.pixel_sha256))
        self._pending.append(image)
        self._pending_bytes += len(image.sample.image)
        if len(self._pending) >= _BATCH_IMAGES or self._pending_bytes >= _BATCH_BYTES:
            self._flush()

    def finish(self) -> None:
        """End the writing; batches may be read now."""
        self._flush()
        self._writer.close()

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield each batch with the index of its first candidate."""
        import pyarrow as pa

        with pa.memory_map(str(self._path)) as file:
            reader = pa.ipc.open_file(file)
            start = 0
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                yield start, batch
                start += batch.num_rows

    def remove(self) -> None:
        """Close and delete the file."""
        self._writer.close()
        self._path.unlink(missing_ok=True)

    def _flush(self) -> None:
        import pyarrow as pa

        images, self._pending, self._pending_bytes = self._pending, [], 0
        if not images:
            return
        thumbnails = np.stack([image.thumbnail for image in images if image.thumbnail is not None])
        hashes = perceptual_hashes(thumbnails)
        self._hashes.append(hashes)
        self._signatures.append(color_signatures(thumbnails))
        rows = [_row(image, int(value)) for image, value in zip(images, hashes, strict=True)]
        self._writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=self._schema))


def _row(image: CheckedImage, phash: int) -> dict:
    """Return the columns of one candidate, all but its split."""
    sample = image.sample
    assert sample is not None
    return {
        "id": image.id,
        "image": {"bytes": sample.image, "path": sample.path},
        "source": sample.source,
        "licence": sample.licence,
        "sha256": image.sha256,
        "pixel_sha256": image.pixel_sha256,
        "phash": f"{phash:016x}",
        "width": image.width,
        "height": image.height,
        "captions": [{"text": item.text, "kind": item.kind, "model": item.model} for item in image.captions],
        "scene": sample.scene,
    }
