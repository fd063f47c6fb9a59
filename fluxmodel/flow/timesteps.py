"""Which times training visits (Esser et al. 2024, arXiv:2403.03206, section 3.1; Lee et al. 2024, arXiv:2405.20320).

The u-shaped density is proportional to e^(a t) + e^(-a t), here of 2 t - 1: straightening is hardest at the ends.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

TimeDensity = Literal["uniform", "logit_normal", "u_shaped"]
STEEPNESS = 4.0


def sample_timesteps(
    num: int, density: TimeDensity, generator: torch.Generator, mean: float = 0.0, std: float = 1.0
) -> Float[Tensor, " num"]:
    """Draw times in (0, 1): uniform, sigmoid(mean + std * normal), or u-shaped by inverting its distribution."""
    if density == "uniform":
        return torch.rand(num, generator=generator)
    if density == "u_shaped":  # the distribution function is (1 + sinh(a s) / sinh(a)) / 2 at s = 2 t - 1
        u = 2 * torch.rand(num, generator=generator) - 1
        return (torch.asinh(u * math.sinh(STEEPNESS)) / STEEPNESS + 1) / 2
    return torch.sigmoid(mean + std * torch.randn(num, generator=generator))
