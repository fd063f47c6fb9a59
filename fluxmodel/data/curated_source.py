"""A curated data set as a source: its kept images once more, with every caption and where each came from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fluxmodel.data.curated_dataset import CuratedDataset, require_columns
from fluxmodel.data.records import Caption, RawSample, Reason, UnreadableFile
from fluxmodel.data.storage import fingerprint_of, one_line, storage_at
from fluxmodel.data.table_source import lost_rows
from fluxmodel.errors import ArtifactError, InputError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_COLUMNS = ("id", "image", "source", "licence", "captions", "scene")
_BATCH_ROWS = 32


class CuratedSource:
    """The images of both splits of a curated data set, in their order; they are split anew."""

    is_procedural = False

    def __init__(self, directory: str | Path) -> None:
        """Open the directory.

        Raises:
            InputError: its record is damaged, or a shard is missing.
        """
        self.directory = Path(directory)
        try:
            self._record = CuratedDataset(directory).record
        except ArtifactError as error:
            raise InputError(f"--data {error}") from error
        self.shards = tuple(path.name for path in sorted(self.directory.glob("shard-*.parquet")))

    @property
    def spec(self) -> str:
        """The absolute path of the directory."""
        return str(self.directory.resolve())

    @property
    def name(self) -> str:
        """What its own data were called."""
        return f"curated:{self._record.get('data', self.directory.name)}"

    def __len__(self) -> int:
        return int(self._record.get("kept", 0))

    def __iter__(self) -> Iterator[RawSample | UnreadableFile]:
        """Yield every kept image, and a refusal for each that is lost with its shard."""
        num = 0
        for shard in self.shards:
            for item in self.read_shard(shard):
                num += isinstance(item, RawSample) or item.is_image
                yield item
        detail = "a shard that held it cannot be read"
        yield from lost_rows(self.directory.name, num, len(self), detail)

    def read_shard(self, shard: str) -> Iterator[RawSample | UnreadableFile]:
        """Yield the images of one shard; of a damaged one a refusal for each row that it promised."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.directory / shard, pre_buffer=False, buffer_size=1 << 20) as file:
                require_columns(file.schema_arrow, _COLUMNS, self.directory / shard)
                yield from self._rows(file, shard)
        except (OSError, pa.ArrowException, ArtifactError) as error:
            yield UnreadableFile(shard, shard, Reason.DAMAGED_SHARD, one_line(error), False)

    def _rows(self, file: pq.ParquetFile, shard: str) -> Iterator[RawSample | UnreadableFile]:
        import pyarrow as pa

        row = 0
        for group in range(file.num_row_groups):
            end = row + file.metadata.row_group(group).num_rows
            try:
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=list(_COLUMNS)):
                    for values in batch.to_pylist():
                        yield _sample(values)
                        row += 1
            except (OSError, pa.ArrowException) as error:
                yield from lost_rows(shard, row, end, one_line(error))
            row = end

    def fingerprint(self) -> str:
        """Return the digest of the shards."""
        storage = storage_at(str(self.directory))
        return fingerprint_of("curated", ((shard, storage.digest(shard)) for shard in self.shards))


def _sample(row: dict) -> RawSample:
    return RawSample(
        id=row["id"],
        image=row["image"]["bytes"],
        source=row["source"],
        licence=row["licence"],
        captions=tuple(Caption(each["text"], each["kind"], each["model"]) for each in row["captions"]),
        scene=row["scene"],
        path=row["image"]["path"],
    )
