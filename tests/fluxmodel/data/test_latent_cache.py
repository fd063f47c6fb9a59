"""Encoded datasets: the latents of exactly those images, beside their captions."""

import json

import pytest
import torch

from fluxmodel.data.captioning import CaptionRow, write_rows
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
    assert encoded.ids == curated.ids("train")
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
    encode_dataset(dataset, autoencoder, tmp_path, progress=lambda *report: told.append(report))
    assert told[-1][0] == told[-1][1] == CuratedDataset(dataset).num("train")


def test_given_captions_are_the_only_ones_that_reach_training(dataset, autoencoder, tmp_path):
    curated = CuratedDataset(dataset)
    (tmp_path / "captions").mkdir()
    rows = [
        CaptionRow(own, "train", f"seen {own}", "detailed", "m", score=-0.01) for own in curated.ids("train")
    ]
    rows += [CaptionRow(own, "test", "of the test", "detailed", "m") for own in curated.ids("test")]
    write_rows(rows, tmp_path / "captions" / "captions.parquet")
    encode_dataset(dataset, autoencoder, tmp_path, captions=tmp_path / "captions")
    encoded = EncodedDataset.from_directory(tmp_path)
    assert encoded.captions == [{"detailed": f"seen {own}"} for own in encoded.ids]
    truth = {c.text for own in curated.captions("train") for c in own if c.kind in ("detailed", "short")}
    assert not truth & {text for own in encoded.captions for text in own.values()}


def test_captions_of_another_dataset_are_refused(dataset, autoencoder, tmp_path):
    write_rows([CaptionRow("elsewhere", "train", "a dog", "given")], tmp_path / "captions.parquet")
    with pytest.raises(ArtifactError, match="have no caption there"):
        encode_dataset(dataset, autoencoder, tmp_path, captions=tmp_path)
    with pytest.raises(ArtifactError, match="caption again"):
        encode_dataset(dataset, autoencoder, tmp_path, captions=tmp_path / "nothing")


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
