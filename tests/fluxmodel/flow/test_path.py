"""The path runs from data at t = 0 to noise at t = 1, straight."""

import pytest
import torch

from fluxmodel.flow.objective import flow_matching_loss, pseudo_huber
from fluxmodel.flow.path import data_estimate, interpolate, velocity

DATA, NOISE = torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).unbind(0)


def test_time_zero_is_data_and_time_one_is_noise():
    assert torch.equal(interpolate(DATA, NOISE, torch.zeros(4)), DATA)
    assert torch.equal(interpolate(DATA, NOISE, torch.ones(4)), NOISE)


def test_each_sample_has_its_own_time():
    t = torch.tensor([0.0, 1.0, 0.25, 0.5])
    mixed = interpolate(DATA, NOISE, t)
    torch.testing.assert_close(mixed[2], 0.75 * DATA[2] + 0.25 * NOISE[2])


def test_velocity_is_the_derivative_of_the_path():
    t, step = torch.full((4,), 0.3, dtype=torch.float64), 1e-6
    data, noise = DATA.double(), NOISE.double()
    slope = (interpolate(data, noise, t + step) - interpolate(data, noise, t - step)) / (2 * step)
    torch.testing.assert_close(slope, velocity(data, noise))


def test_the_true_velocity_points_at_the_data():
    t = torch.tensor([0.1, 0.4, 0.9, 1.0])
    estimate = data_estimate(interpolate(DATA, NOISE, t), velocity(DATA, NOISE), t)
    torch.testing.assert_close(estimate, DATA, rtol=1e-5, atol=1e-6)


def test_the_loss_of_the_true_field_is_zero_and_of_no_field_the_mean_square_velocity():
    t = torch.tensor([0.1, 0.4, 0.9, 1.0])
    assert not flow_matching_loss(lambda x, t: NOISE - DATA, DATA, NOISE, t).any()
    nothing = flow_matching_loss(lambda x, t: torch.zeros_like(x), DATA, NOISE, t)
    torch.testing.assert_close(nothing, (NOISE - DATA).square().mean((1, 2, 3)))


def test_the_loss_shows_the_network_x_t_and_t():
    seen = []

    def field(x, t):
        seen.append((x, t))
        return torch.zeros_like(x)

    t = torch.tensor([0.1, 0.4, 0.9, 1.0])
    flow_matching_loss(field, DATA, NOISE, t)
    assert torch.equal(seen[0][0], interpolate(DATA, NOISE, t))
    assert torch.equal(seen[0][1], t)


def test_the_pseudo_huber_loss_takes_the_side_of_the_majority_where_the_square_takes_the_middle():
    sides = torch.tensor([[0.0, 0.0]] * 6 + [[1.0, 1.0]] * 4)
    places = torch.linspace(0, 1, 101)[:, None].expand(-1, 2)
    squared = (places[:, None] - sides).square().mean(-1)
    assert places[squared.mean(1).argmin()][0] == pytest.approx(0.4)
    assert places[pseudo_huber(squared, 0.03).mean(1).argmin()][0] == pytest.approx(0.0, abs=0.04)


def test_the_pseudo_huber_loss_is_quadratic_far_below_its_width_and_linear_far_above():
    error = torch.tensor([1e-4, 10.0], dtype=torch.float64)
    small, large = pseudo_huber(error.square(), 0.03).tolist()
    assert small == pytest.approx(1e-8 / (2 * 0.03), rel=1e-4)
    assert large == pytest.approx(10.0 - 0.03, rel=1e-4)
    assert torch.equal(pseudo_huber(error, 0.0), error)
