"""Monge Inception Distance's estimator over any features: a sliced Wasserstein distance, by sorting.

MIND = 3 d  mean over directions u of W2^2(u'x, u'y)   (Berthet et al. 2026, arXiv:2605.06797)

On a line optimal transport joins equal ranks, so W2^2 is the mean squared difference of sorted projections; 1000
directions, drawn evenly on the sphere from one fixed seed, are the same for all that is compared. It sees every
moment, where the Frechet distance sees two, and nothing is squared to d x d. Like that one it is called by its name
over Inception features only, and shrinks with the number of images: compare equal numbers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .statistics import Interval, blocks_of, jackknife

NUM_DIRECTIONS = 1000
_SEED = 2026


def monge_distance(real: Tensor, fake: Tensor, num_blocks: int = 25) -> Interval:
    """Distance between features [n, d] and [m, d], with a delete-block jackknife interval."""
    along = directions(real.shape[1])
    sides = [(along.T @ side.double().T).sort(dim=1) for side in (real, fake)]
    value = _distance(sides[0].values, sides[1].values, len(along))
    n = min(len(real), len(fake))
    if n < 2 * num_blocks:
        return Interval(value, float("nan"), float("nan"), n, "no interval: fewer than two images a block")
    blocks = [torch.from_numpy(blocks_of(len(side), num_blocks)) for side in (real, fake)]
    owners = [block[side.indices] for side, block in zip(sides, blocks, strict=True)]
    left_out = []
    for number in range(num_blocks):
        first, second = (
            _without(side.values, owner, number) for side, owner in zip(sides, owners, strict=True)
        )
        left_out.append(_distance(first, second, len(along)))
    return jackknife(value, np.array(left_out), n, floor=0.0)


def directions(num_features: int, count: int = NUM_DIRECTIONS) -> Tensor:
    """Unit vectors as columns [num_features, count], float64, always the same."""
    generator = torch.Generator().manual_seed(_SEED)
    drawn = torch.randn(num_features, count, generator=generator, dtype=torch.float64)
    return drawn / drawn.norm(dim=0)


def _without(ordered: Tensor, owner: Tensor, block: int) -> Tensor:
    """Sorted rows [count, n] less one block's values; what is left is sorted already."""
    return ordered.masked_select(owner != block).view(len(ordered), -1)


def _distance(first: Tensor, second: Tensor, num_features: int) -> float:
    """3 d times the mean squared difference of quantiles of sorted rows [count, n] and [count, m].

    Where n and m differ, quantiles stand still between the steps of either side: ranks meet at multiples of 1/n and
    1/m, and each stretch between two of them counts by its length. In whole numbers, so no step is met twice.
    """
    n, m = first.shape[1], second.shape[1]
    if n == m:
        return float(3 * num_features * (first - second).square().mean())
    steps = np.unique(np.concatenate([np.arange(n + 1) * m, np.arange(m + 1) * n]))
    lengths = torch.from_numpy(np.diff(steps) / (n * m))
    starts = steps[:-1]
    apart = first[:, torch.from_numpy(starts // m)] - second[:, torch.from_numpy(starts // n)]
    return float(3 * num_features * (apart.square().mean(0) @ lengths))
