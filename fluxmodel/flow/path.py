"""The straight path of rectified flow (Liu et al. 2022, arXiv:2209.03003), said once for the whole project.

t = 1 is noise, t = 0 is data;  x_t = (1 - t) data + t noise;  velocity = dx_t/dt = noise - data.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def interpolate(
    data: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Float[Tensor, " b"]
) -> Tensor:
    """Return x_t."""
    t = t.reshape(-1, *[1] * (data.ndim - 1))
    return (1 - t) * data + t * noise


def velocity(data: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."]) -> Tensor:
    """Return the velocity of the path, the same at every t."""
    return noise - data


def data_estimate(x_t: Tensor, predicted_velocity: Tensor, t: Float[Tensor, " b"]) -> Tensor:
    """Return the data a predicted velocity points at: x_t - t v."""
    return x_t - t.reshape(-1, *[1] * (x_t.ndim - 1)) * predicted_velocity
