"""Rotary positions are rotations, and a product of two turned vectors knows their distance only."""

import pytest
import torch

from fluxmodel.mmdit.rope import rotary_table, rotate

AXES_DIM, THETA = (4, 6, 6), 10_000.0


def turned(x: torch.Tensor, *position: float) -> torch.Tensor:
    table = rotary_table(torch.tensor([[position]], dtype=torch.float32), AXES_DIM, THETA)
    return rotate(x.reshape(1, 1, -1), table).flatten()


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, sum(AXES_DIM), generator=generator).unbind(0)


@pytest.mark.parametrize("shift", [(0, 1, 0), (0, 5, 9), (3, 40, 63)])
def test_a_product_depends_on_the_distance_alone(pair, shift):
    q, k = pair
    here = turned(q, 0, 2, 7) @ turned(k, 0, 4, 1)
    there = turned(q, *(a + b for a, b in zip((0, 2, 7), shift, strict=True))) @ turned(
        k, *(a + b for a, b in zip((0, 4, 1), shift, strict=True))
    )
    torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5)


def test_a_product_does_depend_on_the_distance(pair):
    q, k = pair
    assert abs(turned(q, 0, 2, 7) @ turned(k, 0, 4, 1) - turned(q, 0, 2, 7) @ turned(k, 0, 4, 2)) > 1e-3


def test_turning_keeps_the_length_of_every_pair(pair):
    x = pair[0]
    before, after = (v.reshape(-1, 2).norm(dim=1) for v in (x, turned(x, 3, 17, 60)))
    torch.testing.assert_close(before, after)


def test_position_zero_turns_nothing(pair):
    assert torch.equal(turned(pair[0], 0, 0, 0), pair[0])


def test_each_axis_turns_its_own_pairs_at_its_own_frequencies():
    table = rotary_table(torch.tensor([[[0.0, 2.0, 0.0]]]), AXES_DIM, THETA)[0, 0]
    expected = [0, 0] + [2 * THETA ** (-2 * i / 6) for i in range(3)] + [0, 0, 0]
    torch.testing.assert_close(table.angle(), torch.tensor(expected, dtype=torch.float32))
