"""What each rule of curation costs: in turn, alone, and when its threshold is moved.

In turn a rule removes what the rules before it left; alone it removes all that fails it. Everything is told from
decisions, which are a function of measurements and rules: nothing is decoded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fluxmodel.data.measurements import numbers

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from fluxmodel.data.curation_rules import CurationRules
    from fluxmodel.data.decisions import Decisions
    from fluxmodel.data.thresholds import Threshold

FACTORS = (0.8, 0.9, 1.1, 1.2)
# They compare an image with others: no column of one image says what they do.
_TOGETHER = (
    ("near_duplicate", "near_duplicate_distance", "bits", "max"),
    ("embedding_duplicate", "max_similarity", "cosine", "max"),
    ("balance", "max_images_a_word", "images", "max"),
)


@dataclass(frozen=True)
class FunnelStep:
    """What one rule removes.

    Attributes:
        rule: its name.
        removed: images that fail it and none of the rules before it.
        alone: images that fail it, whatever the others say.
        only: images that fail it and no other rule.
        unseen: images it had nothing to look at, as a rule before it or the decoder left nothing.
        left: images that pass it and all the rules before it.
    """

    rule: str
    removed: int
    alone: int
    only: int
    unseen: int
    left: int


@dataclass(frozen=True)
class Change:
    """What one moved threshold would keep; `kept` is None where `refused` says why it cannot stand there."""

    factor: float
    value: float | None
    kept: int | None
    difference: int | None
    refused: str = ""


@dataclass(frozen=True)
class Sensitivity:
    """One threshold as it stands, and moved by each of `FACTORS`."""

    rule: str
    field: str
    unit: str
    value: float
    changes: tuple[Change, ...]


def funnel(decisions: Decisions) -> tuple[FunnelStep, ...]:
    """Return what each rule removes, in the order of the rules; what the last leaves is what is kept.

    Duplicates are looked for among what passes all other rules, so theirs is the same in turn and alone, but for an
    image that is both an exact and a near duplicate.
    """
    import numpy as np

    first = decisions.first_failed()
    failures = np.zeros(len(first), np.int64)
    for rule in decisions.rules:
        failures += decisions.passed[rule] == 0
    steps, left = [], len(first)
    for number, rule in enumerate(decisions.rules):
        failed = decisions.passed[rule] == 0
        removed = int((first == number).sum())
        left -= removed
        only, unseen = int((failed & (failures == 1)).sum()), int((decisions.passed[rule] < 0).sum())
        steps.append(FunnelStep(rule, removed, int(failed.sum()), only, unseen, left))
    assert left == int(decisions.kept.sum()), "an image was dropped without a rule, or kept against one"
    return tuple(steps)


def sensitivity(
    measurements: pa.Table,
    decisions: Decisions,
    rules: CurationRules,
    thresholds: Sequence[Threshold],
    decide: Callable[[CurationRules], Decisions],
) -> tuple[Sensitivity, ...]:
    """Return what 10 and 20 % more or less of each threshold would keep; rules that are off are left out.

    Args:
        measurements: of the images.
        decisions: as they stand under `rules`.
        rules: as they stand.
        thresholds: those to move, one at a time.
        decide: returns the decisions on the same images under other rules.
    """
    import numpy as np

    found = []
    for threshold in thresholds:
        value = getattr(rules, threshold.field)
        if value is None or threshold.rule not in decisions.rules:
            continue
        values = numbers(measurements, threshold.column)
        # A rule that compares something else besides, as that of captions, is asked anew every time.
        is_plain = np.array_equal(values, decisions.values[threshold.rule], equal_nan=True)
        found.append(
            (threshold.rule, threshold.field, threshold.unit, threshold.side, values if is_plain else None)
        )
    found += [(*each, None) for each in _TOGETHER if each[0] in decisions.rules]
    return tuple(
        Sensitivity(
            rule,
            field,
            unit,
            float(getattr(rules, field)),
            tuple(_change(factor, field, side, values, decisions, rules, decide) for factor in FACTORS),
        )
        for rule, field, unit, side, values in found
    )


def summary(
    measurements: pa.Table,
    decisions: Decisions,
    rules: CurationRules,
    thresholds: Sequence[Threshold],
    decide: Callable[[CurationRules], Decisions],
) -> dict[str, Any]:
    """Return `funnel` and `sensitivity` as they stand in curation.json."""
    moves = sensitivity(measurements, decisions, rules, thresholds, decide)
    return {
        "funnel": [asdict(step) for step in funnel(decisions)],
        "sensitivity": [asdict(each) for each in moves],
    }


def fails(values: np.ndarray, side: str, limit: float) -> np.ndarray:
    """Return which values lie beyond a limit, bool [n]; nan, which was not measured, does not."""
    return values < limit if side == "min" else values > limit


def moved(value: float, factor: float) -> float:
    """Return a threshold times a factor; a whole number moves by at least one."""
    if not isinstance(value, int):
        return value * factor
    exact = round(value * factor, 9)
    return math.floor(exact) if factor < 1 else math.ceil(exact)


def _change(
    factor: float,
    field: str,
    side: str,
    values: np.ndarray | None,
    decisions: Decisions,
    rules: CurationRules,
    decide: Callable[[CurationRules], Decisions],
) -> Change:
    """Decide anew only where the moved threshold may change the answer on an image; None for `values`: always."""
    import numpy as np

    limit, kept = getattr(rules, field), int(decisions.kept.sum())
    value = moved(limit, factor)
    try:
        other = type(rules).model_validate(rules.model_dump() | {field: value})
    except ValidationError as error:
        return Change(factor, float(value), None, None, str(error.errors()[0]["msg"]))
    is_same = values is not None and np.array_equal(fails(values, side, limit), fails(values, side, value))
    would = kept if is_same else int(decide(other).kept.sum())
    return Change(factor, float(value), would, would - kept)
