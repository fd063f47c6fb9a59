"""One row an image: what every summary is made of, so that two models can be compared pair by pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .contrast import contrast
from .curves import Point
from .groups import group_shares
from .instruments import Measured
from .verdicts import ATTRIBUTES


def write_rows(path: Path, points: list[Point], held_out: dict[str, Measured]) -> None:
    """Write all images of all points; what was not measured is null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sets = [(point.curve, point.steps, point.guidance, point.measured) for point in points]
    sets += [(name, *measured.place, measured) for name, measured in held_out.items()]
    tables = [pa.table(columns_of(*each)) for each in sets]
    pq.write_table(pa.concat_tables(tables, promote_options="default"), path, compression="zstd")


def columns_of(curve: str, steps: int, guidance: float, measured: Measured) -> dict[str, Any]:
    """Return the columns of one point's images; what was not measured has none."""
    import pyarrow as pa

    n = len(measured.asked)
    columns: dict[str, Any] = {
        "curve": [curve] * n,
        "steps": [steps] * n,
        "guidance": [float(guidance)] * n,
        "index": list(range(n)),
        "prompt": measured.asked.prompts,
        "seed": measured.asked.seeds,
    }
    if measured.verdicts is not None:
        columns["attr_acc"] = measured.verdicts.accuracy
        columns["all_correct"] = measured.verdicts.all_correct
        columns["undecided"] = measured.verdicts.undecided_share
        columns["num_extra"] = measured.verdicts.num_extra
        for name in ATTRIBUTES:
            columns[f"{name}_asked"] = measured.verdicts.asked[name]
            columns[f"{name}_right"] = measured.verdicts.right[name]
        for name, shares in group_shares(measured).items():
            columns[f"group_{name}"] = pa.array(shares, from_pandas=True)  # NaN becomes null
    columns["contrast"] = contrast(measured.images)
    if measured.clip is not None:
        columns["clip"] = measured.clip
    if measured.nearest is not None:
        columns["nearest_distance"] = measured.nearest.distance
        columns["memorised"] = measured.nearest.memorised
    if measured.hits is not None and len(measured.hits):
        columns["retrieved"] = measured.hits
    return columns
