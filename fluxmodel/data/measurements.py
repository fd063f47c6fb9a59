"""What was measured of every item a source gave, apart from what is decided by it: measurements.parquet.

One row an item, in the source's order. A new threshold needs this table alone: nothing is decoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fluxmodel.errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

MEASUREMENTS = "measurements.parquet"
SIGNATURE_BYTES = 192
PIXEL_COLUMNS = ("sharpness", "brightness", "contrast", "entropy")
MODEL_COLUMNS = ("agreement", "aesthetic", "safety", "watermark")
EMBEDDING = "embedding"
WORDS = "words"
DERIVED_COLUMNS = ("shorter_side", "aspect", "caption_words")
# What a decision needs, about 0.4 KB an image; the texts of captions and refusals stay on the disk.
DECIDING_COLUMNS = (
    *(
        "id",
        "path",
        "num_bytes",
        "refusal",
        "pixel_sha256",
        "phash",
        "colors",
        "width",
        "height",
    ),
    *PIXEL_COLUMNS,
    *("caption_words", "caption_refusals", "has_scene"),
    *MODEL_COLUMNS,
)
# An image may have any number of captions.
_ROWS_A_GROUP, _BYTES_A_GROUP = 4096, 16_000_000


def measurement_schema() -> pa.Schema:
    """Return the columns; null is what was not or could not be measured.

    `refusal` is the `Reason` why there are no pixels: `sha256` is null where not even bytes were looked at.
    `sharpness` (levels squared), `brightness` and `contrast` (of 1) and `entropy` (bits) are of
    `fluxmodel.data.image_measures`; `colors` is the colour signature beside the perceptual hash;
    `caption_words` and `caption_refusals` go with `captions`: words of each text, and why it is no text. `has_scene` is
    true of a drawn scene whose ground truth is known. `words` are those of the first caption that is text, each once,
    as numbers of `fluxmodel.data.diversity`. `embedding` is that of the image by a CLIP, float16 of length 1.
    """
    import pyarrow as pa

    caption = pa.struct([("text", pa.string()), ("kind", pa.string()), ("model", pa.string())])
    texts = ("id", "path", "source", "licence")
    found = [("num_bytes", pa.int64()), ("refusal", pa.string()), ("detail", pa.string())]
    hashes = [("sha256", pa.string()), ("pixel_sha256", pa.string()), ("phash", pa.uint64())]
    return pa.schema(
        [
            *[(name, pa.string()) for name in texts],
            *found,
            *hashes,
            ("colors", pa.binary(SIGNATURE_BYTES)),
            ("width", pa.int32()),
            ("height", pa.int32()),
            *[(name, pa.float32()) for name in PIXEL_COLUMNS],
            ("captions", pa.list_(caption)),
            ("caption_words", pa.list_(pa.int32())),
            ("caption_refusals", pa.list_(pa.string())),
            ("has_scene", pa.bool_()),
            (WORDS, pa.list_(pa.uint32())),
            *[(name, pa.float32()) for name in MODEL_COLUMNS],
            (EMBEDDING, pa.binary()),
        ]
    )


# Of a caption, beside its characters: its dictionary and the head of its text.
_CAPTION_BYTES = 250


class MeasurementWriter:
    """Streams rows into measurements.parquet, `_ROWS_A_GROUP` at a time, fewer where captions are long."""

    def __init__(self, directory: Path) -> None:
        import pyarrow.parquet as pq

        self._schema = measurement_schema()
        self._writer = pq.ParquetWriter(directory / MEASUREMENTS, self._schema, compression="zstd")
        self._rows: list[dict] = []
        self._num_bytes = 0

    def add(self, row: dict) -> None:
        """Append one item; a column that is left out is null."""
        self._rows.append(row)
        self._num_bytes += caption_bytes(row)
        if len(self._rows) >= _ROWS_A_GROUP or self._num_bytes >= _BYTES_A_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left and finish the file; a second call does nothing."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        rows, self._rows, self._num_bytes = self._rows, [], 0
        if rows:
            self._writer.write_table(pa.Table.from_pylist(rows, schema=self._schema))


def caption_bytes(row: dict) -> int:
    """Return about how many bytes of memory the captions of a row take."""
    return sum(_CAPTION_BYTES + len(each["text"]) for each in row.get("captions") or ())


def read_measurements(directory: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the measurements of a curated dataset, all columns or some.

    Raises:
        ArtifactError: there are none, or the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(directory) / MEASUREMENTS
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            schema = file.schema_arrow
            names = schema.names if columns is None else list(columns)
            found = {name: _whole(file.read([name], use_threads=False)[name]) for name in names}
            return pa.table(found, schema=pa.schema([schema.field(name) for name in names]))
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); curate the data again.") from error


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """Return a column in one piece; of reading columns one by one, only the last is held twice."""
    import pyarrow as pa

    found = in_one_piece(column)
    pa.default_memory_pool().release_unused()
    return found


def in_one_piece(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, without a copy where it is one already."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def first_captions(directory: str | Path, rows: Sequence[int]) -> dict[int, str]:
    """Return the first caption of some rows, as far as they have one, reading one row group at a time."""
    import pyarrow.parquet as pq

    found, start = {}, 0
    with pq.ParquetFile(Path(directory) / MEASUREMENTS) as file:
        for number in range(file.num_row_groups):
            stop = start + file.metadata.row_group(number).num_rows
            if here := [row for row in rows if start <= row < stop]:
                captions = file.read_row_group(number, columns=["captions"])["captions"]
                lists = {row: captions[row - start].as_py() for row in here}
                found |= {row: each[0]["text"] for row, each in lists.items() if each}
            start = stop
    return found


def numbers(measurements: pa.Table, column: str) -> np.ndarray:
    """Return a column or one of `DERIVED_COLUMNS` as float64 [n], nan where nothing was measured.

    `shorter_side` is in pixels, `aspect` the longer side by the shorter, `caption_words` the words of the first
    caption that is text.
    """
    import numpy as np

    if column == "caption_words":
        return _first_words(measurements)
    if column not in ("shorter_side", "aspect"):
        values = measurements[column].to_numpy()
        # What float32 holds of 0.98 is more than 0.98: rounded, a value that equals a threshold is on it.
        return (
            np.round(values.astype(np.float64), 6)
            if values.dtype == np.float32
            else values.astype(np.float64)
        )
    width, height = (measurements[name].to_numpy().astype(np.float64) for name in ("width", "height"))
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    return shorter if column == "shorter_side" else longer / shorter


def caption_facts(measurements: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of all captions, one after another: row of the image, words, and why it is no text (None where it is)."""
    import numpy as np

    column = in_one_piece(measurements["caption_words"])
    rows = np.repeat(np.arange(len(column)), column.value_lengths().fill_null(0).to_numpy())
    words = column.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    refusals = np.empty(len(words), object)
    refusals[:] = in_one_piece(measurements["caption_refusals"]).flatten().to_pylist()
    return rows, words, refusals


def _first_words(measurements: pa.Table) -> np.ndarray:
    import numpy as np

    rows, words, refusals = caption_facts(measurements)
    is_text = refusals == np.array(None)
    first = np.full(measurements.num_rows, np.nan)
    first[rows[is_text][::-1]] = words[is_text][::-1]  # written from the last, so the first one stays
    return first
