"""The flow-matching loss (Lipman et al. 2022, arXiv:2210.02747): mean squared error of the velocity.

    l = mean (v(x_t, t) - (noise - data))^2        sqrt(l + c^2) - c    its pseudo-Huber form, of width c

The least mean of l is met by the mean of what the pairs say, the least mean of sqrt(l) by their median in space: where
a choice hangs on a hair the one draws a mixture, the other takes a side (Song and Dhariwal 2023, arXiv:2310.14189;
for Reflow Lee et al. 2024, arXiv:2405.20320).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from fluxmodel.flow.path import interpolate, velocity
from fluxmodel.flow.solvers import VelocityField


def flow_matching_loss(
    field: VelocityField, data: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Float[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """Return each sample's mean squared error at its time t, in fp32."""
    predicted = field(interpolate(data, noise, t), t).float()
    return (predicted - velocity(data, noise)).square().flatten(1).mean(dim=1)


def pseudo_huber(squared_error: Float[Tensor, " b"], width: float) -> Float[Tensor, " b"]:
    """Return sqrt(l + width^2) - width of each sample's squared error l; the square itself where `width` is 0."""
    return (squared_error + width**2).sqrt() - width if width else squared_error
