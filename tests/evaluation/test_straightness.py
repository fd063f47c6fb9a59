import pytest
import torch

from evaluation.straightness import drawn_paths, follow

NOISE = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))


def test_a_constant_velocity_is_straight():
    paths = follow(lambda x, t: torch.ones_like(x), NOISE, 5)
    assert paths.points.shape == (6, 6, 4, 3)
    torch.testing.assert_close(paths.error, torch.zeros(6), atol=1e-6, rtol=0)
    torch.testing.assert_close(paths.length, torch.ones(6))


def test_one_step_is_always_straight():
    paths = follow(lambda x, t: torch.sin(3 * x), NOISE, 1)
    torch.testing.assert_close(paths.error, torch.zeros(6), atol=1e-6, rtol=0)


def test_a_known_bend_has_its_known_figures():
    """Half the way along one axis, half along another: |v - chord|^2 / |chord|^2 is 1, the length 2 / sqrt 2."""

    def velocity(x, t):
        out = torch.zeros_like(x)
        out[:, 0, 0 if t > 0.75 else 1] = 1
        return out

    paths = follow(velocity, NOISE, 2)
    torch.testing.assert_close(paths.error, torch.ones(6))
    torch.testing.assert_close(paths.length, torch.full((6,), 2**0.5))


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_figures_do_not_depend_on_the_scale(scale):
    field = lambda s: lambda x, t: s * torch.sin(x / s)  # noqa: E731
    one, other = follow(field(1.0), NOISE, 4), follow(field(scale), scale * NOISE, 4)
    torch.testing.assert_close(one.error, other.error)
    torch.testing.assert_close(one.length, other.length)


def test_paths_are_drawn_in_one_plane():
    before, after = follow(lambda x, t: torch.sin(x), NOISE, 4), follow(lambda x, t: x, NOISE, 4)
    lines = drawn_paths(before, after, num=3)
    assert {name: (len(each), len(each[0]), len(each[0][0])) for name, each in lines.items()} == {
        "before": (3, 5, 2),
        "after": (3, 5, 2),
    }
    assert [line[0] for line in lines["before"]] == [line[0] for line in lines["after"]]  # the same noise
