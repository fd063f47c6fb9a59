"""Every number two versions share: from, to, the difference with its interval, p, and p corrected for many (Holm).

Numbers of single images are paired by prompt and noise; distances of whole sets and the rest stand with their own
intervals. What both measured, but differently, is left out and named.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.errors import IncomparableError

from .compare import COUNTED, SUBJECT, Difference, Side, apart, pair_by_pair
from .identity import require_comparable
from .statistics import Z95, holm

Mark = Literal["better", "worse", "unclear", "same", "none"]
LEVEL = 0.05
GROUPS = "group/"
"""Differences of groups are told apart from the numbers."""
_ORDER = (
    "all_correct", "attr_acc", "retrieval", "undecided", "extra_objects", "clip", "fd", "kid", "mind", "precision",
    "recall", "density", "coverage", "memorised", "contrast", "latency_ms", "peak_memory_mib",
)  # fmt: skip
_PREFIXES = ("", "held_out/", "detailed/", "lora/")
_COLUMNS = {"undecided": "undecided", "extra_objects": "num_extra", "all_correct": "all_correct",
            "attr_acc": "attr_acc", "clip": "clip", "retrieval": "retrieved"}  # fmt: skip


class NumberRow(BaseModel):
    """One number of two versions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: Difference = Field(description="Positive is better for the new version.")
    old_ci: tuple[float, float] | None = None
    new_ci: tuple[float, float] | None = None
    p_holm: float | None = Field(
        default=None, description="p corrected for the numbers of its block (Holm 1979)."
    )
    mark: Mark = "none"


def number_rows(new: Side, old: Side, gated: dict[str, Difference]) -> tuple[list[NumberRow], list[str]]:
    """Return the numbers both sides measured alike, and the names of those they measured differently.

    Args:
        new: the evaluation of the new version.
        old: that of the old one.
        gated: differences the gate compares, taken as they are.
    """
    rows, unlike = [], []
    for name in _names(new, old, gated):
        try:
            row = gated[name] if name in gated else _difference(name, new, old)
        except IncomparableError:
            unlike.append(name)
            continue
        rows.append(
            NumberRow(row=_with_p(row), old_ci=_interval(old, row.name), new_ci=_interval(new, row.name))
        )
    return marked(rows), unlike


def marked(rows: list[NumberRow]) -> list[NumberRow]:
    """Return rows with Holm's p over those of the same block, and the mark that follows from it."""
    blocks: dict[str, list[int]] = {}
    for number, each in enumerate(rows):
        if each.row.p_value is not None:
            blocks.setdefault(block_of(each.row.name), []).append(number)
    adjusted: dict[int, float] = {}
    for numbers in blocks.values():
        corrected = holm([rows[number].row.p_value or 0.0 for number in numbers])
        adjusted |= dict(zip(numbers, corrected, strict=True))
    return [
        each.model_copy(
            update={"p_holm": adjusted.get(number), "mark": _mark(each.row, adjusted.get(number))}
        )
        for number, each in enumerate(rows)
    ]


def block_of(name: str) -> str:
    """Return the block of numbers that a number stands in: the headline's (empty), held_out, detailed, lora, group."""
    return name.split("/")[0] if "/" in name else ""


def _names(new: Side, old: Side, gated: dict[str, Difference]) -> list[str]:
    """Names on both sides that have a better and a worse, in reading order."""
    shared = [
        name
        for name, each in new.metrics.items()
        if each.direction != "none" and name.startswith(_PREFIXES) and each.value is not None
        if name in old.metrics and old.metrics[name].value is not None
        if name.split("/")[0] in ("held_out", "detailed") or "/" not in name
    ]
    place = {name: number for number, name in enumerate(_ORDER)}

    def order(name: str) -> tuple[int, int, str]:
        prefix, _, base = name.rpartition("/")
        kind = 0 if not prefix else 3 if name.startswith("lora/") else 1 if prefix == "held_out" else 2
        return kind, place.get(base, len(place)), name

    return sorted({*shared, *(name for name in gated if not name.startswith(GROUPS))}, key=order)


def _difference(name: str, new: Side, old: Side) -> Difference:
    left, right = new.metrics[name], old.metrics[name]
    require_comparable(left.full_identity(new.identity), right.full_identity(old.identity), SUBJECT)
    prefix, _, base = name.rpartition("/")
    column, curve = _COLUMNS.get(base, ""), prefix or "headline"
    if column in new.columns and column in old.columns:
        ours, theirs = new.at(curve), old.at(curve)
        if ours and ours.keys() == theirs.keys():
            keys = sorted(ours)
            values = [
                side.columns[column][[rows[key] for key in keys]].astype(np.float64)
                for side, rows in ((new, ours), (old, theirs))
            ]
            if all(np.isfinite(each).all() for each in values):
                if base == "extra_objects":  # images with any
                    values = [(each > 0).astype(np.float64) for each in values]
                prompts = [prompt for prompt, _ in keys]
                sign = -1.0 if left.direction == "lower" else 1.0
                is_count = column in COUNTED or base == "extra_objects"
                return pair_by_pair(name, values[0], values[1], prompts, sign, is_count)
    return apart(name, left, right)


def _with_p(row: Difference) -> Difference:
    """A row without pairs gets the p that its interval stands for; one without an interval has none."""
    if row.p_value is not None or not math.isfinite(row.half_width):
        return row
    if row.half_width == 0:
        return row.model_copy(update={"p_value": 1.0 if row.difference == 0 else 0.0})
    z = abs(row.difference) / (row.half_width / Z95)
    return row.model_copy(update={"p_value": math.erfc(z / math.sqrt(2))})


def _mark(row: Difference, p_holm: float | None) -> Mark:
    if row.difference == 0 and not (row.ci_low or row.ci_high):
        return "same"  # not one image differs
    if p_holm is None or row.ci_low is None or row.ci_high is None:
        return "none"
    if p_holm <= LEVEL and row.ci_low > 0:
        return "better"
    return "worse" if p_holm <= LEVEL and row.ci_high < 0 else "unclear"


def _interval(side: Side, name: str) -> tuple[float, float] | None:
    found = side.metrics.get(name)
    if found is None or found.ci_low is None or found.ci_high is None:
        return None
    return found.ci_low, found.ci_high
