import numpy as np
import pytest
import torch

from evaluation.kid import kernel_distance
from evaluation.statistics import blocks_of, jackknife


def sample(n, seed, shift=0.0):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)) + shift


def slow_distance(real, fake):
    """Every pair in turn."""

    def kernel(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    n, m = len(real), len(fake)
    within = sum(kernel(real[i], real[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    across = sum(kernel(fake[i], fake[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within + across - 2 * sum(kernel(x, y) for x in real for y in fake) / (n * m)


def test_it_equals_the_sum_over_every_pair():
    real, fake = sample(14, 0).double(), sample(11, 1, 0.5).double()
    assert kernel_distance(real, fake).value == pytest.approx(slow_distance(real, fake), rel=1e-9)


def test_its_interval_is_that_of_leaving_blocks_out():
    real, fake = sample(60, 0), sample(80, 1, 0.3)
    left_out = [
        kernel_distance(real[blocks_of(60) != number], fake[blocks_of(80) != number]).value
        for number in range(25)
    ]
    found = kernel_distance(real, fake)
    assert found.ci_high == pytest.approx(jackknife(found.value, np.array(left_out), 60).ci_high, rel=1e-9)


def test_it_has_no_bias_for_equal_distributions():
    values = [kernel_distance(sample(40, 2 * seed), sample(40, 2 * seed + 1)).value for seed in range(200)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(200)
    assert min(values) < 0


def test_it_grows_with_the_shift():
    values = [kernel_distance(sample(200, 0), sample(200, 1, shift)).value for shift in (0.0, 0.5, 1.0)]
    assert values == sorted(values)


def test_few_images_give_a_value_without_interval():
    found = kernel_distance(sample(10, 0), sample(10, 1))
    assert np.isfinite(found.value)
    assert np.isnan(found.ci_low)
