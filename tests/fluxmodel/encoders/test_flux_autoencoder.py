"""FLUX.1's autoencoder behind our port, against diffusers."""

import shutil
import sys
from typing import Any

import pytest
import torch

from fluxmodel.encoders.flux_autoencoder import FluxAutoencoder
from fluxmodel.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers deprecates itself


@pytest.fixture(scope="module")
def both(flux_directory):
    import diffusers

    folder = flux_directory("dev") / "vae"
    return FluxAutoencoder.from_directory(folder), diffusers.AutoencoderKL.from_pretrained(folder)


def test_latents_are_shifted_then_scaled(both):
    ours, theirs = both
    images = torch.rand(2, 3, 32, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mean = theirs.encode(images).latent_dist.mean
    expected = (mean - theirs.config.shift_factor) * theirs.config.scaling_factor
    torch.testing.assert_close(ours.encode(images), expected, rtol=1e-5, atol=1e-5)
    assert ours.encode(images).shape == (2, 4, 16, 8)


def test_images_are_those_of_the_pipeline(both):
    ours, theirs = both
    latents = torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs.decode(latents / theirs.config.scaling_factor + theirs.config.shift_factor).sample
    torch.testing.assert_close(ours.decode(latents), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.01


def test_latents_stay_in_fp32_around_a_network_in_bf16(flux_directory):
    ours = FluxAutoencoder.from_directory(flux_directory("dev") / "vae", torch.bfloat16)
    images = torch.zeros(1, 3, 16, 16)
    assert ours.network.dtype == torch.bfloat16
    assert ours.encode(images).dtype == ours.decode(ours.encode(images)).dtype == torch.float32


def test_flux_itself_has_16_channels_at_an_eighth():
    import diffusers

    kind: Any = diffusers.AutoencoderKL
    with torch.device("meta"):
        network = kind(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        flux = FluxAutoencoder(network)
        assert flux.encode(torch.zeros(1, 3, 64, 96)).shape == (1, 16, 8, 12)
    assert (flux.config.latent_channels, flux.config.downscale) == (16, 8)
    assert (flux.config.scale, flux.config.shift) == (0.3611, 0.1159)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda d: (d / "config.json").unlink(), "config.json: cannot be read"),
        (lambda d: next(d.glob("*.safetensors")).unlink(), "vae: cannot be read as AutoencoderKL"),
        (
            lambda d: next(d.glob("*.safetensors")).rename(d / "diffusion_pytorch_model.bin"),
            "diffusion_pytorch_model.bin is a pickle",
        ),
    ],
)
def test_a_damaged_folder_is_refused_by_its_name(flux_directory, tmp_path, damage, named):
    folder = shutil.copytree(flux_directory("dev") / "vae", tmp_path / "vae")
    damage(folder)
    with pytest.raises(InputError, match=named):
        FluxAutoencoder.from_directory(folder)


def test_a_tensor_that_is_missing_is_not_drawn_at_random(flux_directory, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(flux_directory("dev") / "vae", tmp_path / "vae")
    path = next(folder.glob("*.safetensors"))
    tensors = load_file(path)
    del tensors["decoder.conv_out.bias"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"vae: .*decoder.conv_out.bias"):
        FluxAutoencoder.from_directory(folder)


def test_without_diffusers_the_cure_is_named(flux_directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r"not installed; install it with `pip install 'fluxline\[flux\]'`"):
        FluxAutoencoder.from_directory(flux_directory("dev") / "vae")
