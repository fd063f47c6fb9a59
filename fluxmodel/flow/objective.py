"""The flow-matching loss (Lipman et al. 2022, arXiv:2210.02747): mean squared error of the velocity."""

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
