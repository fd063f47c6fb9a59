"""Parquet and arrow files as a source: one file open at a time, one row group or record batch at a time.

A sample's id is FILE#ROW. What can be told of a damaged file is kept: the rows before the damage, and a refusal for
each row behind it that the file promised.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from posixpath import dirname, join
from typing import TYPE_CHECKING, Any

from fluxmodel.data.records import RawSample, Reason, UnreadableFile
from fluxmodel.data.shard_files import ShardFiles
from fluxmodel.data.storage import fingerprint_of, one_line, printable
from fluxmodel.data.table_rows import (
    Columns,
    RowReader,
    UnsafePath,
    find_columns,
    require_inside,
)
from fluxmodel.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 32
_BUFFER_BYTES = 1 << 20


class TableSource:
    """The rows of parquet and arrow files, in the order of their paths.

    Attributes:
        names_paths: the images lie outside of the table, which names them by path.
    """

    is_procedural = False
    kind = "table"

    def __init__(self, shards: ShardFiles, max_file_bytes: int = 256_000_000) -> None:
        """Look at the columns of the first file that can be read.

        Raises:
            InputError: no file can be read, or no column holds images.
        """
        self.files = _without_caches(shards)
        self.max_file_bytes = max_file_bytes
        self.ignored: Counter[str] = Counter()
        self._num: int | None = None
        first_error = ""
        for path in self.files.paths:
            try:
                with self._table(path) as table:
                    columns = find_columns(table.schema, f"--data {self._place(path)}")
                    self.names_paths = columns.kind not in ("struct", "bytes")
                    return
            except DamagedTable as error:
                first_error = first_error or f"{printable(path)}: {error}"
        raise InputError(
            f"--data {shards.spec}: no file of the table can be read ({first_error}); copy it again."
        )

    @property
    def spec(self) -> str:
        """The absolute path or URI."""
        return self.files.spec

    @property
    def name(self) -> str:
        """What the artifact calls the source; it does not depend on where the files lie."""
        return f"table:{self.files.name}"

    def __len__(self) -> int:
        """Rows, counted once; of a file that is damaged as many as it tells."""
        if self._num is None:
            self._num = sum(self._num_rows(path) for path in self.files.paths)
        return self._num

    def __iter__(self) -> Iterator[RawSample | UnreadableFile]:
        """Yield every row of every file."""
        for shard in self.shards:
            yield from self.read_shard(shard)

    @property
    def shards(self) -> tuple[str, ...]:
        """The files, which can be read one by one: `read_shard`."""
        return self.files.paths

    def read_shard(self, shard: str) -> Iterator[RawSample | UnreadableFile]:
        """Yield every row of one file."""
        name = printable(shard)
        try:
            with self._table(shard) as table:
                try:
                    columns = find_columns(table.schema, name)
                except InputError as error:
                    yield UnreadableFile(name, name, Reason.DAMAGED_SHARD, str(error), False)
                    yield from lost_rows(
                        name, 0, table.num_rows, "its columns differ from those of the first file"
                    )
                    return
                yield from self._rows(table, columns, shard)
        except DamagedTable as error:
            yield UnreadableFile(name, name, Reason.DAMAGED_SHARD, str(error), False)

    def fingerprint(self) -> str:
        """Return the digest of the files, and of the images they name by path."""
        pairs = (
            pair
            for path in self.files.paths
            for pair in ((path, self.files.storage.digest(path)), *self._named(path))
        )
        return fingerprint_of(self.kind, pairs)

    def _rows(self, table: Table, columns: Columns, shard: str) -> Iterator[RawSample | UnreadableFile]:
        import pyarrow as pa

        name, start = printable(shard), 0
        reader = RowReader(columns, self.name, self.max_file_bytes, lambda path: self._read_file(shard, path))
        for part in range(table.num_parts):
            end, row = table.end_of(part, start), start
            try:
                for batch in table.batches(part, columns.names):
                    for values in _without_times(batch).to_pylist():
                        yield from reader.read(values, f"{name}#{row:09d}")
                        row += 1
            except InputError:  # out of reach, which is no damage
                raise
            except (OSError, pa.ArrowException, ValueError, OverflowError) as error:
                yield from lost_rows(name, row, end, one_line(error))
                if end <= row:
                    yield UnreadableFile(name, name, Reason.DAMAGED_SHARD, one_line(error), False)
            start = max(row, end)

    def _table(self, path: str) -> contextlib.AbstractContextManager[Table]:
        return _opened(self.files, path)

    def _num_rows(self, path: str) -> int:
        with contextlib.suppress(DamagedTable), self._table(path) as table:
            return table.num_rows
        return 0

    def _read_file(self, shard: str, path: str) -> bytes:
        place = join(dirname(shard), require_inside(path))
        return self.files.storage.read(place, self.max_file_bytes)

    def _named(self, shard: str) -> Iterator[tuple[str, str]]:
        """Yield the images a file names by path, with their digests."""
        import pyarrow as pa

        with contextlib.suppress(DamagedTable, OSError, pa.ArrowException), self._table(shard) as table:
            try:
                columns = find_columns(table.schema, shard)
            except InputError:  # not the columns of the first file: none of its rows is read
                return
            for part in range(table.num_parts):
                for path in _outside(table, part, columns):
                    with contextlib.suppress(UnsafePath):
                        place = join(dirname(shard), require_inside(path))
                        yield place, self.files.storage.digest(place)

    def _place(self, path: str) -> str:
        return printable(self.files.storage.url(path))


class DamagedTable(ValueError):
    """A file that is no readable parquet or arrow file."""


class Table:
    """An open parquet or arrow file as parts: its row groups, or its record batches."""

    def __init__(self, schema: pa.Schema, parquet: Any = None, stream: Any = None, file: Any = None) -> None:
        """Take what was opened: a parquet file, an arrow stream, or a reader of an arrow file with the file itself."""
        self.schema = schema
        self._parquet = parquet
        self._stream = stream
        self._file = file
        self._readers: dict[tuple[int, ...], Any] = {}
        self._num_batches = None if file is None else stream.num_record_batches

    @property
    def num_rows(self) -> int:
        """Rows of the whole file; of arrow they are counted by reading, which ends where the file is damaged."""
        import pyarrow as pa

        if self._parquet is not None:
            return self._parquet.metadata.num_rows
        count = 0
        with contextlib.suppress(OSError, pa.ArrowException):
            for batch in self._stream if self._file is None else self._smallest_batches():
                count += batch.num_rows
        return count

    @property
    def num_parts(self) -> int:
        """Parts that can be read one by one; an arrow stream is a single one."""
        if self._parquet is not None:
            return self._parquet.num_row_groups
        return 1 if self._num_batches is None else self._num_batches

    def end_of(self, part: int, start: int) -> int:
        """Return the row after a part that begins at row `start`; `start` where the file does not tell."""
        if self._parquet is None:
            return start
        return start + self._parquet.metadata.row_group(part).num_rows

    def _smallest_batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the record batches of an arrow file with the one column that costs least to be read."""
        reader = self._reader(tuple(sorted(range(len(self.schema)), key=self._cost)[:1]))
        for part in range(reader.num_record_batches):
            yield reader.get_batch(part)

    def _cost(self, place: int) -> int:
        import pyarrow as pa

        type_ = self.schema.field(place).type
        return 0 if pa.types.is_primitive(type_) else 1 if pa.types.is_string(type_) else 2

    def may_name(self, part: int, image: str) -> bool:
        """Return whether a struct of a part may hold a path without bytes; of parquet no image is read for it."""
        if self._parquet is None:
            return True
        group = self._parquet.metadata.row_group(part)
        for chunk in (group.column(place) for place in range(group.num_columns)):
            told = chunk.statistics if chunk.path_in_schema == f"{image}.bytes" else None
            if told is not None and told.has_null_count and told.null_count == 0:
                return False
        found = (batch.columns for batch in self.batches(part, [f"{image}.path"]))
        return any(
            value and value["path"] for columns in found for each in columns for value in each.to_pylist()
        )

    def batches(self, part: int, names: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a part, few at a time; no other column is read where the file allows it."""
        if self._parquet is not None:
            yield from self._parquet.iter_batches(_BATCH_ROWS, row_groups=[part], columns=names)
            return
        places = tuple(self.schema.get_field_index(name) for name in names)
        for batch in self._stream if self._file is None else [self._reader(places).get_batch(part)]:
            chosen = batch.select(names)
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                yield chosen.slice(start, _BATCH_ROWS)

    def _reader(self, places: tuple[int, ...]) -> Any:
        """Return a reader of an arrow file that reads the columns at some places alone."""
        import pyarrow as pa

        if places not in self._readers:
            options = pa.ipc.IpcReadOptions(included_fields=list(places))
            self._readers[places] = pa.ipc.open_file(self._file, options=options)
        return self._readers[places]


@contextlib.contextmanager
def _opened(files: ShardFiles, path: str) -> Iterator[Table]:
    import pyarrow as pa

    with contextlib.ExitStack() as stack:
        try:
            if files.storage.is_local and not path.lower().endswith(".parquet"):
                files.storage.open(path).close()
                file = stack.enter_context(pa.memory_map(files.storage.path(path)))
            else:
                file = stack.enter_context(files.storage.open(path))
            table = _read(file, path)
        except InputError:  # out of reach, which is no damage
            raise
        except (OSError, pa.ArrowException, ValueError) as error:
            raise DamagedTable(one_line(error)) from error
        yield table


def _read(file: Any, path: str) -> Table:
    import pyarrow as pa

    if path.lower().endswith(".parquet"):
        import pyarrow.parquet as pq

        # Without a buffer a whole column of a row group is read at once: the images of all its rows.
        parquet = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        return Table(parquet.schema_arrow, parquet=parquet)
    try:
        stream = pa.ipc.open_file(file)
        return Table(stream.schema, stream=stream, file=file)
    except pa.ArrowInvalid:
        file.seek(0)
        stream = pa.ipc.open_stream(file)
        return Table(stream.schema, stream=stream)


def _without_times(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch with dates and times as numbers: not each of them is one of Python's, and none is a text."""
    import pyarrow as pa

    columns = [
        column.view(pa.int32() if column.type.bit_width == 32 else pa.int64())
        if pa.types.is_temporal(column.type) and column.type.bit_width <= 64
        else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def lost_rows(name: str, row: int, end: int, detail: str) -> Iterator[UnreadableFile]:
    """Yield a refusal for each row that cannot be read."""
    for lost in range(row, end):
        row_id = f"{name}#{lost:09d}"
        yield UnreadableFile(row_id, row_id, Reason.DAMAGED_SHARD, detail)


def _outside(table: Table, part: int, columns: Columns) -> Iterator[str]:
    """Yield the paths of the images of a part that hold no bytes."""
    if columns.kind == "bytes" or (columns.kind == "struct" and not table.may_name(part, columns.image)):
        return
    for batch in table.batches(part, [columns.image]):
        for value in batch.column(0).to_pylist():
            if isinstance(value, dict):
                value = value.get("path") if value.get("bytes") is None else None
            if value:
                yield value


def _without_caches(shards: ShardFiles) -> ShardFiles:
    """Leave out what `datasets` keeps beside its data: state.json of `save_to_disk` names the files that count."""
    storage, chosen = shards.storage, []
    states: dict[str, set[str] | None] = {}
    for path in shards.paths:
        folder = dirname(path)
        if folder not in states:
            try:
                with storage.open(join(folder, "state.json")) as file:
                    states[folder] = {entry["filename"] for entry in json.load(file)["_data_files"]}
            except InputError:
                raise
            except (OSError, ValueError, KeyError, TypeError):
                states[folder] = None
        counted = states[folder]
        if counted is None or path.rpartition("/")[2] in counted:
            chosen.append(path)
    return ShardFiles(shards.spec, shards.name, storage, tuple(chosen))
