"""One number of many images as a histogram: counted so that no bar straddles a threshold, drawn as inline SVG.

Long tails are gathered in the first and last bar; what spans orders of magnitude is counted on a logarithmic axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

NUM_BINS = 40
_SPAN_OF_LOGARITHM = 60
_TAIL = 0.005
_WIDTH, _HEIGHT, _TOP, _BOTTOM, _SIDE = 340, 150, 30, 20, 6


@dataclass(frozen=True)
class Line:
    """A threshold: values beyond it on its side are dropped."""

    limit: float
    side: str


@dataclass(frozen=True)
class Histogram:
    """Counts between edges: of images kept, dropped by a threshold drawn here, dropped by another rule.

    Attributes:
        edges: rising, one more than there are bars.
        kept: a count for each bar.
        dropped: the same, of values beyond a line.
        other: the same, of the rest.
        logarithmic: how the edges are spaced.
        whole: each bar is one whole number, between edges at the halves.
        gathered: whether values lie below the first edge and above the last; they are in those bars.
        num: values counted.
        missing: images without a value.
    """

    edges: tuple[float, ...]
    kept: tuple[int, ...]
    dropped: tuple[int, ...]
    other: tuple[int, ...]
    logarithmic: bool
    whole: bool
    gathered: tuple[bool, bool]
    num: int
    missing: int


def count(
    values: np.ndarray, kept: np.ndarray, lines: Sequence[Line] = (), num_bins: int = NUM_BINS
) -> Histogram | None:
    """Count values, float64 [n], of which some are kept, bool [n]; nan is missing; None where no value is finite."""
    import numpy as np

    there = np.isfinite(values)
    numbers, kept = values[there], kept[there]
    if not len(numbers):
        return None
    beyond = np.zeros(len(numbers), bool)
    for line in lines:
        beyond |= numbers < line.limit if line.side == "min" else numbers > line.limit
    low, high = _range(numbers, lines)
    whole = bool((numbers == np.floor(numbers)).all()) and high - low < num_bins
    logarithmic = not whole and _is_wide(low, high)
    edges = _edges(low, high, logarithmic, whole, num_bins)
    edges = _with_lines(edges, [_parting(line, whole) for line in lines])
    clipped = np.clip(numbers, edges[0], edges[-1])
    kinds = (kept & ~beyond, beyond, ~kept & ~beyond)
    shown, dropped, other = (tuple(np.histogram(clipped[chosen], edges)[0].tolist()) for chosen in kinds)
    gathered = (bool(numbers.min() < edges[0]), bool(numbers.max() > edges[-1]))
    missing = int((~there).sum())
    placed = tuple(edges.tolist())
    return Histogram(placed, shown, dropped, other, logarithmic, whole, gathered, len(numbers), missing)


def draw(histogram: Histogram, lines: Sequence[tuple[Line, str]], title: str) -> str:
    """Return the histogram as SVG markup, each line drawn with its words."""
    places = _places(histogram)
    tallest = max(map(sum, zip(histogram.kept, histogram.dropped, histogram.other, strict=True)))
    floor = _HEIGHT - _BOTTOM
    scale = (floor - _TOP) / max(tallest, 1)
    bars = []
    for number, (left, right) in enumerate(pairwise(places)):
        top = floor
        for kind in ("kept", "other", "dropped"):
            height = getattr(histogram, kind)[number] * scale
            if height:
                height = max(height, 1.0)
                top -= height
                width = max(right - left - 0.8, 0.8)
                place = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"'
                bars.append(f'<rect class="{kind}" {place}/>')
    drawn = [_line(histogram, line, words, n) for n, (line, words) in enumerate(lines)]
    first, last = histogram.edges[0], histogram.edges[-1]
    if histogram.whole:
        first, last = first + 0.5, last - 0.5
    below, above = histogram.gathered
    labels = (
        f'<text x="{_SIDE}" y="{_HEIGHT - 5}">{"≤ " if below else ""}{number_words(first)}</text>'
        f'<text x="{_WIDTH - _SIDE}" y="{_HEIGHT - 5}" text-anchor="end">{"≥ " if above else ""}'
        f"{number_words(last)}</text>"
    )
    if histogram.logarithmic:
        labels += f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 5}" text-anchor="middle">(logarithmic)</text>'
    axis = f'<path class="axis" d="M{_SIDE} {floor}H{_WIDTH - _SIDE}"/>'
    head = f'<svg role="img" aria-label="{escape(title, quote=True)}" viewBox="0 0 {_WIDTH} {_HEIGHT}">'
    return f"{head}{''.join(bars)}{axis}{labels}{''.join(drawn)}</svg>"


def number_words(value: float) -> str:
    """Return a number in at most four significant digits, in words a person reads."""
    if abs(value) >= 1000 or value == int(value):
        return f"{float(f'{value:.4g}'):,.0f}"
    return f"{value:.3g}"


def _range(numbers: np.ndarray, lines: Sequence[Line]) -> tuple[float, float]:
    """The least and largest value to show: without tails that would squeeze the rest, but with every line in it."""
    import numpy as np

    low, high = float(numbers.min()), float(numbers.max())
    body = np.quantile(numbers, [_TAIL, 1 - _TAIL])
    width = float(body[1] - body[0])
    inside = [line.limit for line in lines if low <= line.limit <= high]
    if width and not _is_wide(low, high):
        low = max(low, min([float(body[0]) - width, *inside]))
        high = min(high, max([float(body[1]) + width, *inside]))
    reach = [line.limit for line in lines if _near(line.limit, low, high)]
    return min([low, *reach]), max([high, *reach])


def _near(limit: float, low: float, high: float) -> bool:
    """Whether a line outside the values is near enough to be drawn in its place."""
    width = max(high - low, abs(high) * 0.1)
    return low - 2 * width <= limit <= high + 2 * width


def _is_wide(low: float, high: float) -> bool:
    return low > 0 and high / low > _SPAN_OF_LOGARITHM


def _edges(low: float, high: float, logarithmic: bool, whole: bool, num_bins: int) -> np.ndarray:
    import numpy as np

    if whole:
        return np.arange(np.floor(low), np.ceil(high) + 2) - 0.5
    if low == high:
        return np.array([low - 0.5, low + 0.5])
    edges = np.geomspace(low, high, num_bins + 1) if logarithmic else np.linspace(low, high, num_bins + 1)
    edges[0], edges[-1] = low, np.nextafter(high, np.inf)
    return edges


def _parting(line: Line, whole: bool) -> float:
    """The least value on the upper side of a line: a limit itself is kept, whichever the side."""
    if whole:
        return math.ceil(line.limit) - 0.5 if line.side == "min" else math.floor(line.limit) + 0.5
    return line.limit if line.side == "min" else math.nextafter(line.limit, math.inf)


def _with_lines(edges: np.ndarray, partings: Sequence[float]) -> np.ndarray:
    """Edges with one on each parting, the nearest inner one moved there or a new one put in."""
    import numpy as np

    inner = [each for each in partings if edges[0] < each < edges[-1]]
    for each in inner:
        near = int(np.argmin(np.abs(edges[1:-1] - each))) + 1 if len(edges) > 2 else 0
        if near and edges[near] not in inner:
            edges[near] = each
        else:
            edges = np.sort(np.append(edges, each))
    return np.unique(edges)


def _places(histogram: Histogram) -> list[float]:
    """Where the edges stand in the drawing."""
    return [_place(histogram, edge) for edge in histogram.edges]


def _place(histogram: Histogram, value: float) -> float:
    first, last = histogram.edges[0], histogram.edges[-1]
    if histogram.logarithmic:
        value, first, last = math.log(max(value, first)), math.log(first), math.log(last)
    share = min(max((value - first) / (last - first), 0.0), 1.0)
    return _SIDE + share * (_WIDTH - 2 * _SIDE)


def _line(histogram: Histogram, line: Line, words: str, number: int) -> str:
    """A threshold as a line with its words beside it, or an arrow where it lies outside."""
    first, last = histogram.edges[0], histogram.edges[-1]
    top = 11 + 12 * (number % 2)
    if not first <= line.limit <= last:
        at_right = line.limit > last
        said = f"{escape(words)} →" if at_right else f"← {escape(words)}"
        x, anchor = (_WIDTH - _SIDE, "end") if at_right else (_SIDE, "start")
        return f'<text class="limit" x="{x}" y="{top}" text-anchor="{anchor}">{said}</text>'
    x = _place(histogram, _parting(line, histogram.whole))
    on_left = x > _WIDTH * 0.6
    return (
        f'<path class="limit" d="M{x:.1f} {top - 9}V{_HEIGHT - _BOTTOM}"/>'
        f'<text class="limit" x="{x - 4 if on_left else x + 4:.1f}" y="{top}" '
        f'text-anchor="{"end" if on_left else "start"}">{escape(words)}</text>'
    )
