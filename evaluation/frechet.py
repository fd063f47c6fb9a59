"""Frechet distance between two sets of features, exact, never negative, with a jackknife interval.

d^2 = |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)    (Heusel et al. 2017, arXiv:1706.08500)

With S1 = A A' and S2 = B B' the last trace is the sum of the singular values of A'B, so no square root of a
non-symmetric matrix is ever taken. A full-rank S1 gives A by Cholesky, and the singular values are the roots of
the eigenvalues of A' S2 A, which are those of S2 S1; with fewer samples than dimensions the centred features
themselves are A and B. It is called the Frechet distance and labelled with its extractor: FID is its name over
Inception features only.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .statistics import Interval, blocks_of, jackknife

_MOST_AT_ONCE = 512  # dimensions; 25 covariances of these are 52 MB, of Inception's 2048 they were 840
_TOO_FEW = "no interval: fewer than two images a block"


@dataclass(frozen=True)
class Moments:
    """Number, mean [d] and covariance [d, d] of a set of features, in float64."""

    n: int
    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Of features [n, d]; centred before squaring, so the mean's size costs no digits."""
        features = features.double()
        mean = features.mean(0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred / (len(features) - 1))


def frechet_from_moments(first: Moments, second: Moments) -> Tensor:
    """Distance from means and covariances: Cholesky where the first covariance is positive definite."""
    values = None if first.n <= len(first.mean) else _product_eigenvalues(first.covariance, second.covariance)
    if values is None:
        overlap = torch.linalg.svdvals(_root(first.covariance).T @ _root(second.covariance)).sum()
    else:
        overlap = values.clamp(min=0).sqrt().sum()
    traces = first.covariance.trace() + second.covariance.trace()
    return ((first.mean - second.mean).square().sum() + traces - 2 * overlap).clamp(min=0)


def _product_eigenvalues(first: Tensor, second: Tensor) -> Tensor | None:
    """Eigenvalues [d] of first @ second, both [d, d]; None where `first` is not positive definite.

    S2 S1 v = w v is LAPACK's symmetric-definite problem of type 2 (sygv): Cholesky, S2 made smaller on both sides at
    once, eigenvalues of a symmetric matrix. SciPy's LAPACK reduces a matrix of 2048 faster than torch's.
    """
    from scipy import linalg  # 0.2 s

    sides = (side.numpy().T for side in (second, first))  # symmetric, and in LAPACK's order of storage
    try:
        values = linalg.eigh(*sides, type=2, driver="gv", eigvals_only=True, check_finite=False)
    except linalg.LinAlgError:
        return None
    return torch.from_numpy(values)


def _root(covariance: Tensor) -> Tensor:
    """A with A A' = covariance, for covariances of any rank."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt()


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Distance between features [n, d] and [m, d]; by singular values where a side has few for its dimensions."""
    if min(len(real), len(fake)) > real.shape[1]:
        return float(frechet_from_moments(Moments.of(real), Moments.of(fake)))
    first, second = _factor(real.double()), _factor(fake.double())
    overlap = torch.linalg.svdvals(first @ second.T).sum()
    shift = (real.double().mean(0) - fake.double().mean(0)).square().sum()
    distance = shift + first.square().sum() + second.square().sum() - 2 * overlap
    return float(distance.clamp(min=0))


def _factor(features: Tensor) -> Tensor:
    """A [r, d] with A'A the covariance of features [n, d]: the centred features themselves, or a root if n > d."""
    if len(features) <= features.shape[1]:
        return (features - features.mean(0)) / (len(features) - 1) ** 0.5
    covariance = Moments.of(features).covariance
    root, failed = torch.linalg.cholesky_ex(covariance)
    return (_root(covariance) if int(failed) else root).T


class ReferenceFeatures:
    """The reference side of many Frechet distances: its moments and 25 left-out factors are computed once.

    `weight` holds what is needed to leave out block k: S_k = root_k root_k', for all k at once [25, d, d].
    """

    def __init__(self, features: Tensor, num_blocks: int = 25):
        self.features = features.double()
        self.num_blocks = num_blocks
        self._left_out: tuple[Tensor, Tensor] | None = None

    def distance(self, fake: Tensor) -> Interval:
        """Distance to `fake` [n, d] with its jackknife interval; both sides lose their k-th block together.

        Both samples are independent, so the spread over k adds the variance of both sides.
        """
        value = frechet_distance(self.features, fake)
        n = min(len(self.features), len(fake))
        if n < 2 * self.num_blocks:
            return Interval(value, float("nan"), float("nan"), n, _TOO_FEW)
        left_out = self._distances_left_out(fake.double())
        return jackknife(value, left_out, n, floor=0.0)

    def difference(self, new: Tensor, old: Tensor) -> Interval:
        """Distance to `new` less distance to `old`, [n, d] each, paired by row: both lose the same block together.

        A prompt that one model draws badly the other mostly draws badly too, and both stand against the same
        reference; what they have in common drops out of the difference, and out of its interval.

        Raises:
            ValueError: they are not of the same images asked for.
        """
        if new.shape != old.shape:
            raise ValueError(f"paired by row, so of one shape: {tuple(new.shape)} against {tuple(old.shape)}")
        value = frechet_distance(self.features, new) - frechet_distance(self.features, old)
        n = min(len(self.features), len(new))
        if n < 2 * self.num_blocks:
            return Interval(value, float("nan"), float("nan"), n, _TOO_FEW)
        left_out = self._distances_left_out(new.double()) - self._distances_left_out(old.double())
        interval = jackknife(value, left_out, n)
        return replace(interval, method=f"paired {interval.method}")

    def _distances_left_out(self, fake: Tensor) -> np.ndarray:
        num_features = self.features.shape[1]
        most = -(-max(len(self.features), len(fake)) // self.num_blocks)
        if num_features > _MOST_AT_ONCE or min(len(self.features), len(fake)) - most <= num_features:
            blocks = [
                torch.from_numpy(blocks_of(len(side), self.num_blocks)) for side in (self.features, fake)
            ]
            kept = ([block != number for block in blocks] for number in range(self.num_blocks))
            return np.array([frechet_distance(self.features[one], fake[other]) for one, other in kept])
        if self._left_out is None:
            means, covariances = left_out_moments(self.features, self.num_blocks)
            self._left_out = means, _batched_root(covariances)
        real_means, roots = self._left_out
        means, covariances = left_out_moments(fake, self.num_blocks)
        inner = roots.mT @ covariances @ roots
        overlap = torch.linalg.eigvalsh(inner).clamp(min=0).sqrt().sum(-1)
        traces = roots.square().sum((-2, -1)) + covariances.diagonal(dim1=-2, dim2=-1).sum(-1)
        distances = (real_means - means).square().sum(-1) + traces - 2 * overlap
        return distances.clamp(min=0).numpy()


def left_out_moments(features: Tensor, num_blocks: int) -> tuple[Tensor, Tensor]:
    """Means [b, d] and covariances [b, d, d] with one block left out, by taking its sums off the whole's."""
    features = features.double()
    features_mean = features.mean(0)
    centred = features - features_mean
    block = torch.from_numpy(blocks_of(len(features), num_blocks))
    members = [centred[block == number] for number in range(num_blocks)]
    counts = torch.tensor([len(features) - len(rows) for rows in members], dtype=torch.float64)
    totals = -torch.stack([rows.sum(0) for rows in members])
    outers = centred.T @ centred - torch.stack([rows.T @ rows for rows in members])
    means = totals / counts[:, None]
    covariances = (outers - counts[:, None, None] * means[:, :, None] * means[:, None, :]) / (
        counts[:, None, None] - 1
    )
    return means + features_mean, covariances


def _batched_root(covariances: Tensor) -> Tensor:
    """Roots [b, d, d] by Cholesky, or by eigenvectors where one of them is singular."""
    roots, failed = torch.linalg.cholesky_ex(covariances)
    return torch.stack([_root(each) for each in covariances]) if bool(failed.any()) else roots
