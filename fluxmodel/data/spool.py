"""The images that could be decoded, kept on disk as they came until it is decided which stay.

In memory stays one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fluxmodel.data.curated_dataset import sample_schema
from fluxmodel.data.measurements import caption_bytes

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_IMAGES, _BATCH_BYTES = 512, 32_000_000


class Spool:
    """Appends rows of `sample_schema` without their split, gives the batches back.

    Attributes:
        num_images: appended so far.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._path = path
        self._schema = pa.schema([field for field in sample_schema() if field.name != "split"])
        self._writer = pa.ipc.new_file(str(path), self._schema)
        self._pending: list[dict] = []
        self._pending_bytes = 0
        self.num_images = 0

    def add(self, row: dict) -> None:
        """Append an image."""
        self._pending.append(row)
        self.num_images += 1
        self._pending_bytes += len(row["image"]["bytes"]) + caption_bytes(row)
        if len(self._pending) >= _BATCH_IMAGES or self._pending_bytes >= _BATCH_BYTES:
            self._flush()

    def finish(self) -> None:
        """End the writing; batches may be read now."""
        self._flush()
        self._writer.close()

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield each batch with the place of its first image."""
        import pyarrow as pa

        # Read, not mapped: pages of a map count as this process's memory, and the spool is as large as the source.
        with pa.OSFile(str(self._path)) as file:
            reader = pa.ipc.open_file(file)
            start = 0
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                yield start, batch
                start += batch.num_rows

    def images(self, places: Sequence[int]) -> dict[int, bytes]:
        """Return the encoded images at some places."""
        wanted, found = np.unique(np.array(places, np.int64)), {}
        for start, batch in self.batches():
            for place in wanted[(wanted >= start) & (wanted < start + batch.num_rows)].tolist():
                found[place] = batch["image"].field("bytes")[place - start].as_py()
        return found

    def remove(self) -> None:
        """Close and delete the file."""
        try:
            self._writer.close()
        finally:  # on a full disk it cannot be ended, but must go all the same
            self._path.unlink(missing_ok=True)

    def _flush(self) -> None:
        import pyarrow as pa

        rows, self._pending, self._pending_bytes = self._pending, [], 0
        if rows:
            self._writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=self._schema))
