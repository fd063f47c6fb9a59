"""Euler's method: exact where the field is constant, of order 1 elsewhere; guidance costs its second call."""

import math
from itertools import pairwise

import pytest
import torch

from fluxmodel.flow.guidance import guided
from fluxmodel.flow.path import velocity
from fluxmodel.flow.schedule import sampling_times
from fluxmodel.flow.solvers import euler

NOISE = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Counted:
    """A field x -> factor x that counts its calls."""

    def __init__(self, factor: float):
        self.factor, self.calls = factor, 0

    def __call__(self, x, t):
        self.calls += 1
        return self.factor * x


@pytest.mark.parametrize("num_steps", [1, 3, 10])
def test_one_step_is_enough_where_velocity_is_constant(num_steps):
    data = torch.randn(3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    reached = euler(lambda x, t: velocity(data, NOISE), NOISE, sampling_times(num_steps, 0.8))
    torch.testing.assert_close(reached, data)


def test_the_error_falls_at_order_one():
    """dx/dt = x from t = 1 to 0 gives noise / e."""
    errors = []
    for num_steps in (64, 128, 256):
        reached = euler(Counted(1.0), NOISE, sampling_times(num_steps))
        errors.append((reached - NOISE / math.e).abs().max().item())
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders == pytest.approx([1.0, 1.0], abs=0.02)


def test_the_field_sees_the_time_of_its_step():
    seen = []

    def field(x, t):
        seen.append(t)
        return torch.zeros_like(x)

    euler(field, NOISE, sampling_times(4))
    assert [t.tolist() for t in seen] == [[1.0] * 3, [0.75] * 3, [0.5] * 3, [0.25] * 3]


@pytest.mark.parametrize(("guidance", "calls"), [(1.0, (4, 0)), (2.0, (4, 4)), (3.5, (4, 4))])
def test_only_guidance_calls_the_network_twice_a_step(guidance, calls):
    conditional, empty = Counted(1.0), Counted(0.5)
    euler(guided(conditional, empty, guidance), NOISE, sampling_times(4))
    assert (conditional.calls, empty.calls) == calls


@pytest.mark.parametrize("guidance", [1.0, 1.5, 2.0, 5.0])
def test_guidance_walks_on_from_the_empty_through_the_captioned_velocity(guidance):
    field = guided(Counted(1.0), Counted(0.25), guidance)
    torch.testing.assert_close(field(NOISE, torch.ones(3)), (0.25 + guidance * 0.75) * NOISE)
