import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from evaluation.manifold import NAMES, manifold
from evaluation.statistics import blocks_of


def cloud(n, seed, d=6, shift=0.0, scale=1.0):
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def slow_manifold(real, fake, k):
    """The definitions one point at a time."""
    real, fake = np.asarray(real, float), np.asarray(fake, float)

    def reach(points):
        return [sorted(cdist([point], points)[0])[k] for point in points]  # the nearest is the point itself

    real_reach, fake_reach = reach(real), reach(fake)
    inside = [[np.linalg.norm(x - y) <= r for y in fake] for x, r in zip(real, real_reach, strict=True)]
    inside_fake = [[np.linalg.norm(x - y) <= r for x in real] for y, r in zip(fake, fake_reach, strict=True)]
    return {
        "precision": np.mean([any(row[j] for row in inside) for j in range(len(fake))]),
        "recall": np.mean([any(row[i] for row in inside_fake) for i in range(len(real))]),
        "density": np.sum(inside) / (k * len(fake)),
        "coverage": np.mean([any(row) for row in inside]),
    }


@pytest.mark.parametrize(("n", "m", "k", "shift"), [(40, 40, 5, 0.0), (50, 30, 3, 0.7), (30, 60, 1, 2.0)])
def test_they_equal_the_definitions_point_by_point(n, m, k, shift):
    real, fake = cloud(n, 1, d=3), cloud(m, 2, d=3, shift=shift)
    found = manifold(real, fake, k)
    expected = slow_manifold(real, fake, k)
    assert {name: found[name].value for name in NAMES} == pytest.approx(expected, abs=1e-12)


def test_their_intervals_leave_out_a_block_of_both_sides():
    real, fake = cloud(75, 1, d=3), cloud(60, 2, d=3, shift=0.5)
    found = manifold(real, fake)
    left_out = [
        slow_manifold(real[blocks_of(75) != number], fake[blocks_of(60) != number], 5) for number in range(25)
    ]
    for name in NAMES:
        values = np.array([each[name] for each in left_out])
        error = np.sqrt(24 / 25 * np.square(values - values.mean()).sum())
        assert found[name].ci_high == pytest.approx(
            min(found[name].value + 2.064 * error, 1.0 if name != "density" else np.inf)
        )


def test_a_collapsed_model_keeps_its_precision_and_loses_its_coverage():
    real, honest = cloud(300, 1), cloud(300, 2)
    collapsed = cloud(300, 3, scale=0.05) + real[0] * 0.2
    whole, narrow = manifold(real, honest), manifold(real, collapsed)
    assert whole["coverage"].value > 0.9
    assert narrow["coverage"].ci_high < 0.5 * whole["coverage"].ci_low
    assert narrow["precision"].value == 1
    assert narrow["recall"].value < 0.2


def test_one_of_two_modes_dropped_halves_recall_and_coverage():
    real = torch.cat([cloud(150, 1), cloud(150, 2, shift=20.0)])
    found = manifold(real, cloud(300, 3))
    assert found["recall"].value == pytest.approx(0.5, abs=0.05)
    assert found["coverage"].value == pytest.approx(0.5, abs=0.05)


def test_images_far_from_all_real_ones_have_no_precision():
    found = manifold(cloud(100, 1), cloud(100, 2, shift=50.0))
    assert found["precision"].value == found["density"].value == found["coverage"].value == 0
    assert found["coverage"].ci_high > 0  # Wilson: none in 100 is no proof of none


def test_a_copy_of_the_real_images_has_everything():
    real = cloud(100, 1)
    found = manifold(real, real)
    assert found["precision"].value == found["recall"].value == found["coverage"].value == 1
    assert found["density"].value == pytest.approx(1.2)  # k others and itself, of k


def test_the_intervals_find_the_spread_over_fresh_samples():
    found = [manifold(cloud(150, 2 * seed), cloud(150, 2 * seed + 1, shift=0.6)) for seed in range(30)]
    for name in NAMES:
        truth = np.std([each[name].value for each in found], ddof=1)
        said = np.mean([(each[name].ci_high - each[name].ci_low) / (2 * 2.064) for each in found])
        assert 0.7 * truth < said < 1.9 * truth, name


def test_fewer_images_than_neighbours_are_refused():
    with pytest.raises(ValueError, match="5 real and 9 generated images: 5 neighbours need more than 5"):
        manifold(cloud(5, 1), cloud(9, 2))


def test_few_images_give_values_without_intervals():
    assert np.isnan(manifold(cloud(30, 1), cloud(30, 2))["coverage"].ci_low)
