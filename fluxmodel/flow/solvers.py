"""From noise to data along a velocity field: Euler's method, Heun's and the midpoint rule.

    euler       x += h v(x, t)                                                        order 1, one call a step
    heun        x += h (v(x, t) + v(x + h v(x, t), t + h)) / 2                        order 2, two, the last step one
    midpoint    x += h v(x + h/2 v(x, t), t + h/2)                                    order 2, two calls a step

A step that ends at t = 0 is Euler's under `heun`. The velocity is v = (x - D(x, t)) / t with D the expected data, which
is nothing over nothing at t = 0, and no training visits that time: half of such a slope would put half of the last
step's noise back. Karras et al. (2022, arXiv:2206.00364, algorithm 1) end alike, for the same reason. One step of
second order in h at the end of many leaves the order at 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from fluxmodel.flow.solver_names import Solver

VelocityField = Callable[[Tensor, float], Tensor]
"""velocity(x [b, ...], t) -> [b, ...]; a solver moves the whole batch through the same times."""


def euler(velocity: VelocityField, noise: Float[Tensor, "b ..."], times: Float[Tensor, " n+1"]) -> Tensor:
    """Follow Euler's method through `times`; calls the field once a step."""
    x = noise
    for t, t_next in pairwise(times.tolist()):
        x = torch.add(x, velocity(x, t), alpha=t_next - t)
    return x


def heun(velocity: VelocityField, noise: Float[Tensor, "b ..."], times: Float[Tensor, " n+1"]) -> Tensor:
    """Follow Heun's method through `times`; calls the field twice a step, once in a step that ends at 0."""
    x = noise
    for t, t_next in pairwise(times.tolist()):
        slope = velocity(x, t)
        if t_next > 0:
            slope = (slope + velocity(torch.add(x, slope, alpha=t_next - t), t_next)) / 2
        x = torch.add(x, slope, alpha=t_next - t)
    return x


def midpoint(velocity: VelocityField, noise: Float[Tensor, "b ..."], times: Float[Tensor, " n+1"]) -> Tensor:
    """Follow the midpoint rule through `times`; calls the field twice a step, never at 0."""
    x = noise
    for t, t_next in pairwise(times.tolist()):
        halfway = torch.add(x, velocity(x, t), alpha=(t_next - t) / 2)
        x = torch.add(x, velocity(halfway, (t + t_next) / 2), alpha=t_next - t)
    return x


SOLVERS: Mapping[Solver, Callable[[VelocityField, Tensor, Tensor], Tensor]] = MappingProxyType(
    {"euler": euler, "heun": heun, "midpoint": midpoint}
)
CALLS_PER_STEP: Mapping[Solver, int] = MappingProxyType({"euler": 1, "heun": 2, "midpoint": 2})
"""Calls of the field in a step; `heun` saves one in all, in the step that ends at 0."""


def call_times(times: Float[Tensor, " n+1"], solver: Solver) -> list[float]:
    """Return the times at which a solver calls its field along `times`, in order: all known before the first call."""
    seen: list[float] = []

    def record(x: Tensor, t: float) -> Tensor:
        seen.append(t)
        return x

    SOLVERS[solver](record, torch.zeros(()), times)
    return seen
