import pytest
import torch
from torch import nn

from evaluation.features import FeatureExtractor, detector_extractor, dual_encoder_extractor, unit_range


def pixels(n=40, seed=0):
    return torch.randint(
        0, 256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def means(images):
    """Three features of very different scale, and one that never changes."""
    each = images.mean((2, 3)) * torch.tensor([1.0, 1e3, 1e-3])
    return torch.cat([each, torch.full((len(images), 1), 5.0)], dim=1)


def test_standardised_features_have_mean_0_and_deviation_1():
    extractor = FeatureExtractor(nn.Identity(), means, 4, "test")
    extractor.standardise(pixels())
    features = extractor(pixels())
    torch.testing.assert_close(features.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std(0)[1], torch.tensor(1.0), atol=1e-3, rtol=0)
    assert float(features[:, 3].abs().max()) < 1e-3
    assert extractor.label == "test, standardised by the reference"


def test_features_do_not_depend_on_the_batch():
    whole = FeatureExtractor(nn.Identity(), means, 4, "test", batch_size=40)
    parts = FeatureExtractor(nn.Identity(), means, 4, "test", batch_size=7)
    torch.testing.assert_close(whole(pixels()), parts(pixels()))


@pytest.mark.parametrize("kind", ["detector", "dual_encoder"])
def test_embedded_networks_carry_their_name_and_digest(evaluators, kind):
    make = {"detector": detector_extractor, "dual_encoder": dual_encoder_extractor}[kind]
    extractor = make(evaluators[kind])
    assert extractor(pixels(3)).shape == (3, extractor.num_features)
    assert extractor.metric_name == "Frechet distance"
    assert extractor.label.split()[-1] == make(evaluators[kind]).label.split()[-1]


def test_only_inception_may_be_called_fid():
    assert FeatureExtractor(nn.Identity(), means, 4, "inception v3, pool3").metric_name == "FID"


def test_pixels_reach_from_minus_one_to_one():
    ends = unit_range(torch.tensor([0, 255], dtype=torch.uint8))
    assert ends.tolist() == [-1, 1]
