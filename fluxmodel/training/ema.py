"""The exponential moving average of the weights, which is what is kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class WeightAverage:
    """average += (1 - decay) (weights - average); the decay grows from 0 so that early steps are forgotten."""

    def __init__(self, weights: Sequence[Tensor], decay: float):
        self.decay = decay
        self.average = [w.detach().clone() for w in weights]

    @torch.no_grad()
    def update(self, weights: Sequence[Tensor], step: int) -> None:
        """Take in the weights after step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, list(weights), 1 - decay)
