"""From noise to data along a velocity field."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

VelocityField = Callable[[Tensor, Float[Tensor, " b"]], Tensor]
"""velocity(x [b, ...], t [b]) -> [b, ...]"""


def euler(velocity: VelocityField, noise: Float[Tensor, "b ..."], times: Float[Tensor, " n+1"]) -> Tensor:
    """Follow x += (t_next - t) velocity(x, t) through `times`; calls the field once a step."""
    x = noise
    for t, t_next in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        x = x + (t_next - t) * velocity(x, torch.full((len(x),), t, dtype=torch.float32, device=x.device))
    return x
