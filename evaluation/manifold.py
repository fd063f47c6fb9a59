"""Do the images lie among the real ones, and do they reach all of them? Nearest neighbours answer one by one.

With B(x) the ball around x that reaches its k-th nearest neighbour of its own set (itself not counted, k = 5):

    precision = share of generated images inside B of some real image                 (Kynkaanniemi et al. 2019,
    recall    = share of real images inside B of some generated image                  arXiv:1904.06991)
    density   = mean over generated images of (real balls around it) / k              (Naeem et al. 2020,
    coverage  = share of real images with a generated image inside their own B         arXiv:2002.09797)

A distance such as Frechet's mixes both questions. A model that draws one image well has precision 1 and coverage
near 0. Recall trusts balls around generated images, so a few outliers make it high; coverage does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .statistics import Interval, blocks_of, jackknife, wilson

NEIGHBOURS = 5
NAMES = ("precision", "recall", "density", "coverage")
_SHARES = ("precision", "recall", "coverage")


@dataclass(frozen=True)
class Distances:
    """Squared distances within and between the two sets, float64: [n, n], [m, m] and real x fake [n, m].

    An image's distance to itself is infinite: it is no neighbour of its own.
    """

    real: Tensor
    fake: Tensor
    between: Tensor

    @classmethod
    def of(cls, real: Tensor, fake: Tensor) -> Distances:
        """Of features [n, d] and [m, d]."""
        centre = real.double().mean(0)
        real, fake = real.double() - centre, fake.double() - centre
        return cls(_among(real), _among(fake), squared_distances(real, fake))

    def keep(self, real: Tensor, fake: Tensor) -> Distances:
        """Only the rows chosen by masks [n] and [m]."""
        return Distances(self.real[real][:, real], self.fake[fake][:, fake], self.between[real][:, fake])


def _among(points: Tensor) -> Tensor:
    return squared_distances(points, points).fill_diagonal_(torch.inf)


def squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """|x - y|^2 of all pairs, [n, m]; never negative."""
    norms = first.square().sum(1)[:, None] + second.square().sum(1)
    return torch.addmm(norms, first, second.T, alpha=-2).clamp_(min=0)


def manifold(real: Tensor, fake: Tensor, k: int = NEIGHBOURS, num_blocks: int = 25) -> dict[str, Interval]:
    """Precision, recall, density and coverage of features [m, d] against real ones [n, d], by name.

    Intervals leave out one block of both sets at a time. Raises ValueError where a set has no k neighbours.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(
            f"{len(real)} real and {len(fake)} generated images: {k} neighbours need more than {k}"
        )
    distances = Distances.of(real, fake)
    values = _shares(distances, k)
    n = min(len(real), len(fake))
    if n < 2 * num_blocks or n - -(-n // num_blocks) <= k:
        said = "no interval: fewer than two images a block"
        return {name: Interval(values[name], float("nan"), float("nan"), n, said) for name in NAMES}
    blocks = [torch.from_numpy(blocks_of(len(side), num_blocks)) for side in (real, fake)]
    left_out = [
        _shares(distances.keep(blocks[0] != number, blocks[1] != number), k) for number in range(num_blocks)
    ]
    return {
        name: _interval(name, values[name], np.array([each[name] for each in left_out]), n) for name in NAMES
    }


def _shares(distances: Distances, k: int) -> dict[str, float]:
    """The four numbers; a point on the edge of a ball lies inside."""
    real_reach = distances.real.kthvalue(k, dim=1).values
    fake_reach = distances.fake.kthvalue(k, dim=1).values
    in_real = distances.between <= real_reach[:, None]
    in_fake = distances.between <= fake_reach
    return {
        "precision": float(in_real.any(0).double().mean()),
        "recall": float(in_fake.any(1).double().mean()),
        "density": float(in_real.double().sum(0).mean() / k),
        "coverage": float(in_real.any(1).double().mean()),
    }


def _interval(name: str, value: float, left_out: np.ndarray, n: int) -> Interval:
    """A jackknife's interval inside what the number can be; Wilson's bound where all or none are inside."""
    if name in _SHARES and value in (0.0, 1.0) and (left_out == value).all():
        return wilson(round(value * n), n)
    found = jackknife(value, left_out, n, floor=0.0)
    return replace(found, ci_high=min(1.0, found.ci_high)) if name in _SHARES else found
