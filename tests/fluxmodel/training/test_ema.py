"""The averaged weights."""

import pytest
import torch

from fluxmodel.training.ema import WeightAverage


def test_constant_weights_are_their_own_average():
    average = WeightAverage([torch.full((3,), 2.0)], 0.9)
    for step in range(10):
        average.update([torch.full((3,), 2.0)], step)
    torch.testing.assert_close(average.average[0], torch.full((3,), 2.0))


def test_the_average_follows_its_recurrence():
    values = torch.randn(200, generator=torch.Generator().manual_seed(0)).tolist()
    average, expected = WeightAverage([torch.zeros(1)], 0.8), 0.0
    for step, value in enumerate(values):
        average.update([torch.tensor([value])], step)
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.average[0].item() == pytest.approx(expected, abs=1e-6)


def test_without_decay_it_is_the_last_weights():
    average = WeightAverage([torch.zeros(2)], 0.0)
    average.update([torch.tensor([1.0, 2.0])], 5)
    assert average.average[0].tolist() == [1.0, 2.0]


def test_it_owns_its_tensors():
    weights = torch.zeros(2)
    average = WeightAverage([weights], 0.9)
    weights.add_(1)
    assert not average.average[0].any()
