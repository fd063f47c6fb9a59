"""Which images the page of curation shows: few, chosen by the numbers alone, so that equal data shows the same.

Nearest a threshold: by distance to it, ties by place in the source. Duplicate groups: the largest, then some spread
evenly over the others. Kept: spread evenly over the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fluxmodel.data.curation_funnel import fails

if TYPE_CHECKING:
    import numpy as np

    from fluxmodel.data.decisions import Decisions
    from fluxmodel.data.thresholds import Threshold

ReadImages = Callable[[Sequence[int]], Iterable[tuple[int, bytes]]]
"""Yields these rows of the measurements with their encoded images, as far as they have one, in any order."""

MOST_EACH_SIDE = 6
MOST_GROUPS, MOST_MEMBERS = 12, 5
MOST_KEPT = 24


@dataclass(frozen=True)
class Nearest:
    """Images nearest a threshold, rows of the measurements: last kept and first dropped, nearest first."""

    kept: tuple[int, ...]
    dropped: tuple[int, ...]


@dataclass(frozen=True)
class DuplicateGroup:
    """A survivor and the first of the images dropped for it, of `size` in all with the survivor."""

    survivor: int
    members: tuple[int, ...]
    size: int


def nearest(
    values: np.ndarray,
    decisions: Decisions,
    threshold: Threshold,
    limit: float,
    most: int = MOST_EACH_SIDE,
) -> Nearest:
    """Return the images nearest a threshold on both sides; `values` is what it compares, float64 [n].

    The last kept are images that every rule keeps. The first dropped fail this rule, whatever the others say.
    """
    import numpy as np

    passed = decisions.passed[threshold.rule]
    there = np.isfinite(values) & (passed >= 0)
    beyond = fails(values, threshold.side, limit)
    distance = np.abs(values - limit)

    def closest(chosen: np.ndarray) -> tuple[int, ...]:
        rows = np.flatnonzero(chosen)
        return tuple(rows[np.argsort(distance[rows], kind="stable")[:most]].tolist())

    return Nearest(
        closest(there & ~beyond & decisions.kept), closest(there & beyond & (passed == 0) & ~decisions.kept)
    )


def duplicate_groups(
    decisions: Decisions, most: int = MOST_GROUPS, most_members: int = MOST_MEMBERS
) -> tuple[tuple[DuplicateGroup, ...], int]:
    """Return some groups of duplicates, the largest first, and the number of all."""
    import numpy as np

    n = len(decisions.survivor)
    copies = np.flatnonzero(decisions.survivor != np.arange(n))
    survivor = decisions.survivor[copies]
    order = np.argsort(survivor, kind="stable")
    survivors, starts, counts = np.unique(survivor[order], return_index=True, return_counts=True)
    by_size = np.lexsort((survivors, -counts))
    largest, others = by_size[: most // 2], by_size[most // 2 :]
    chosen = [*largest, *others[spread(len(others), most - len(largest))]]
    groups = []
    for number in chosen:
        members = copies[order[starts[number] : starts[number] + min(counts[number], most_members)]]
        groups.append(
            DuplicateGroup(int(survivors[number]), tuple(members.tolist()), int(counts[number]) + 1)
        )
    return tuple(groups), len(survivors)


def kept_examples(decisions: Decisions, most: int = MOST_KEPT) -> tuple[int, ...]:
    """Return kept images spread evenly over the source."""
    import numpy as np

    rows = np.flatnonzero(decisions.kept)
    return tuple(rows[spread(len(rows), most)].tolist())


def spread(n: int, most: int) -> np.ndarray:
    """Return at most `most` places spread evenly over n, first and last among them, int64."""
    import numpy as np

    return np.unique(np.linspace(0, n - 1, min(most, n)).astype(np.int64)) if n else np.empty(0, np.int64)
