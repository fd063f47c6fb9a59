"""The autoencoder on disk, and the normalisation of its latents."""

import pytest
import torch
from pydantic import ValidationError

from fluxmodel.encoders.autoencoder import Autoencoder, AutoencoderConfig
from fluxmodel.errors import InputError

IMAGES = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def autoencoder():
    torch.manual_seed(0)
    return Autoencoder(AutoencoderConfig(latent_channels=4, width=16, num_blocks=1, scale=0.5, shift=0.2))


def test_latents_are_a_quarter_of_the_side_and_images_come_back_in_size(autoencoder):
    latents = autoencoder.encode(IMAGES)
    assert latents.shape == (2, 4, 4, 6)
    assert autoencoder.decode(latents).shape == IMAGES.shape


def test_normalisation_is_flux_1s_and_decoding_undoes_it(autoencoder):
    raw = autoencoder.encoder(IMAGES)
    torch.testing.assert_close(autoencoder.encode(IMAGES), 0.5 * (raw - 0.2))
    torch.testing.assert_close(
        autoencoder.decode(autoencoder.encode(IMAGES)), autoencoder.decoder(raw), rtol=1e-4, atol=1e-5
    )


def test_a_saved_autoencoder_reads_alike_and_writes_the_same_bytes(autoencoder, tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    autoencoder.save(tmp_path / "first")
    again = Autoencoder.from_directory(tmp_path / "first")
    assert not again.training
    torch.testing.assert_close(again.encode(IMAGES), autoencoder.encode(IMAGES), rtol=1e-5, atol=1e-6)
    again.save(tmp_path / "second")
    for file in (tmp_path / "first").iterdir():
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda d: (d / "config.json").unlink(), r"config\.json: cannot be read"),
        (lambda d: (d / "config.json").write_text("{"), r"config\.json: Invalid JSON"),
        (lambda d: (d / "config.json").write_text('{"width": 0}'), r"config\.json: width: "),
        (lambda d: (d / "config.json").write_text('{"depth": 2}'), r"config\.json: depth: "),
        (lambda d: (d / "model.safetensors").unlink(), r"model\.safetensors: cannot be read"),
        (lambda d: (d / "model.safetensors").write_bytes(b"weights"), r"model\.safetensors: cannot be read"),
        (lambda d: (d / "config.json").write_text('{"width": 32, "num_blocks": 1}'), "do not fit"),
    ],
    ids=["no config", "no JSON", "bad value", "unknown field", "no weights", "no safetensors", "other width"],
)
def test_a_damaged_directory_is_refused_by_file_and_field(autoencoder, tmp_path, damage, named):
    autoencoder.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=named):
        Autoencoder.from_directory(tmp_path)


@pytest.mark.parametrize("field", [{"width": 12}, {"scale": 0}, {"latent_channels": 0}, {"blocks": 1}])
def test_a_bad_config_is_refused_by_its_field(field):
    with pytest.raises(ValidationError, match=next(iter(field))):
        AutoencoderConfig(**field)
