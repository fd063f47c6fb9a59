"""Duplicate groups: exact by pixels, near by perceptual hash; one survivor a group.

Cut 64 bits into d + k bands: two hashes within distance d agree on at least k of them (pigeonhole), so sorting by
every choice of k bands finds every such pair (Norouzi et al. 2012, arXiv:1307.2982, do so with k = 1). More hashes take
a larger k, hence longer keys, so that few agree by chance; a run that is long all the same is cut again by the bits
that its key left. A pair counts only if its colours agree as well; groups are the connected parts.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Protocol

import numpy as np

from fluxmodel.data.color_agreement import colors_alike

_PAIRS_AT_ONCE = 1 << 18
_ROWS_AT_ONCE = 1 << 14  # signatures in memory at once: 3 MB
_LONG_RUN = 1 << 9  # hashes that agree on a key; more are cut again
_MAX_BANDS_A_KEY = 3
_MAX_CUTS = 3
_VECTORS_AT_ONCE, _NUM_DIRECTIONS = 512, 32
_MANY = 0.005  # of the pairs of a block: one by one they would take longer than a product of whole vectors
_ROUNDING = 1e-4  # of a squared distance in float32
# Different images of one hash, such as flat ones: so many are compared each with each; more, with so many leaders.
CROWD, _LEADERS = 512, 64


def exact_groups(digests: np.ndarray) -> np.ndarray:
    """Return for each of n digests, or numbers that stand for them, the index of the first equal one, int64 [n]."""
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


class Rows(Protocol):
    """Rows of a matrix, copied only when they are asked for."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Return these rows, [len(rows), d]."""
        ...


def near_groups(hashes: np.ndarray, signatures: Rows, distance: int) -> np.ndarray:
    """Return for each of n images the smallest index of its group of near duplicates, int64 [n].

    Args:
        hashes: uint64 [n] from `perceptual_hashes`.
        signatures: uint8 [n, 192] from `color_signatures`, an array or whatever gives its rows.
        distance: largest number of differing bits.
    """
    parent = _equal_images(hashes, signatures)
    active = np.flatnonzero(parent == np.arange(len(parent)))
    active = _thin_out_crowds(parent, active, hashes, signatures)
    for left, right in pairs_within(hashes[active], distance):
        left, right = active[left], active[right]
        apart = _roots(parent, left) != _roots(parent, right)
        left, right = left[apart], right[apart]
        for start in range(0, len(left), _ROWS_AT_ONCE):
            one, other = left[start : start + _ROWS_AT_ONCE], right[start : start + _ROWS_AT_ONCE]
            alike = colors_alike(signatures[one], signatures[other])
            _unite(parent, one[alike], other[alike])
    return _roots(parent, np.arange(len(parent)))


def pairs_within(hashes: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all pairs (left, right) of indices whose hashes differ in at most `distance` bits, in blocks.

    Each pair comes once, with left and right in either order. Memory is that of sorting and of a block.
    """
    order = np.argsort(hashes, kind="stable")
    values, first, counts = np.unique(hashes[order], return_index=True, return_counts=True)
    for left, right in _pairs_in_runs(hashes[order]):
        yield order[left], order[right]
    if len(values) < 2:
        return
    for left, right in _pairs_among(values, np.arange(len(values)), distance, _MAX_CUTS):
        for one, other in _products(first[left], counts[left], first[right], counts[right]):
            yield order[one], order[other]


def _pairs_among(
    hashes: np.ndarray, members: np.ndarray, distance: int, cuts: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs among `members` of different hashes; long runs are cut again, `cuts` - 1 times at most."""
    bands, per_key = _bands(hashes[members], distance)
    for chosen in combinations(range(len(bands)), per_key):
        key = hashes[members] & np.bitwise_or.reduce(bands[list(chosen)])
        order = np.argsort(key, kind="stable")
        # The same pair agrees on other choices too: it belongs to the first.
        earlier = [bands[band] for band in range(chosen[-1]) if band not in chosen]
        for left, right in _candidates(hashes, members[order], key[order], distance, cuts):
            differing = hashes[left] ^ hashes[right]
            near = np.bitwise_count(differing) <= distance
            for mask in earlier:
                near &= (differing & mask) != 0
            if near.any():
                yield left[near], right[near]


def _candidates(
    hashes: np.ndarray, ordered: np.ndarray, key: np.ndarray, distance: int, cuts: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of equal keys: all of them in short runs, the near ones in long runs."""
    starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    lengths = np.diff(np.r_[starts, len(key)])
    is_long = (lengths > _LONG_RUN) & (lengths < len(key)) & (cuts > 1)
    for start, length in zip(starts[is_long], lengths[is_long], strict=True):
        yield from _pairs_among(hashes, ordered[start : start + length], distance, cuts - 1)
    short = np.repeat(~is_long, lengths)
    ordered, key = ordered[short], key[short]
    for left, right in _pairs_in_runs(key):
        yield ordered[left], ordered[right]


def _bands(hashes: np.ndarray, distance: int) -> tuple[np.ndarray, int]:
    """Return disjoint masks that together cover the bits in which the hashes differ, uint64 [d + k], and k.

    Bits are dealt out by how evenly they divide the hashes, so that every band divides them about alike.
    """
    sample = hashes[:: max(1, len(hashes) // 4096)]
    share = np.array([np.count_nonzero(sample & np.uint64(1 << bit)) for bit in range(64)]) / len(sample)
    is_split = (share > 0) & (share < 1)
    inner = np.where(is_split, share, 0.5)
    entropy = np.where(is_split, -(inner * np.log2(inner) + (1 - inner) * np.log2(1 - inner)), 0)
    per_key = 1
    while per_key < _MAX_BANDS_A_KEY:
        if len(hashes) <= 4 * 2 ** (entropy.sum() * per_key / (distance + per_key)):
            break  # by chance at most a few agree
        per_key += 1
    bands = np.zeros(distance + per_key, np.uint64)
    turns = [*range(len(bands)), *reversed(range(len(bands)))]
    for place, bit in enumerate(np.argsort(-entropy, kind="stable").tolist()):
        bands[turns[place % len(turns)]] |= np.uint64(1 << bit)
    return bands, per_key


def _products(
    first: np.ndarray, num_first: np.ndarray, second: np.ndarray, num_second: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all pairs of a position in a run of the one and in a run of the other, runs given by start and length."""
    total = np.cumsum(num_first * num_second)
    begin = 0
    while begin < len(total):
        taken = total[begin - 1] if begin else 0
        stop = max(begin + 1, int(np.searchsorted(total, taken + _PAIRS_AT_ONCE, side="right")))
        sizes = (num_first * num_second)[begin:stop]
        number = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        row, column = np.divmod(number, np.repeat(num_second[begin:stop], sizes))
        yield np.repeat(first[begin:stop], sizes) + row, np.repeat(second[begin:stop], sizes) + column
        begin = stop


def similar_groups(vectors: np.ndarray, cosine: float) -> np.ndarray:
    """Return for each of n images the smallest index of its group: joined are pairs that agree more than `cosine`.

    All pairs are compared, most of them by a few directions alone, those of the largest spread: they bound the distance
    from below, so no pair is missed. Where they tell little apart, whole vectors are compared at once.

    Args:
        vectors: float [n, d] of length 1.
        cosine: that a pair has to exceed.
    """
    parent = np.arange(len(vectors))
    if not len(vectors):
        return parent
    rows = vectors.astype(np.float32)
    few = rows @ _directions(rows)
    lengths, ones = (few**2).sum(1, keepdims=True), np.ones((len(few), 1), np.float32)
    one_side, other_side = np.hstack([-2 * few, lengths, ones]), np.hstack([few, ones, lengths])
    for start in range(0, len(rows), _VECTORS_AT_ONCE):
        here = slice(start, start + _VECTORS_AT_ONCE)
        near = one_side[here] @ other_side[start:].T <= 2 - 2 * cosine + _ROUNDING  # |x|^2 - 2 x y + |y|^2
        if near.mean() > _MANY:
            near = rows[here] @ rows[start:].T > cosine - _ROUNDING
        left, right = np.nonzero(near)
        left, right = left[left < right] + start, right[left < right] + start
        for part in range(0, len(left), _PAIRS_AT_ONCE):
            one, other = left[part : part + _PAIRS_AT_ONCE], right[part : part + _PAIRS_AT_ONCE]
            alike = (rows[one] * rows[other]).sum(1) > cosine
            _unite(parent, one[alike], other[alike])
    return _roots(parent, np.arange(len(parent)))


def _directions(rows: np.ndarray) -> np.ndarray:
    """Return the directions in which rows spread most, orthonormal, float32 [d, at most 32]."""
    sample = rows[:: max(1, len(rows) // 4096)].astype(np.float64)
    spread = sample - sample.mean(axis=0)
    return np.linalg.eigh(spread.T @ spread)[1][:, ::-1][:, :_NUM_DIRECTIONS].astype(np.float32)


def survivors(groups: np.ndarray, areas: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return for each of n images the index of its group's survivor: the largest area, then the smallest id."""
    order = np.lexsort((ids, -areas, groups))
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


def _equal_images(hashes: np.ndarray, signatures: Rows) -> np.ndarray:
    """Return for each image the first with equal hash and colours, int64 [n]."""
    digests = hashes.copy()
    for here in _blocks(len(hashes)):
        rows = signatures[here]
        weights = np.random.default_rng(0).integers(1, 2**63, rows.shape[1], dtype=np.uint64) | np.uint64(1)
        for column, weight in enumerate(weights):
            digests[here] = digests[here] * np.uint64(0x9E3779B97F4A7C15) + rows[:, column] * weight
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    found = first[inverse]
    is_equal = (hashes == hashes[found]) & _rows_equal(signatures, found)
    return np.where(is_equal, found, np.arange(len(hashes)))


def _rows_equal(rows: Rows, others: np.ndarray) -> np.ndarray:
    """Return whether each row equals that of another index, bool [n]."""
    equal = np.empty(len(others), bool)
    for here in _blocks(len(others)):
        equal[here] = (rows[here] == rows[others[here]]).all(axis=1)
    return equal


def _blocks(count: int) -> Iterator[np.ndarray]:
    """Yield the indices below a count, some at a time."""
    for start in range(0, count, _ROWS_AT_ONCE):
        yield np.arange(start, min(start + _ROWS_AT_ONCE, count))


def _thin_out_crowds(
    parent: np.ndarray, active: np.ndarray, hashes: np.ndarray, signatures: Rows
) -> np.ndarray:
    """Join what is alike in crowds of one hash in place; return `active` with only the leaders of such crowds.

    A leader is an image that is like no leader before it; with `_LEADERS` of them the rest of a crowd stays as it is.
    """
    _, inverse, counts = np.unique(hashes[active], return_inverse=True, return_counts=True)
    stays = counts[inverse] <= CROWD
    crowded = np.flatnonzero(~stays)
    crowded = crowded[np.argsort(inverse[crowded], kind="stable")]
    for start, stop in _runs(inverse[crowded]):
        rest = crowded[start:stop]
        for _ in range(_LEADERS):
            if not len(rest):
                break
            members = active[rest]
            alike = _like_the_first(members, signatures)
            _unite(parent, np.full(int(alike.sum()), members[0]), members[alike])
            stays[rest[0]] = True
            rest = rest[~alike]
    return active[stays]


def _like_the_first(members: np.ndarray, signatures: Rows) -> np.ndarray:
    """Return which images have colours like those of the first, bool [n]."""
    leader, found = signatures[members[:1]], np.empty(len(members), bool)
    for here in _blocks(len(members)):
        rows = signatures[members[here]]
        found[here] = colors_alike(np.broadcast_to(leader, rows.shape), rows)
    return found


def _runs(values: np.ndarray) -> list[tuple[int, int]]:
    """Return where each run of equal values in a sorted array starts and stops."""
    edges = np.flatnonzero(np.diff(values)) + 1
    return list(zip([0, *edges.tolist()], [*edges.tolist(), len(values)], strict=True)) if len(values) else []


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
