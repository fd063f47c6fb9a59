"""The schedule of FLUX.1: ends, shift, and agreement with diffusers."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fluxmodel.flow.schedule import dynamic_shift, sampling_times, shift_time


@pytest.mark.parametrize(("num_tokens", "mu"), [(256, 0.5), (4096, 1.15), (1024, 0.63)])
def test_mu_grows_linearly_with_tokens(num_tokens, mu):
    assert dynamic_shift(num_tokens) == pytest.approx(mu, abs=1e-12)


def test_slope_and_intercept_are_flux_1s():
    assert dynamic_shift(1) - dynamic_shift(0) == pytest.approx(1.69270833e-4, rel=1e-8)
    assert dynamic_shift(0) == pytest.approx(0.456666, abs=1e-6)


@given(st.floats(1e-3, 1.0), st.floats(-1.0, 2.0))
def test_the_shift_equals_the_exponential_form(t, mu):
    shifted = shift_time(torch.tensor([t], dtype=torch.float64), mu).item()
    assert shifted == pytest.approx(math.exp(mu) / (math.exp(mu) + 1 / t - 1), rel=1e-12)


def test_the_static_factor_of_a_megapixel():
    assert math.exp(dynamic_shift(4096)) == pytest.approx(3.158192910, rel=1e-9)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 50])
@pytest.mark.parametrize("mu", [0.0, 0.5, 1.15])
def test_times_fall_from_one_to_zero(num_steps, mu):
    times = sampling_times(num_steps, mu)
    assert times.shape == (num_steps + 1,)
    assert (times[0], times[-1]) == (1, 0)
    assert (times.diff() < 0).all()


def test_without_shift_times_are_even():
    torch.testing.assert_close(sampling_times(4), torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))


@pytest.mark.parametrize("num_steps", [0, -3])
def test_no_step_is_refused(num_steps):
    with pytest.raises(ValueError, match=f"num_steps is {num_steps}"):
        sampling_times(num_steps)


@pytest.fixture(scope="module")
def diffusers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what diffusers and its dependencies warn of is theirs to mend
        import diffusers
        from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline  # noqa: F401  (loads what it needs)

        yield diffusers


def their_times(scheduler, num_steps, mu=None):
    """What `FluxPipeline` feeds its scheduler, and what the network is told: sigmas and time steps over 1000."""
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / num_steps, num_steps), mu=mu)
    return scheduler.sigmas, scheduler.timesteps / 1000


STEPS = [*range(1, 12), 20, 28, 50, 100]
TOKENS = [1, 4, 64, 256, 1000, 1024, 3600, 4096, 4097, 16384]


def test_dynamic_times_equal_those_of_diffusers(diffusers):
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    theirs = diffusers.FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15
    )
    for num_tokens in TOKENS:
        mu = dynamic_shift(num_tokens)
        assert mu == pytest.approx(calculate_shift(num_tokens), abs=1e-12)
        for num_steps in STEPS:
            ours = sampling_times(num_steps, mu)
            sigmas, told = their_times(theirs, num_steps, mu)
            torch.testing.assert_close(ours, sigmas, rtol=0, atol=1e-6)
            torch.testing.assert_close(ours[:-1], told, rtol=0, atol=1e-6)


@pytest.mark.parametrize("numbers", [(256, 0.5, 4096, 1.15), (100, 0.1, 1000, 2.0), (64, 1.0, 65, -1.0)])
def test_a_line_through_two_other_points_equals_diffusers(diffusers, numbers):
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    base_tokens, base_shift, max_tokens, max_shift = numbers
    for num_tokens in TOKENS:
        theirs = calculate_shift(num_tokens, base_tokens, max_tokens, base_shift, max_shift)
        assert dynamic_shift(num_tokens, *numbers) == pytest.approx(theirs, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, 6.0])
def test_a_fixed_shift_equals_that_of_diffusers(diffusers, shift):
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    for num_steps in STEPS:
        sigmas, told = their_times(theirs, num_steps)
        ours = sampling_times(num_steps, math.log(shift))
        torch.testing.assert_close(ours, sigmas, rtol=0, atol=1e-6)
        torch.testing.assert_close(ours[:-1], told, rtol=0, atol=1e-6)
