"""The chapters of the page of curation: the funnel, the numbers with their thresholds, the images to judge them by.

Each chapter is drawn from measurements and decisions; nothing is decoded but the few images that are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from fluxmodel.data.curation_examples import (
    DuplicateGroup,
    Nearest,
    duplicate_groups,
    kept_examples,
    nearest,
)
from fluxmodel.data.histogram import Line, count, draw, number_words
from fluxmodel.data.measurements import numbers
from fluxmodel.data.page_markup import (
    Pictures,
    folded,
    grid,
    note,
    plain,
    section,
)

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from fluxmodel.data.curation_rules import CurationRules
    from fluxmodel.data.decisions import Decisions
    from fluxmodel.data.thresholds import Threshold

_NUMBERS = ("num_bytes", "width", "height", "sharpness", "brightness", "contrast", "entropy",
            "agreement", "aesthetic", "safety", "watermark")  # fmt: skip
_PURE = {"ratio", "of 1", "cosine", "probability"}
_UNITS = {"num_bytes": "bytes", "width": "pixels", "height": "pixels"}


@dataclass(frozen=True)
class Curated:
    """All that the page is drawn from.

    Attributes:
        record: content of curation.json.
        measurements: at least the `DECIDING_COLUMNS`.
        decisions: on them.
        rules: by which they were made.
        thresholds: all there are.
        first_captions: returns the first caption of chosen rows.
    """

    record: Mapping[str, Any]
    measurements: pa.Table
    decisions: Decisions
    rules: CurationRules
    thresholds: tuple[Threshold, ...]
    first_captions: Callable[[Sequence[int]], Mapping[int, str]]

    @property
    def standing(self) -> tuple[Threshold, ...]:
        """The thresholds that are switched on and were looked at."""
        return tuple(
            each
            for each in self.thresholds
            if getattr(self.rules, each.field) is not None and each.rule in self.decisions.values
        )

    def values(self, threshold: Threshold) -> np.ndarray:
        """What a threshold compares, float64 [n]."""
        return numbers(self.measurements, threshold.column)

    def text(self, row: int, column: str) -> str:
        """One text of one image."""
        return str(self.measurements[column][row].as_py() or "")

    def name(self, row: int) -> str:
        """The path of an image, else its id."""
        return self.text(row, "path") or self.text(row, "id")


@dataclass(frozen=True)
class Shown:
    """The images chosen for the page."""

    nearest: tuple[Nearest, ...]
    groups: tuple[DuplicateGroup, ...]
    num_groups: int
    kept: tuple[int, ...]

    def rows(self) -> list[int]:
        """All rows to read, the most telling first, as the budget of pictures may end before the last."""
        found: list[int] = []
        for each in self.nearest:
            found += [*each.dropped, *each.kept]
        for group in self.groups:
            found += [group.survivor, *group.members]
        return list(dict.fromkeys([*found, *self.kept]))


def choose(curated: Curated) -> Shown:
    """Choose the images to show."""
    sides = []
    for threshold in curated.standing:
        values, limit = curated.values(threshold), getattr(curated.rules, threshold.field)
        sides.append(nearest(values, curated.decisions, threshold, limit))
    groups, num_groups = duplicate_groups(curated.decisions)
    return Shown(tuple(sides), groups, num_groups, kept_examples(curated.decisions))


def histogram_section(curated: Curated) -> str:
    """Every measured number with its thresholds drawn in."""
    panels, drawn = [], set()
    by_column: dict[str, list[Threshold]] = {}
    for threshold in curated.standing:
        by_column.setdefault(threshold.column, []).append(threshold)
    for column, thresholds in by_column.items():
        drawn.add(column)
        values = curated.values(thresholds[0])
        panels.append(_panel(curated, column, thresholds[0].unit, values, thresholds))
    for column in _NUMBERS:
        if column not in drawn and column in curated.measurements.column_names:
            values = numbers(curated.measurements, column)
            panels.append(_panel(curated, column, _UNITS.get(column, ""), values, ()))
    keys = (
        '<p class="keys"><span><i class="key" style="background:#7fb0bf"></i>kept</span>'
        '<span><i class="key" style="background:#cf6a55"></i>beyond this threshold</span>'
        '<span><i class="key" style="background:#d5dadd"></i>dropped by another rule</span></p>'
    )
    found = "".join(panel for panel in panels if panel)
    lead = "One bar is a range of values, its height the number of images. A dashed line is a threshold."
    return section(
        "numbers", "What was measured", lead, keys + f'<div class="panels">{found}</div>' if found else ""
    )


def threshold_section(curated: Curated, shown: Shown, pictures: Pictures) -> str:
    """The last kept and the first dropped at each threshold; those that dropped nothing are folded away."""
    open_, idle = [], []
    for threshold, sides in zip(curated.standing, shown.nearest, strict=True):
        limit = getattr(curated.rules, threshold.field)
        words = f"{plain(threshold.field)} {_measured(limit, threshold)}"
        kept = [_figure(curated, pictures, row, threshold, "kept") for row in sides.kept]
        dropped = [_figure(curated, pictures, row, threshold, "dropped") for row in sides.dropped]
        if dropped:
            both = f"<div><h3>First dropped</h3>{grid(dropped)}</div>"
            both = f"<div><h3>Last kept</h3>{grid(kept) or note('No image.')}</div>" + both
            open_.append(f'<div class="rule"><h3>{escape(words)}</h3><div class="sides">{both}</div></div>')
        elif kept:
            idle.append(f'<div class="rule"><h3>{escape(words)}</h3>{grid(kept)}</div>')
    lead = (
        "The images whose number lies nearest each threshold, on both sides. If those dropped look as good as those "
        "kept, the threshold is too strict; if those kept look bad, it is too lax."
    )
    folded_ = folded("Thresholds that dropped no image, and the kept nearest them", "".join(idle))
    return section("thresholds", "At the thresholds", lead, *open_, folded_)


def duplicate_section(curated: Curated, shown: Shown, pictures: Pictures) -> str:
    """Groups of duplicates, the survivor first."""
    groups = []
    for group in shown.groups:
        figures = [
            pictures.figure(group.survivor, curated.name(group.survivor), ["kept for the group"], "kept")
        ]
        if not curated.decisions.kept[group.survivor]:
            figures = [
                pictures.figure(group.survivor, curated.name(group.survivor), ["dropped itself"], "dropped")
            ]
        figures += [
            pictures.figure(row, curated.name(row), [_why_duplicate(curated.decisions, row)], "dropped")
            for row in group.members
        ]
        more = group.size - 1 - len(group.members)
        groups.append(f'<div class="group">{grid(figures)}{note(f"and {more:,} more" if more else "")}</div>')
    lead = f"{shown.num_groups:,} groups of images that are or look the same; of each, one is kept."
    if len(groups) < shown.num_groups:
        lead += f" Shown are {len(groups)}: the {len(groups) // 2} largest and some spread over the others."
    return section(
        "duplicates", "Duplicates", lead, f'<div class="groups">{"".join(groups)}</div>' if groups else ""
    )


def kept_section(curated: Curated, shown: Shown, pictures: Pictures) -> str:
    """Kept images, spread evenly over the source."""
    captions = curated.first_captions(shown.kept)
    figures = [pictures.figure(row, curated.name(row), [captions.get(row, "")]) for row in shown.kept]
    lead = f"{len(figures)} of {curated.record['kept']:,}, spread evenly over the source in its order."
    return section("kept", "Kept", lead, grid(figures))


def _panel(
    curated: Curated, column: str, unit: str, values: np.ndarray, thresholds: Sequence[Threshold]
) -> str:
    lines = [Line(float(getattr(curated.rules, each.field)), each.side) for each in thresholds]
    histogram = count(values, curated.decisions.kept, lines)
    if histogram is None:
        return ""
    words = [f"{each.side} {number_words(line.limit)}" for each, line in zip(thresholds, lines, strict=True)]
    title = plain(column) + (f", {unit}" if unit else "")
    missing = f" {histogram.missing:,} have none." if histogram.missing else ""
    svg = draw(histogram, list(zip(lines, words, strict=True)), title)
    return f"<div><h3>{escape(title)}</h3>{svg}{note(f'{histogram.num:,} images.{missing}')}</div>"


def _figure(curated: Curated, pictures: Pictures, row: int, threshold: Threshold, kind: str) -> str:
    words = _measured(float(curated.values(threshold)[row]), threshold)
    return pictures.figure(row, curated.name(row), [words], kind)


def _measured(value: float, threshold: Threshold) -> str:
    """A value with its unit, if it has one."""
    return number_words(value) if threshold.unit in _PURE else f"{number_words(value)} {threshold.unit}"


def _why_duplicate(decisions: Decisions, row: int) -> str:
    """The rule by which an image is a duplicate, with the distance where it has one."""
    for rule in decisions.rules:
        if "duplicate" in rule and decisions.passed[rule][row] == 0:
            value = float(decisions.values[rule][row]) if rule in decisions.values else float("nan")
            unit = "cosine" if rule == "embedding_duplicate" else "bits"
            return plain(rule) + ("" if value != value else f", {number_words(value)} {unit}")
    return ""
