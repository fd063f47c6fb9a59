"""The flow-matching loss (Lipman et al. 2022, arXiv:2210.02747): mean squared error of the velocity.

    l = mean (v(x_t, t) - (noise - data))^2        sqrt(l + c^2) - c    a token's pseudo-Huber form, of width c

The least mean of l is met by the mean of what the pairs say, the least mean of sqrt(l) by their median in space: where
a choice hangs on a hair the one draws a mixture, the other takes a side (Song and Dhariwal 2023, arXiv:2310.14189;
for Reflow Lee et al. 2024, arXiv:2405.20320).
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from fluxmodel.flow.path import interpolate, velocity

TrainedField = Callable[[Tensor, Float[Tensor, " b"]], Tensor]
"""velocity(x [b, ...], t [b]) -> [b, ...]; each row has a time of its own."""


def flow_matching_loss(
    field: TrainedField,
    data: Float[Tensor, "b ..."],
    noise: Float[Tensor, "b ..."],
    t: Float[Tensor, " b"],
    huber_width: float = 0.0,
) -> Float[Tensor, " b"]:
    """Return each sample's mean loss at its time t, in fp32: squared, or pseudo-Huber token by token.

    Args:
        field: velocity(x, t).
        data: latents; where packed, [b, tokens, channels].
        noise: their noise.
        t: times, in [0, 1].
        huber_width: width c of the pseudo-Huber loss of the mean squared error over the last axis; 0 for the square.
    """
    predicted = field(interpolate(data, noise, t), t).float()
    squared = (predicted - velocity(data, noise)).square()
    return pseudo_huber(squared.mean(-1), huber_width).flatten(1).mean(dim=1)


def pseudo_huber(squared_error: Tensor, width: float) -> Tensor:
    """Return sqrt(l + width^2) - width of squared errors l; the square itself where `width` is 0."""
    return (squared_error + width**2).sqrt() - width if width else squared_error
