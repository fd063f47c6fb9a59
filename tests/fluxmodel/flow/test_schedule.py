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


@pytest.mark.parametrize("num_steps", [1, 4, 28])
def test_times_equal_those_of_diffusers(num_steps):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what diffusers and its dependencies warn of is theirs to mend
        from diffusers import FlowMatchEulerDiscreteScheduler

        theirs = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
        theirs.set_timesteps(sigmas=np.linspace(1, 1 / num_steps, num_steps), mu=dynamic_shift(1024))
    torch.testing.assert_close(
        sampling_times(num_steps, dynamic_shift(1024)), theirs.sigmas, rtol=0, atol=2.5e-7
    )
