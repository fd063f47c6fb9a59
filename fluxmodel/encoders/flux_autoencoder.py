"""FLUX.1's autoencoder, read by diffusers (extra `flux`): 16 channels at an eighth of the image's side.

latents = scale * (z - shift),    z = latents / scale + shift,    0.3611 and 0.1159 in its config.json
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fluxmodel.errors import InputError
from fluxmodel.pretrained_folder import quiet_libraries, read_network


@dataclass(frozen=True)
class FluxAutoencoderConfig:
    """Shape and normalisation of the latents.

    Attributes:
        latent_channels: channels of a latent.
        downscale: image side over latent side.
        scale, shift: latents = scale * (z - shift).
    """

    latent_channels: int
    downscale: int
    scale: float
    shift: float


class FluxAutoencoder(nn.Module):
    """diffusers' `AutoencoderKL` behind the same port as our own autoencoder."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network: Any = network
        config: Any = network.config
        self.config = FluxAutoencoderConfig(
            latent_channels=int(config.latent_channels),
            downscale=2 ** (len(config.block_out_channels) - 1),
            scale=float(config.scaling_factor),
            shift=float(config.shift_factor or 0.0),
        )

    @classmethod
    def from_directory(cls, directory: str | Path, dtype: torch.dtype = torch.float32) -> FluxAutoencoder:
        """Read the folder `vae` of a FLUX.1 directory; the module is in evaluation mode.

        Raises:
            InputError: diffusers is not installed, or the folder is missing, damaged, pickled or of another shape.
        """
        folder = Path(directory)
        try:
            with quiet_libraries():
                import diffusers
        except ImportError as error:
            raise InputError(
                f"{folder}: this autoencoder is read by diffusers, which is not installed; "
                "install it with `pip install 'fluxline[flux]'`."
            ) from error
        diffusers.utils.logging.disable_progress_bar()
        return cls(read_network(diffusers.AutoencoderKL, folder, dtype)).eval()

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h/8 w/8"]:
        """Return normalised latents, fp32, of images in [-1, 1]: the mean of what the encoder would draw from."""
        images = images.to(self.network.device, self.network.dtype)
        z = self.network.encode(images).latent_dist.mode().float()
        return self.config.scale * (z - self.config.shift)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 8*h 8*w"]:
        """Return images, fp32, about in [-1, 1], of normalised latents."""
        z = latents.to(self.network.device).float() / self.config.scale + self.config.shift
        return self.network.decode(z.to(self.network.dtype)).sample.float()
