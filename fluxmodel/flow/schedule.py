"""At which times a sampler stops: evenly from 1 to 0, shifted towards noise for many tokens as FLUX.1 dev does.

t' = s t / (1 + (s - 1) t), with a fixed s, or with s = e^mu and mu linear in the number of image tokens (Esser et al.
2024, arXiv:2403.03206, section 5.3.2).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def dynamic_shift(
    num_tokens: int,
    base_tokens: int = 256,
    base_shift: float = 0.5,
    max_tokens: int = 4096,
    max_shift: float = 1.15,
) -> float:
    """Return mu, linear in the number of image tokens through two points, FLUX.1's where not said, and beyond them."""
    share = (num_tokens - base_tokens) / (max_tokens - base_tokens)
    return base_shift + share * (max_shift - base_shift)


def shift_time(t: Float[Tensor, " n"], mu: float) -> Float[Tensor, " n"]:
    """Return e^mu / (e^mu + 1/t - 1); the same as s t / (1 + (s - 1) t) with s = e^mu."""
    scale = math.exp(mu)
    return scale * t / (1 + (scale - 1) * t)


def sampling_times(num_steps: int, mu: float = 0.0) -> Float[Tensor, " num_steps+1"]:
    """Return num_steps + 1 falling times from 1 to 0; mu = 0 leaves them even (schnell).

    Raises:
        ValueError: num_steps is below 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; a sampler needs at least 1 step")
    return shift_time(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64), mu).float()
