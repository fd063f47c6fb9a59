"""The record of curation: one row per image and rule, streamed into decisions.parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from fluxmodel.data.image_checks import Decision

_ROWS_AT_ONCE = 16_384


def decision_schema() -> pa.Schema:
    """Return the columns: `passed` is null where an earlier rule left nothing to look at."""
    import pyarrow as pa

    return pa.schema(
        [
            ("id", pa.string()),
            ("path", pa.string()),
            ("rule", pa.string()),
            ("passed", pa.bool_()),
            ("value", pa.float64()),
            ("reason", pa.string()),
            ("detail", pa.string()),
        ]
    )


class DecisionLog:
    """Appends decisions to a parquet file without keeping them."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._schema = decision_schema()
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[tuple] = []

    def add(self, sample_id: str, path: str | None, decisions: Sequence[Decision]) -> None:
        """Append the decisions on one image."""
        self._rows += [(sample_id, path, *decision) for decision in decisions]
        if len(self._rows) >= _ROWS_AT_ONCE:
            self._flush()

    def close(self) -> None:
        """Write what is left and finish the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [
                pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)
            ]
            self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
            self._rows = []
