"""Numbers as the report writes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

_SHARES = (
    "attr_acc",
    "all_correct",
    "undecided",
    "extra_objects",
    "geneval",
    "retrieval",
    "detector_attr_acc",
    "detector_agreement",
    "precision",
    "recall",
    "coverage",
    "memorised",
)
# Distances below this are rounding.
_TINY = 1e-9


def percent_with_interval(metric: Mapping[str, Any]) -> str:
    """A share in per cent with its interval."""
    text = f"{metric['value']:.1%}"
    if metric["ci_low"] is None:
        return text
    return f"{text} ({100 * metric['ci_low']:.1f} to {100 * metric['ci_high']:.1f})"


def number(name: str, value: float | None) -> str:
    """A metric's value by its name: shares in per cent, distances with three digits."""
    if value is None:
        return "–"
    name = name.rsplit("/", 1)[-1]
    if name in _SHARES:
        return f"{value:.1%}"
    if name == "latency_ms":
        return f"{value:.0f} ms"
    if name == "peak_memory_mib":
        return f"{value:,.0f} MiB"
    if name == "clip":
        return f"{value:.1f}"
    return "0" if abs(value) < _TINY else f"{value:#.3g}".replace("e-0", "e-").rstrip(".")


def cell(name: str, value: float | None, interval: Sequence[float | None] | None) -> str:
    """A table's cell: the value and beneath it the interval."""
    text = number(name, value)
    if value is None or not interval or interval[0] is None or interval[1] is None:
        return text
    low, high = (number(name, end).removesuffix("%") for end in interval)
    return f'{text}<span class="ci">{low} to {high}</span>'


def interval_cell(name: str, found: Mapping[str, Any] | None) -> str:
    """A table's cell of a measurement, a dash where there is none."""
    return cell(name, found["value"], [found["ci_low"], found["ci_high"]]) if found else "–"


def at_n(floor: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    """`, n = ...` for a floor of another number of images than the metric it stands beside, else nothing."""
    return "" if floor["n"] == metric["n"] else f", n = {floor['n']:,}"


def lora_samplings(names: Collection[str]) -> list[str]:
    """Of the ways a LoRA was sampled, the base's and that of the rectified model with fewest steps."""
    rectified = [name for name in names if name.startswith("rectified_")]
    first = sorted(rectified, key=lambda name: int(name.removeprefix("rectified_")))[:1]
    return [name for name in names if name == "base" or name in first]


def plural(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
