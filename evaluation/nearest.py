"""Has the model learnt training images by heart? How near its images come to one, against how near real ones come.

Each image is held against the whole training set, by its pixels (root of the mean squared difference, of 255) and by
its features. Images of few parts have twins by chance, and no distance says "copied" by itself; so real images that
were never trained on are held against it too. Of them one in a hundred counts as near, half of that by each measure:

    distance = min(pixels / q(pixels of the real), features / q(features of the real)),  q: their 0.5 % quantile
    memorised where distance <= 1

Hence a model that has learnt nothing by heart has about 1 % memorised (Meehan et al. 2020, arXiv:2004.05675, compare
the same two distributions as wholes; `nearer_than_real` is their statistic, 0.5 for an honest model). A model whose
pictures come out of an autoencoder cannot repeat an image exactly: the nearest training image and the real ones are
held against it as that autoencoder redraws them, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .manifold import squared_distances
from .statistics import Interval, proportion

QUANTILE = 0.005
_BATCH = 250
_THUMBNAIL, _CANDIDATES = 16, 8


@dataclass(frozen=True)
class Nearest:
    """What lies nearest to each of n images.

    Attributes:
        pixels: root mean squared difference to the nearest training image, of 255, [n].
        features: distance to the nearest in feature space, [n].
        index: number of the training image that is nearest by pixels, [n].
        distance: the smaller of both in units of what counts as near, [n]; empty where nothing is known about that.
    """

    pixels: np.ndarray
    features: np.ndarray
    index: np.ndarray
    distance: np.ndarray

    @property
    def memorised(self) -> np.ndarray:
        """Whether an image is as near to a training image as few real ones are, [n]."""
        return self.distance <= 1


class TrainingImages:
    """The images a model was trained on, and how near to them real images come that it never saw."""

    def __init__(
        self,
        images: Tensor,
        real: Tensor,
        features: Callable[[Tensor], Tensor],
        redraw: Callable[[Tensor], Tensor] | None = None,
        known: Tensor | None = None,
    ):
        """Measure how near real images come.

        Args:
            images: training images, uint8 [N, 3, H, W].
            real: images of the same kind that were not trained on, uint8 [m, 3, H, W].
            features: from uint8 images to features [n, d].
            redraw: through the model's autoencoder and back, uint8 in and out; none where it has none.
            known: the training images' features where they are known already.
        """
        self.images = images
        self._features = features
        self._redraw = redraw
        self._thumbnails = _thumbnails(images)
        self._known = (features(images) if known is None else known).float()
        self.real = self._nearest(real if redraw is None else redraw(real))
        self.near = {
            name: max(float(np.quantile(getattr(self.real, name), QUANTILE)), 1e-6)
            for name in ("pixels", "features")
        }
        self.real = self._scaled(self.real)

    def nearest(self, images: Tensor) -> Nearest:
        """Hold uint8 images [n, 3, H, W] of the training images' size against them."""
        return self._scaled(self._nearest(images))

    def _nearest(self, images: Tensor) -> Nearest:
        index, pixels = self._closest_by_pixels(images)
        if self._redraw is not None:
            once, place = np.unique(index, return_inverse=True)
            redrawn = self._redraw(self.images[torch.from_numpy(once)])[torch.from_numpy(place)]
            pixels = np.minimum(pixels, _root_mean_square(images, redrawn))
        return Nearest(pixels, self._closest_features(images), index, np.zeros(0))

    def _closest_by_pixels(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Number of the nearest training image, and how far it is; candidates are those with alike thumbnails."""
        count = min(_CANDIDATES, len(self.images))
        found = []
        for batch in images.split(_BATCH):
            candidates = _squared(_thumbnails(batch), self._thumbnails).topk(count, largest=False).indices
            apart = np.stack([_root_mean_square(batch, self.images[each]) for each in candidates.T])
            best = apart.argmin(0)
            rows = np.arange(len(batch))
            found.append((candidates.numpy()[rows, best], apart[best, rows]))
        index, pixels = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return index, pixels

    def _closest_features(self, images: Tensor) -> np.ndarray:
        """Distance to the nearest in feature space; taken by differences, so that a copy is at zero."""
        queries = self._features(images).float()
        index = torch.cat([_squared(batch, self._known).argmin(1) for batch in queries.split(_BATCH)])
        return (queries - self._known[index]).double().square().sum(1).sqrt().numpy()

    def _scaled(self, found: Nearest) -> Nearest:
        distance = np.minimum(found.pixels / self.near["pixels"], found.features / self.near["features"])
        return Nearest(found.pixels, found.features, found.index, distance)

    def summary(self, found: Nearest) -> dict[str, Any]:
        """Return what `evaluation.json` says of it."""
        return {
            "memorised": float(found.memorised.mean()),
            "of_real": float(self.real.memorised.mean()),
            "excess": float(found.memorised.mean() - self.real.memorised.mean()),
            "nearer_than_real": nearer_share(found.pixels, self.real.pixels),
            "near": self.near,
            "num_training": len(self.images),
            "num_real": len(self.real.pixels),
        }


def memorised_share(found: Nearest, prompts: list[str], seed: int) -> Interval:
    """Share of images as near to a training image as one in a hundred real ones."""
    return proportion(found.memorised, prompts, seed)


def nearer_share(found: np.ndarray, real: np.ndarray) -> float:
    """Share of pairs in which a generated image is nearer than a real one, ties half (Mann-Whitney's U / nm)."""
    ordered = np.sort(real)
    above = len(real) - np.searchsorted(ordered, found, side="right")
    equal = len(real) - np.searchsorted(ordered, found, side="left") - above
    return float((above + 0.5 * equal).mean() / len(real))


def _thumbnails(images: Tensor) -> Tensor:
    """Images at most 16 pixels wide, flat: enough to find what is alike, at a fraction of the cost."""
    side = min(_THUMBNAIL, images.shape[-1])
    return torch.cat([
        functional.adaptive_avg_pool2d(batch.float(), side).flatten(1) for batch in images.split(_BATCH)
    ])  # fmt: skip


def _squared(queries: Tensor, known: Tensor) -> Tensor:
    """Squared distances of all pairs, centred so that the images' common brightness costs no digits."""
    centre = known.mean(0)
    return squared_distances(queries - centre, known - centre)


def _root_mean_square(first: Tensor, second: Tensor) -> np.ndarray:
    """Root mean squared difference of uint8 images [n, 3, H, W], [n], of 255."""
    apart = first.to(torch.int16) - second.to(torch.int16)
    return apart.float().flatten(1).square().mean(1).sqrt().double().numpy()
