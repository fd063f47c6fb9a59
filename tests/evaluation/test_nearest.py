import numpy as np
import pytest
import torch
from torch.nn import functional

from evaluation.nearest import QUANTILE, TrainingImages, nearer_share


def pictures(n, seed, side=24):
    """Smooth random images, as natural ones are: neighbouring pixels are alike."""
    coarse = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return (255 * functional.interpolate(coarse, side, mode="bilinear")).byte()


def colors(images):
    return images.float().mean((2, 3))


def halved(images):
    """An autoencoder that loses half the resolution."""
    small = functional.avg_pool2d(images.float(), 2)
    return functional.interpolate(small, scale_factor=2).round().clamp(0, 255).byte()


@pytest.fixture(scope="module")
def training():
    return TrainingImages(pictures(500, 0), pictures(400, 1), colors)


def test_the_nearest_image_is_the_one_that_a_slow_search_finds(training):
    asked = pictures(30, 2)
    found = training.nearest(asked)
    for row, image in enumerate(asked.double()):
        apart = (training.images.double() - image).square().mean((1, 2, 3)).sqrt()
        assert found.index[row] == int(apart.argmin())
        assert found.pixels[row] == pytest.approx(float(apart.min()), rel=1e-5)
        by_color = (colors(training.images) - colors(asked[row : row + 1])).norm(dim=1).min()
        assert found.features[row] == pytest.approx(float(by_color), rel=1e-4)


def test_near_is_what_few_real_images_are(training):
    real = training.real
    assert training.near["pixels"] == pytest.approx(np.quantile(real.pixels, QUANTILE))
    assert 0 < real.memorised.mean() <= 2 * QUANTILE + 1 / 400
    scaled = np.minimum(real.pixels / training.near["pixels"], real.features / training.near["features"])
    assert np.array_equal(real.distance, scaled)


def test_an_honest_model_is_let_be(training):
    found = training.summary(training.nearest(pictures(400, 3)))
    assert found["memorised"] < 0.03
    assert abs(found["nearer_than_real"] - 0.5) < 0.06


@pytest.mark.parametrize("share", [0.05, 1.0])
def test_planted_copies_are_found_and_only_they(training, share):
    drawn, count = pictures(200, 4), int(200 * share)
    honest = training.nearest(drawn).memorised
    drawn[:count] = training.images[100 : 100 + count]
    found = training.nearest(drawn)
    assert found.memorised[:count].all()
    assert np.array_equal(found.memorised[count:], honest[count:])
    assert found.distance[:count].max() == 0
    assert found.index[:count].tolist() == list(range(100, 100 + count))


def test_slight_noise_does_not_hide_a_copy(training):
    noise = torch.randint(-2, 3, (200, 3, 24, 24), generator=torch.Generator().manual_seed(5))
    found = training.nearest((training.images[:200] + noise).clamp(0, 255).byte())
    assert found.memorised.mean() > 0.95


def test_copies_that_came_through_an_autoencoder_are_found_only_by_redrawing():
    images, real = pictures(500, 0), pictures(400, 1)
    rough = lambda given: halved(halved(given).roll(1, 3))  # noqa: E731
    copies = rough(images[:200])
    plain = TrainingImages(images, real, lambda given: given.float().flatten(1))
    redrawing = TrainingImages(images, real, lambda given: given.float().flatten(1), redraw=rough)
    assert redrawing.nearest(copies).memorised.all()
    assert redrawing.nearest(copies).pixels.max() == 0
    assert plain.nearest(copies).pixels.min() > 0
    assert redrawing.nearest(rough(pictures(400, 3))).memorised.mean() < 0.03
    assert redrawing.nearest(images[:50]).memorised.all()


def test_a_model_whose_images_all_lie_near_is_told_by_the_whole():
    training = TrainingImages(pictures(500, 0), pictures(400, 1), colors)
    noise = torch.randint(-60, 61, (200, 3, 24, 24), generator=torch.Generator().manual_seed(5))
    near = (training.images[:200] + noise).clamp(0, 255).byte()
    assert training.summary(training.nearest(near))["nearer_than_real"] > 0.8


def test_the_share_of_nearer_pairs_counts_ties_half():
    found, real = np.array([1.0, 2.0]), np.array([1.0, 1.5, 3.0])
    pairs = [(a < b) + 0.5 * (a == b) for a in found for b in real]
    assert nearer_share(found, real) == pytest.approx(np.mean(pairs))
    assert nearer_share(real, real) == 0.5


def test_real_images_that_were_trained_on_do_not_divide_by_zero():
    images = pictures(100, 0)
    training = TrainingImages(images, images, colors)
    assert np.isfinite(training.nearest(pictures(20, 1)).distance).all()
