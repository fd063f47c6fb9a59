"""Intervals and exact tests: what a difference between two models is worth.

Images of one prompt are not independent, so the bootstrap draws whole prompts, and the sign-flip test flips whole
prompts. Distances between distributions are never bootstrapped: drawing with replacement repeats images, which shifts
the Frechet distance upwards so far that its "95 %" interval misses the point itself; leaving out one block of
25 at a time does not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Z95 = 1.959963984540054
# Two-sided 95 % quantiles of Student's t by degrees of freedom; the normal one beyond.
_STUDENT_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262,
               10: 2.228, 12: 2.179, 15: 2.131, 19: 2.093, 24: 2.064, 29: 2.045, 49: 2.010, 99: 1.984}  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval, the number of units behind it and how the interval was made."""

    value: float
    ci_low: float
    ci_high: float
    n: int
    method: str


def wilson(num_right: int, n: int) -> Interval:
    """Wilson's score interval of a proportion; stays inside [0, 1] and is honest at 0 and n of n."""
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, "Wilson 95 %")
    share = num_right / n
    denominator = 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / denominator
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n)) / denominator
    low = 0.0 if num_right == 0 else max(0.0, centre - half)
    high = 1.0 if num_right == n else min(1.0, centre + half)
    return Interval(share, low, high, n, "Wilson 95 %")


def clustered_bootstrap(
    values: Sequence[float] | np.ndarray, clusters: Sequence[str], seed: int = 0, num_draws: int = 2000
) -> Interval:
    """Mean of `values` with a percentile interval from drawing whole clusters (prompts) with replacement."""
    values = np.asarray(values, dtype=np.float64)
    method = f"bootstrap by prompt, {num_draws} draws, 95 %"
    if values.size == 0:
        return Interval(math.nan, math.nan, math.nan, 0, method)
    _, index = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    sums, counts = np.bincount(index, weights=values), np.bincount(index).astype(np.float64)
    weights = _draw_weights(seed, len(counts), num_draws)
    means = (weights @ sums) / (weights @ counts)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high), int(values.size), method)


@lru_cache(maxsize=4)
def _draw_weights(seed: int, num_clusters: int, num_draws: int) -> np.ndarray:
    """How often each cluster is drawn, [draws, clusters]; the same for every metric, so draws are paired too."""
    generator = np.random.default_rng(np.random.SeedSequence([seed, num_clusters]))
    drawn = generator.integers(num_clusters, size=(num_draws, num_clusters))
    drawn += num_clusters * np.arange(num_draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=num_draws * num_clusters).reshape(num_draws, -1).astype(float)


def mean_share(shares: Sequence[float] | np.ndarray, clusters: Sequence[str], seed: int = 0) -> Interval:
    """Mean of values in [0, 1]; where all are 0 or all are 1 nothing can be resampled, and Wilson's bound stands."""
    shares = np.asarray(shares, dtype=np.float64)
    if shares.size and (shares == shares[0]).all() and shares[0] in (0.0, 1.0):
        return wilson(int(shares.sum()), int(shares.size))
    return clustered_bootstrap(shares, clusters, seed)


def proportion(right: Sequence[bool] | np.ndarray, clusters: Sequence[str], seed: int = 0) -> Interval:
    """Share of `right`: Wilson where each prompt occurs once, bootstrap by prompt where some repeat."""
    right = np.asarray(right, dtype=bool)
    share = float(right.mean()) if right.size else math.nan
    if len(set(clusters)) == right.size or share in (0.0, 1.0):
        return wilson(int(right.sum()), int(right.size))
    return clustered_bootstrap(right.astype(np.float64), clusters, seed)


def jackknife(value: float, left_out: np.ndarray, n: int, floor: float | None = None) -> Interval:
    """Interval of `value` from its values with one of `len(left_out)` equal blocks left out at a time.

    `floor` cuts the interval where the quantity cannot lie below (a distance: 0).
    """
    num_blocks = len(left_out)
    variance = (num_blocks - 1) / num_blocks * float(np.square(left_out - left_out.mean()).sum())
    half = student_95(num_blocks - 1) * math.sqrt(variance)
    low = value - half if floor is None else max(floor, value - half)
    return Interval(value, low, value + half, n, f"delete-block jackknife, {num_blocks} blocks, 95 %")


def student_95(degrees: int) -> float:
    """Two-sided 95 % quantile of Student's t; of the next smaller tabled degrees, so never too narrow."""
    if degrees >= 200:
        return Z95
    return _STUDENT_95[max(known for known in _STUDENT_95 if known <= max(1, degrees))]


def blocks_of(n: int, num_blocks: int = 25) -> np.ndarray:
    """Block number of each of `n` samples, interleaved so that any order in the samples spreads evenly."""
    return np.arange(n) % min(num_blocks, n)


def sign_flip_exact(sums: Sequence[int] | np.ndarray) -> tuple[float, float]:
    """Return the exact p-values of "no difference" against "greater" and against "different".

    Under "no difference" each prompt's sum s_i is as likely with the other sign, so with every |s_i| given

        p_greater = P(sum of e_i |s_i| >= sum of s_i),    e_i = -1 or 1, each with probability 1/2,

    counted over all 2^n flips by convolving n two-point distributions (Fisher 1935, The Design of Experiments,
    section 21); no flips are drawn, so p may be as small as 2^-n. With one image a prompt it is McNemar's exact test.

    Args:
        sums: Challenger less champion, summed over a prompt's images; integers, one a prompt.

    Raises:
        ValueError: a sum is no integer.
    """
    whole = np.rint(np.asarray(sums, dtype=np.float64)).astype(np.int64)
    if not np.array_equal(whole, np.asarray(sums, dtype=np.float64)):
        raise ValueError("the exact sign-flip test counts integers; put other sums on a grid by `on_grid`")
    sizes = np.abs(whole[whole != 0])  # a prompt without a difference has no sign to flip
    if not sizes.size:
        return 1.0, 1.0
    sizes, observed = sizes // np.gcd.reduce(sizes), int(whole.sum()) // int(np.gcd.reduce(sizes))
    # The sum is 2 x (sum of those flipped to plus) - total, and `share[k]` the probability that the former is k.
    share, reach = np.zeros(int(sizes.sum()) + 1), 0
    share[0] = 1.0
    for size in np.sort(sizes):
        head = share[: reach + 1] / 2
        share[: reach + 1] = head
        share[size : reach + size + 1] += head
        reach += size
    least = (observed + reach + 1) // 2
    most = (abs(observed) + reach + 1) // 2
    return float(min(1.0, share[least:].sum())), float(min(1.0, 2 * share[most:].sum()))


def mcnemar_exact(b: int, c: int) -> tuple[float, float]:
    """Return McNemar's exact p-values, "greater" and "different", of b pairs won and c lost."""
    return sign_flip_exact(np.repeat([1, -1], [b, c]))


def on_grid(sums: Sequence[float] | np.ndarray, num_levels: int = 64) -> np.ndarray:
    """Round real sums to integers, the largest of them to `num_levels`, for `sign_flip_exact`.

    Rounding is odd, -s going to minus what s goes to, so the test stays exact: it tests the rounded sums.
    """
    sums = np.asarray(sums, dtype=np.float64)
    largest = np.abs(sums).max(initial=0.0)
    return (
        np.rint(sums * (num_levels / largest)).astype(np.int64) if largest else np.zeros(sums.shape, np.int64)
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted so that rejecting those <= alpha errs once or more with at most alpha (Holm 1979)."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(stepped))
    return adjusted.tolist()
