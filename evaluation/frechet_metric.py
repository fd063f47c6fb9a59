"""The Frechet distance as a metric of torchmetrics, in a file of its own: torchmetrics takes seconds to import."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from .frechet import frechet_distance


class FrechetDistance(Metric):
    """torchmetrics' metric over any feature module, exact, and the same number however the images were shared out.

    `feature` maps images to [n, d]. Sums of outer products, as torchmetrics keeps them, depend in their last digits on
    who added what first; so the features themselves are kept, and put in one order before anything is added: merged
    from four shards, in whatever order, the distance is the same to the last bit. Keeping them also allows the quick
    form where images are fewer than dimensions; 50 000 images of 2048 features are 400 MB.
    """

    higher_is_better: bool = False
    is_differentiable: bool = False
    full_state_update: bool = False
    real: list[Tensor]
    fake: list[Tensor]

    def __init__(self, feature: nn.Module, **kwargs: Any):
        super().__init__(**kwargs)
        self.feature = feature
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("fake", [], dist_reduce_fx="cat")

    def update(self, images: Tensor, real: bool) -> None:
        """Take in images of one side."""
        (self.real if real else self.fake).append(self.feature(images).detach())

    def compute(self) -> Tensor:
        """Return the distance, float64; needs two samples on each side."""
        sides = [torch.cat([*side]) if len(side) else torch.zeros(0, 1) for side in (self.real, self.fake)]
        if min(len(side) for side in sides) < 2:
            raise RuntimeError("The Frechet distance needs at least two real and two generated images.")
        real, fake = (in_one_order(side.cpu()) for side in sides)
        return torch.tensor(frechet_distance(real, fake), dtype=torch.float64)


def in_one_order(features: Tensor) -> Tensor:
    """Rows [n, d] sorted by their bytes: the same for the same rows, in whatever order they came."""
    rows = np.ascontiguousarray(features.numpy())
    keys = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
    return features[torch.from_numpy(np.argsort(keys, kind="stable"))]
