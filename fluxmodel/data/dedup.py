"""Duplicate groups: exact by pixels, near by perceptual hash; one survivor a group.

Two 64-bit hashes within distance d agree on at least one of d + 1 bands (pigeonhole), so sorting by each
band finds every such pair. A pair counts only if its colours agree as well; groups are the connected parts.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

# Largest difference of any of 8 x 8 mean colours between copies, levels of 255. On 1 360 emoji with distance 4 it
# found 94-100 % of copies (JPEG 50-90, scaled 0.5-1.5; 81 % halved and JPEG 75) and joined 5 by mistake; 16 found
# 89 % at JPEG 50, 32 gained 1 % and joined more.
MAX_COLOR_DIFFERENCE = 24
_PAIRS_AT_ONCE = 1 << 18
_COARSE_STEP = 17  # a dozen colours spread over the grid and the channels settle most pairs


def exact_groups(digests: Sequence[bytes]) -> np.ndarray:
    """Return for each of n digests the index of the first equal one, int64 [n]."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest, index) for index, digest in enumerate(digests)], np.int64)


def near_groups(hashes: np.ndarray, signatures: np.ndarray, distance: int) -> np.ndarray:
    """Return for each of n images the smallest index of its group of near duplicates, int64 [n].

    Args:
        hashes: uint64 [n] from `perceptual_hashes`.
        signatures: uint8 [n, 192] from `color_signatures`.
        distance: largest number of differing bits.
    """
    parent = np.arange(len(hashes), dtype=np.int64)
    for left, right in pairs_within(hashes, distance):
        apart = _roots(parent, left) != _roots(parent, right)
        left, right = left[apart], right[apart]
        for cells in (slice(None, None, _COARSE_STEP), slice(None)):
            alike = (
                _largest_difference(signatures[left, cells], signatures[right, cells]) <= MAX_COLOR_DIFFERENCE
            )
            left, right = left[alike], right[alike]
        _unite(parent, left, right)
    return _roots(parent, np.arange(len(parent)))


def pairs_within(hashes: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all pairs (left, right) of indices whose hashes differ in at most `distance` bits, in blocks.

    Each pair comes once, with left and right in either order.
    """
    edges = np.linspace(0, 64, distance + 2).round().astype(int).tolist()
    masks = [np.uint64((1 << stop) - (1 << start)) for start, stop in pairwise(edges)]
    for number, mask in enumerate(masks):
        band = hashes & mask
        order = np.argsort(band, kind="stable")
        for left, right in _pairs_in_runs(band[order]):
            left, right = order[left], order[right]
            differing = hashes[left] ^ hashes[right]
            near = np.bitwise_count(differing) <= distance
            for earlier in masks[:number]:
                near &= (differing & earlier) != 0  # or the earlier band has given the pair
            if near.any():
                yield left[near], right[near]


def survivors(groups: np.ndarray, areas: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    """Return for each of n images the index of its group's survivor: the largest area, then the smallest id."""
    rank_of_id = np.empty(len(ids), np.int64)
    rank_of_id[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    order = np.lexsort((rank_of_id, -areas, groups))
    _, first, inverse = np.unique(groups[order], return_index=True, return_inverse=True)
    survivor = np.empty(len(ids), np.int64)
    survivor[order] = order[first][inverse]
    return survivor


def _pairs_in_runs(values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all pairs of positions with equal values in a sorted array, at most `_PAIRS_AT_ONCE` + n a block."""
    n = len(values)
    if n < 2:
        return
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    ends = np.repeat(np.r_[starts[1:], n], np.diff(np.r_[starts, n]))
    partners = ends - np.arange(n) - 1  # how many later positions hold the same value
    total = np.cumsum(partners)
    begin = 0
    while begin < n:
        taken = total[begin - 1] if begin else 0
        stop = max(begin + 1, int(np.searchsorted(total, taken + _PAIRS_AT_ONCE, side="right")))
        counts = partners[begin:stop]
        if counts.any():
            left = np.repeat(np.arange(begin, stop), counts)
            offset = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
            yield left, left + 1 + offset
        begin = stop


def _largest_difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the largest absolute difference in each row of two uint8 arrays, uint8 [n]."""
    return (np.maximum(first, second) - np.minimum(first, second)).max(axis=1, initial=0)


def _unite(parent: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Join the groups of each pair in place, all pairs at once: the smaller root becomes the parent."""
    while len(left):
        a, b = _roots(parent, left), _roots(parent, right)
        low, high = np.minimum(a, b), np.maximum(a, b)
        apart = low != high
        np.minimum.at(parent, high[apart], low[apart])
        left, right = left[apart], right[apart]


def _roots(parent: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Return the root of each node, shortening the paths on the way."""
    roots = parent[nodes]
    while True:
        above = parent[roots]
        if np.array_equal(above, roots):
            parent[nodes] = roots
            return roots
        roots = above
