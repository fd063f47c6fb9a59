"""The times training visits have the moments of their densities."""

import pytest
import torch

from fluxmodel.flow.timesteps import sample_timesteps
from fluxmodel.randomness import keyed_generator

NUM = 200_000


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.7)])
def test_logit_normal_times_have_normal_logits(mean, std):
    logits = torch.logit(sample_timesteps(NUM, "logit_normal", keyed_generator(0), mean, std).double())
    assert logits.mean().item() == pytest.approx(mean, abs=0.01)
    assert logits.std().item() == pytest.approx(std, abs=0.01)


def test_logit_normal_moments_equal_those_found_by_quadrature():
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2)
    density /= density.sum()
    mean = (torch.sigmoid(z) * density).sum()
    variance = ((torch.sigmoid(z) - mean).square() * density).sum()
    drawn = sample_timesteps(NUM, "logit_normal", keyed_generator(1)).double()
    assert drawn.mean().item() == pytest.approx(mean.item(), abs=2e-3)
    assert drawn.var().item() == pytest.approx(variance.item(), rel=0.02)


def test_uniform_times_are_uniform():
    drawn = sample_timesteps(NUM, "uniform", keyed_generator(2)).double()
    assert drawn.mean().item() == pytest.approx(1 / 2, abs=3e-3)
    assert drawn.var().item() == pytest.approx(1 / 12, rel=0.02)


@pytest.mark.parametrize("density", ["uniform", "logit_normal"])
def test_the_same_generator_draws_the_same_times(density):
    first, second = (sample_timesteps(9, density, keyed_generator(3, 1)) for _ in range(2))
    assert torch.equal(first, second)
    assert ((first > 0) & (first < 1)).all()
