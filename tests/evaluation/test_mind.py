import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from evaluation.mind import directions, monge_distance
from evaluation.statistics import blocks_of


def cloud(n, seed, d=5, shift=0.0, scale=1.0):
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def slow_monge(real, fake):
    """Transport solved as an assignment along every direction, each image copied until the numbers are equal."""
    n, m = len(real), len(fake)
    times = math.lcm(n, m)
    total = 0.0
    along = directions(real.shape[1]).numpy()
    for direction in along.T:
        x, y = (np.repeat(side.double().numpy() @ direction, times // len(side)) for side in (real, fake))
        cost = np.square(x[:, None] - y[None])
        total += cost[linear_sum_assignment(cost)].mean()
    return 3 * real.shape[1] * total / along.shape[1]


@pytest.mark.parametrize(("n", "m"), [(12, 12), (6, 4), (8, 4)])
def test_sorting_solves_the_transport(n, m):
    real, fake = cloud(n, 1, d=3), cloud(m, 2, d=3, shift=0.5)
    assert monge_distance(real, fake).value == pytest.approx(slow_monge(real, fake), rel=1e-9)


def test_a_shift_costs_three_times_its_square():
    # E (u'v)^2 = |v|^2 / d for u even on the sphere; 1000 directions come within a few per cent.
    real = cloud(50, 1, d=8)
    shift = torch.tensor([2.0, 0, 0, 1, 0, 0, 0, 0])
    assert monge_distance(real, real + shift).value == pytest.approx(3 * 5, rel=0.1)


def test_it_is_symmetric_and_zero_only_for_equal_sets():
    real, fake = cloud(60, 1), cloud(60, 2)
    assert monge_distance(real, fake).value == pytest.approx(monge_distance(fake, real).value)
    assert monge_distance(real, real[torch.randperm(60)]).value == pytest.approx(0, abs=1e-12)
    assert monge_distance(real, fake).value > 0.01


def test_it_sees_what_two_moments_do_not():
    from evaluation.frechet import frechet_distance

    real = cloud(400, 1, d=4)
    signs = torch.randint(0, 2, (400, 4), generator=torch.Generator().manual_seed(2)).float() * 2 - 1
    centred = signs - signs.mean(0)
    whiten = torch.linalg.cholesky(torch.cov(real.T)) @ torch.linalg.inv(
        torch.linalg.cholesky(torch.cov(centred.T))
    )
    fake = centred @ whiten.T + real.mean(0)  # the same mean and covariance, two values a feature
    assert frechet_distance(real, fake) < 1e-6
    assert monge_distance(real, fake).value > 3 * monge_distance(real, cloud(400, 3, d=4)).value


@pytest.mark.parametrize(("n", "m"), [(75, 75), (100, 60)])
def test_its_interval_leaves_out_a_block_of_both_sides(n, m):
    real, fake = cloud(n, 1), cloud(m, 2, shift=0.3)
    left_out = np.array([
        monge_distance(real[blocks_of(n) != number], fake[blocks_of(m) != number]).value for number in range(25)
    ])  # fmt: skip
    error = np.sqrt(24 / 25 * np.square(left_out - left_out.mean()).sum())
    found = monge_distance(real, fake)
    assert (found.ci_high - found.value) / 2.064 == pytest.approx(error, rel=1e-6)


def test_its_interval_finds_the_spread_over_fresh_samples():
    found = [monge_distance(cloud(80, 2 * seed), cloud(80, 2 * seed + 1, shift=0.5)) for seed in range(24)]
    truth = np.std([each.value for each in found], ddof=1)
    said = np.mean([(each.ci_high - each.value) / 2.064 for each in found])
    assert 0.7 * truth < said < 1.5 * truth


def test_the_directions_are_unit_vectors_and_always_the_same():
    torch.manual_seed(5)
    first = directions(7)
    torch.manual_seed(6)
    assert torch.equal(first, directions(7))
    torch.testing.assert_close(first.norm(dim=0), torch.ones(1000).double())
