import builtins
import hashlib
import sys
import types

import pytest
import torch

import evaluation.inception
from evaluation.inception import SIDE, WEIGHTS, inception_extractor, load_network
from evaluation.resize import resize_clean
from fluxmodel.errors import InputError


class RandomInception(torch.nn.Module):
    """Random weights behind the network's own interface: bytes of 299 pixels in, 2048 features out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.project = torch.nn.Linear(3, 2048)

    def forward(self, images):
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (3, SIDE, SIDE)
        return self.project(images.float().mean((2, 3)))


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation.inception, "load_network", lambda path: RandomInception())
    (tmp_path / WEIGHTS).write_bytes(b"weights")
    return tmp_path


def pictures(n, seed=0):
    return torch.randint(
        0, 256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def test_only_inception_features_give_a_distance_the_name_fid(weights, evaluators):
    from evaluation.features import detector_extractor

    extractor = inception_extractor(weights)
    assert extractor.metric_name == "FID"
    assert hashlib.sha256(b"weights").hexdigest()[:16] in extractor.label
    assert "clean resize to 299x299" in extractor.label
    assert detector_extractor(evaluators["detector"]).metric_name == "Frechet distance"


def test_images_are_resized_cleanly_before_the_network(weights):
    extractor, images = inception_extractor(weights / WEIGHTS), pictures(3)
    expected = RandomInception()(resize_clean(images, SIDE))
    torch.testing.assert_close(extractor(images), expected)


def test_an_evaluation_over_inception_does_not_standardise_its_features(weights, evaluators, scenes_dataset):
    from evaluation import EvaluationSettings
    from evaluation.instruments import Instruments
    from evaluation.prompts import build_benchmark
    from fluxmodel.data.curated_dataset import CuratedDataset

    settings = EvaluationSettings(num_images=8, num_held_out=0, num_detailed=0)
    benchmark = build_benchmark(CuratedDataset(scenes_dataset), settings)
    found = Instruments({**evaluators, "inception": weights}, benchmark, settings)
    assert found.extractor.metric_name == "FID"
    assert "standardised" not in found.extractor.label
    assert found.detector is not None  # it still reads scenes
    expected = RandomInception()(resize_clean(benchmark.reference, SIDE)).double()
    torch.testing.assert_close(found.reference.features, expected, atol=1e-6, rtol=1e-6)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(InputError, match=rf"{WEIGHTS}: no Inception weights there; name the file {WEIGHTS}"):
        inception_extractor(tmp_path)


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'torch_fidelity'"), RuntimeError("operator")]
)
def test_without_torch_fidelity_one_sentence_says_what_to_install(tmp_path, monkeypatch, error):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "torch_fidelity":
            raise error
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"need torch-fidelity and a torchvision.*install both"):
        load_network(tmp_path / WEIGHTS)


def test_a_file_of_something_else_is_named(tmp_path, monkeypatch):
    import torchmetrics.image.fid

    def refuse(*_):
        raise KeyError("Conv2d_1a_3x3.conv.weight")

    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setattr(torchmetrics.image.fid, "NoTrainInceptionV3", refuse)
    with pytest.raises(InputError, match=r"x.pth: no weights of Inception-v3"):
        load_network(tmp_path / "x.pth")
