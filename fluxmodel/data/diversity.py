"""How varied a dataset is: the Vendi score, and how evenly attributes are covered.

    Vendi = exp(-sum_i l_i log l_i),  l the eigenvalues of K / n,  K_ij = <x_i, x_j>,  |x_i| = 1

(Friedman and Dieng 2022, arXiv:2210.02410): the effective number of different images, n where all are orthogonal, 1
where all are equal. K / n has the squared singular values of X / sqrt(n), so the smaller of n x n and d x d is solved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fluxmodel.data.curated_dataset import CuratedDataset


@dataclass(frozen=True)
class Diversity:
    """How varied a split is.

    Attributes:
        vendi: effective number of different images by their coarse colours, of `num_images`.
        combinations: images by shape and colour of an object; empty without ground truth.
        effective_combinations: exp of the entropy of these counts; None without ground truth.
    """

    num_images: int
    vendi: float
    combinations: dict[str, int]
    effective_combinations: float | None


def vendi_score(features: np.ndarray) -> float:
    """Return the Vendi score of features [n, d] with the cosine kernel; rows of zeros count as like each other.

    Raises:
        ValueError: there are no features, or one of them is not finite.
    """
    if len(features) == 0 or not np.isfinite(features).all():
        raise ValueError("the Vendi score needs at least one row of finite features")
    rows = features.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    rows = np.column_stack([rows / np.where(norms > 0, norms, 1)[:, None], norms == 0])
    small = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    return effective_number(np.clip(np.linalg.eigvalsh(small), 0, None))


def effective_number(amounts: Sequence[float] | np.ndarray) -> float:
    """Return exp of the entropy of amounts after they are scaled to sum 1."""
    shares = np.asarray(amounts, np.float64)
    shares = shares[shares > 0] / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def measure_diversity(dataset: CuratedDataset, split: str = "train", limit: int = 5000) -> Diversity:
    """Measure the first `limit` images of a split, by the colours of an 8 x 8 grid less their mean image."""
    from fluxmodel.data.perceptual_hash import color_signatures, thumbnail
    from fluxmodel.data.procedural import Scene

    count = min(limit, dataset.num(split))
    images = (image for _, image in zip(range(count), dataset.iter_pixels(split), strict=False))
    colors = np.stack([color_signatures(thumbnail(image)[None])[0] for image in images]).astype(np.float64)
    scenes = [Scene.from_json(text) for text in dataset.scenes(split)[:count] if text]
    pairs = Counter(f"{each.color} {each.shape}" for scene in scenes for each in scene.objects)
    return Diversity(
        num_images=count,
        vendi=vendi_score(colors - colors.mean(axis=0)),
        combinations=dict(sorted(pairs.items())),
        effective_combinations=effective_number(list(pairs.values())) if pairs else None,
    )
