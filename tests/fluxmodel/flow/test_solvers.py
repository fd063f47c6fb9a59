"""Solvers: exact where the field is constant, each of its order elsewhere; their calls are known before."""

import math
import warnings
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch

from fluxmodel.flow.path import velocity
from fluxmodel.flow.schedule import sampling_times
from fluxmodel.flow.solver_names import Solver
from fluxmodel.flow.solvers import CALLS_PER_STEP, SOLVERS, call_times, euler, heun

NOISE = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ORDERS = {"euler": 1, "heun": 2, "midpoint": 2}
NAMES = get_args(Solver)


def test_every_solver_named_stands_in_the_tables():
    assert set(NAMES) == set(SOLVERS) == set(CALLS_PER_STEP) == set(ORDERS)


@pytest.mark.parametrize("solver", NAMES)
@pytest.mark.parametrize("num_steps", [1, 3, 10])
def test_one_step_is_enough_where_velocity_is_constant(solver, num_steps):
    data = torch.randn(3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    times = sampling_times(num_steps, 0.8)
    torch.testing.assert_close(SOLVERS[solver](lambda x, t: velocity(data, NOISE), NOISE, times), data)


def linear(x, t):
    """dx/dt = x: x(0) = x(1) / e."""
    return x


def timed(x, t):
    """dx/dt = 2 t x: x(0) = x(1) / e; a solver that asks at a wrong time loses its order."""
    return 2 * t * x


@pytest.mark.parametrize("solver", NAMES)
@pytest.mark.parametrize("mu", [0.0, 1.15])
@pytest.mark.parametrize("field", [linear, timed])
def test_the_error_falls_at_the_solvers_order(solver, field, mu):
    errors = [
        (SOLVERS[solver](field, NOISE, sampling_times(num_steps, mu)) - NOISE / math.e).abs().max().item()
        for num_steps in (128, 256, 512)
    ]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders == pytest.approx([ORDERS[solver]] * 2, abs=0.1)


@pytest.mark.parametrize(
    ("solver", "called"),
    [
        ("euler", [1.0, 0.75, 0.5, 0.25]),
        ("heun", [1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]),
        ("midpoint", [1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
    ],
)
def test_the_times_of_all_calls_are_known_before_the_first(solver, called):
    assert call_times(sampling_times(4), solver) == called
    seen = []

    def field(x, t):
        seen.append(t)
        return torch.sin(x)

    times = sampling_times(7, 0.9)
    SOLVERS[solver](field, NOISE, times)
    assert seen == call_times(times, solver)
    assert len(seen) == CALLS_PER_STEP[solver] * 7 - (solver == "heun")


def test_no_solver_asks_for_the_velocity_of_finished_images():
    """At t = 0 it is nothing over nothing, and training has not been there."""
    for solver in NAMES:
        assert min(call_times(sampling_times(3), solver)) > 0


def test_heuns_last_step_is_eulers_only_where_it_ends_at_zero():
    ends_at_zero, stops_before = torch.tensor([0.5, 0.0]), torch.tensor([0.5, 0.25])
    assert torch.equal(heun(linear, NOISE, ends_at_zero), euler(linear, NOISE, ends_at_zero))
    torch.testing.assert_close(heun(linear, NOISE, stops_before), NOISE * (1 - 0.25 + 0.25**2 / 2))


def test_heuns_last_step_leaves_no_noise_that_eulers_would_take_away():
    """Data at one point: v = (x - point) / t takes all noise away; at t = 0 a network that sees none says -x."""

    def field(x, t):
        return (x - 2) / t if t > 0 else -x

    for solver in NAMES:
        torch.testing.assert_close(
            SOLVERS[solver](field, NOISE, sampling_times(5)), torch.full_like(NOISE, 2)
        )


def test_heun_equals_that_of_diffusers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what diffusers and its dependencies warn of is theirs to mend
        from diffusers import FlowMatchHeunDiscreteScheduler

    theirs: Any = FlowMatchHeunDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(6)
    x = noise = NOISE.float()
    for t in theirs.timesteps:
        x = theirs.step(timed(x, t / 1000), t, x, return_dict=False)[0]
    times = torch.cat((theirs.sigmas[:1], theirs.sigmas[1:-1:2], theirs.sigmas[-1:]))
    torch.testing.assert_close(heun(timed, noise, times), x, rtol=1e-5, atol=1e-6)
