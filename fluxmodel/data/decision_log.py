"""The record of curation: one row per image and rule, streamed into decisions.parquet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fluxmodel.data.decisions import BALANCE, DUPLICATE_RULES, reasons_of
from fluxmodel.data.measurements import MEASUREMENTS
from fluxmodel.data.records import Reason
from fluxmodel.data.thresholds import THRESHOLDS

if TYPE_CHECKING:
    import pyarrow as pa

    from fluxmodel.data.curation_rules import CurationRules
    from fluxmodel.data.decisions import Decisions

_IMAGES_AT_ONCE = 4096
_UNITS = {each.rule: each.unit for each in THRESHOLDS} | {BALANCE: "images with its rarest word"}


@dataclass(frozen=True, slots=True)
class Failure:
    """The rule for which an image is dropped; `row` is its place in the measurements."""

    row: int
    name: str
    rule: str
    reason: Reason
    detail: str


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


def log_decisions(
    directory: Path, measurements: pa.Table, decisions: Decisions, rules: CurationRules
) -> Iterator[Failure]:
    """Write decisions.parquet beside the measurements, and yield for each dropped image why."""
    import pyarrow.parquet as pq

    reasons = {rule: iter(reasons_of(measurements, decisions, rules, rule)) for rule in decisions.rules}
    first, schema = decisions.first_failed(), decision_schema()
    with (
        pq.ParquetWriter(directory / "decisions.parquet", schema, compression="zstd") as writer,
        pq.ParquetFile(directory / MEASUREMENTS) as file,
    ):
        start = 0
        for batch in file.iter_batches(batch_size=_IMAGES_AT_ONCE, columns=["captions", "detail"]):
            here = measurements.slice(start, batch.num_rows)
            said = _Said(here, batch, start, measurements, decisions, reasons)
            writer.write_table(said.table(schema))
            yield from said.failures(first[start : start + batch.num_rows])
            start += batch.num_rows


class _Said:
    """What all rules said of the images of one batch, image by image."""

    def __init__(self, here: pa.Table, texts, start: int, measurements: pa.Table, decisions, reasons):
        self._here, self._texts, self._start = here, texts, start
        self._measurements, self._decisions = measurements, decisions
        shape = (here.num_rows, len(decisions.rules))
        self._passed, self._values = np.empty(shape, np.int8), np.empty(shape)
        self._reasons, self._details = np.full(shape, None, object), np.full(shape, None, object)
        stop = start + here.num_rows
        for place, rule in enumerate(decisions.rules):
            self._passed[:, place] = decisions.passed[rule][start:stop]
            self._values[:, place] = decisions.values[rule][start:stop]
            for row in np.flatnonzero(self._passed[:, place] == 0).tolist():
                self._reasons[row, place] = next(reasons[rule])
                self._details[row, place] = self._detail(rule, row, self._values[row, place])

    def table(self, schema: pa.Schema) -> pa.Table:
        """Return the rows of decisions.parquet."""
        import pyarrow as pa

        num, rules = len(self._passed), self._decisions.rules
        repeated = np.repeat(np.arange(num), len(rules))
        passed, values = self._passed.ravel(), self._values.ravel()
        columns = [
            self._here["id"].take(repeated),
            self._here["path"].take(repeated),
            pa.array(list(rules) * num, pa.string()),
            pa.array(passed == 1, mask=passed < 0),
            pa.array(values, mask=np.isnan(values)),
            pa.array(self._reasons.ravel(), pa.string()),
            pa.array(self._details.ravel(), pa.string()),
        ]
        return pa.table(columns, schema=schema)

    def failures(self, first: np.ndarray) -> Iterator[Failure]:
        """Yield why each dropped image is dropped, given the place of the rule it failed first."""
        for row in np.flatnonzero(first >= 0).tolist():
            place = int(first[row])
            name = self._here["path"][row].as_py() or self._here["id"][row].as_py()
            reason, detail = Reason(self._reasons[row, place]), self._details[row, place] or ""
            yield Failure(self._start + row, name, self._decisions.rules[place], reason, detail)

    def _detail(self, rule: str, row: int, value: float) -> str | None:
        """Return what was found, in words."""
        if rule in ("readable", "decodable"):
            return self._texts["detail"][row].as_py()
        if rule in ("min_side", "max_aspect"):
            width, height = (self._here[name][row].as_py() for name in ("width", "height"))
            return f"{width} x {height} pixels"
        if rule in DUPLICATE_RULES:
            survivor = int(self._decisions.survivor[self._start + row])
            return f"of {self._measurements['id'][survivor].as_py()}"
        if rule == "caption":
            captions = self._texts["captions"][row].as_py()
            text = captions[0]["text"] if captions else ""
            return repr(text[:80]) if text else None
        return None if np.isnan(value) else f"{value:.4g} {_UNITS[rule]}"
