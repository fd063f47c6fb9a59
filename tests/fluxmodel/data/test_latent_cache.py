"""Encoded datasets: the latents of exactly those images, beside their captions."""

import json

import pytest
import torch

from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.data.curation import curate
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.latent_cache import EncodedDataset, encode_dataset
from fluxmodel.encoders.autoencoder import Autoencoder, AutoencoderConfig
from fluxmodel.errors import ArtifactError, InputError
from fluxmodel.pixels import to_signed


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("autoencoder")
    torch.manual_seed(0)
    Autoencoder(AutoencoderConfig(width=16, num_blocks=1, scale=2.0, shift=0.1)).save(directory)
    return directory


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("curated")
    curate("procedural:shapes?level=demo&n=24&seed=0", CurationRules(test_fraction=0.2), directory)
    return directory


def test_latents_are_those_of_the_training_images_in_order(dataset, autoencoder, tmp_path):
    figures = encode_dataset(dataset, autoencoder, tmp_path)
    encoded, curated = EncodedDataset.from_directory(tmp_path), CuratedDataset(dataset)
    images = to_signed(torch.from_numpy(curated.pixels("train")))
    with torch.inference_mode():
        expected = Autoencoder.from_directory(autoencoder).encode(images)
    torch.testing.assert_close(encoded.latents, expected, rtol=2e-3, atol=2e-3)  # kept in fp16
    assert encoded.captions == [{c.kind: c.text for c in own} for own in curated.captions("train")]
    assert figures["num_samples"] == curated.num("train")
    assert figures["latent_std"] == pytest.approx(encoded.latents.std().item(), rel=1e-3)
    assert json.loads((tmp_path / "config.json").read_text())["image_size"] == 32


def test_encoding_again_gives_the_same_bytes(dataset, autoencoder, tmp_path):
    written = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        encode_dataset(dataset, autoencoder, tmp_path / name)
        written.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
    assert written[0] == written[1]


def test_progress_reaches_the_end(dataset, autoencoder, tmp_path):
    told = []
    encode_dataset(dataset, autoencoder, tmp_path, lambda *report: told.append(report))
    assert told[-1][0] == told[-1][1] == CuratedDataset(dataset).num("train")


def test_no_autoencoder_is_refused_by_name(dataset, tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        encode_dataset(dataset, tmp_path / "nothing", tmp_path)


def test_damaged_encodings_are_refused(dataset, autoencoder, tmp_path):
    with pytest.raises(ArtifactError, match="encode again"):
        EncodedDataset.from_directory(tmp_path)
    encode_dataset(dataset, autoencoder, tmp_path)
    (tmp_path / "captions.json").write_text("[[]]")
    with pytest.raises(ArtifactError, match="1 rows of captions"):
        EncodedDataset.from_directory(tmp_path)
    (tmp_path / "latents.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(ArtifactError, match="encode again"):
        EncodedDataset.from_directory(tmp_path)
