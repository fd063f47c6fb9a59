"""A compared number in words: shares in per cent and points, everything else as it is."""

from __future__ import annotations

from .compare import Difference

_NO_SHARES = (
    "clip",
    "fd",
    "kid",
    "mind",
    "density",
    "latency_ms",
    "peak_memory_mib",
    "nearest_distance",
    "contrast",
)


def is_share(name: str) -> bool:
    """Return whether a number is a share of 1, told in per cent."""
    return name.rpartition("/")[2] not in _NO_SHARES


def told(row: Difference) -> str:
    """Return a compared number in words: from, to, difference and interval."""
    value = f"{number(row.name, row.champion)} -> {number(row.name, row.challenger)}"
    return f"{row.name} {value}, difference {signed(row.name, row.difference)} {interval_of(row)}"


def number(name: str, value: float | None) -> str:
    """Return a value in words."""
    if value is None:
        return "none"
    return f"{100 * value:.1f} %" if is_share(name) else f"{value:.2f}"


def borne(name: str, value: float) -> str:
    """Return a loss or margin in words."""
    return f"{100 * value:.1f} points" if is_share(name) else f"{value:.2f}"


def signed(name: str, value: float) -> str:
    """Return a difference in words, with its sign."""
    return f"{100 * value:+.1f} points" if is_share(name) else f"{value:+.2f}"


def in_words(row: Difference) -> tuple[str, str, str, str]:
    """Return a compared number as the cells of a table: challenger, champion, difference, interval."""
    values = number(row.name, row.challenger), number(row.name, row.champion)
    return *values, signed(row.name, row.difference), interval_of(row)


def interval_of(row: Difference) -> str:
    """Return the interval of a difference in words, shares in points."""
    if row.ci_low is None or row.ci_high is None:
        return "(no interval)"
    scale = 100 if is_share(row.name) else 1
    return f"[{scale * row.ci_low:+.1f}, {scale * row.ci_high:+.1f}]"
