"""Kernel Inception Distance's estimator over any features: the unbiased MMD^2 with a cubic polynomial kernel.

k(x, y) = (x'y / d + 1)^3   (Binkowski et al. 2018, arXiv:1801.01401)

Unlike the Frechet distance it has no bias in n, so it may fall slightly below zero for equal distributions. All
pairs are used instead of random subsets, and the jackknife costs nothing: block sums of the kernel are enough.
"""

import numpy as np
import torch
from torch import Tensor

from .statistics import Interval, blocks_of, jackknife


def kernel_distance(real: Tensor, fake: Tensor, num_blocks: int = 25) -> Interval:
    """Unbiased MMD^2 between features [n, d] and [m, d], with a delete-block jackknife interval."""
    num_blocks = min(num_blocks, len(real), len(fake))
    real, fake = real.double(), fake.double()
    within_real = _block_sums(real, real, num_blocks, skip_diagonal=True)
    within_fake = _block_sums(fake, fake, num_blocks, skip_diagonal=True)
    between = _block_sums(real, fake, num_blocks, skip_diagonal=False)
    sizes = [np.bincount(blocks_of(len(side), num_blocks)) for side in (real, fake)]
    value = _unbiased(within_real.sum(), within_fake.sum(), between.sum(), len(real), len(fake))
    if min(len(real), len(fake)) < 2 * num_blocks:
        return Interval(
            value, float("nan"), float("nan"), min(len(real), len(fake)), "no interval: too few images"
        )
    left_out = []
    for block in range(num_blocks):
        first, second, cross = (_without(sums, block) for sums in (within_real, within_fake, between))
        n, m = len(real) - sizes[0][block], len(fake) - sizes[1][block]
        left_out.append(_unbiased(first, second, cross, n, m))
    return jackknife(value, np.array(left_out), min(len(real), len(fake)))


def _block_sums(first: Tensor, second: Tensor, num_blocks: int, skip_diagonal: bool) -> np.ndarray:
    """Sums [b, b] of the kernel over pairs of blocks."""
    kernel = (first @ second.T / first.shape[1] + 1).pow(3)
    if skip_diagonal:
        kernel.fill_diagonal_(0)
    rows = torch.nn.functional.one_hot(
        torch.from_numpy(blocks_of(len(first), num_blocks)), num_blocks
    ).double()
    columns = torch.nn.functional.one_hot(
        torch.from_numpy(blocks_of(len(second), num_blocks)), num_blocks
    ).double()
    return (rows.T @ kernel @ columns).numpy()


def _without(sums: np.ndarray, block: int) -> float:
    return float(sums.sum() - sums[block].sum() - sums[:, block].sum() + sums[block, block])


def _unbiased(within_real: float, within_fake: float, between: float, n: int, m: int) -> float:
    return float(within_real / (n * (n - 1)) + within_fake / (m * (m - 1)) - 2 * between / (n * m))
