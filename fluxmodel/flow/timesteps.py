"""Which times training visits (Esser et al. 2024, arXiv:2403.03206, section 3.1)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

TimeDensity = Literal["uniform", "logit_normal"]


def sample_timesteps(
    num: int, density: TimeDensity, generator: torch.Generator, mean: float = 0.0, std: float = 1.0
) -> Float[Tensor, " num"]:
    """Draw times in (0, 1): uniform, or sigmoid(mean + std * normal)."""
    if density == "uniform":
        return torch.rand(num, generator=generator)
    return torch.sigmoid(mean + std * torch.randn(num, generator=generator))
