"""A small convolutional autoencoder: images to latents a quarter of their side, and back.

FLUX.1 normalises latents by one scale and one shift, `latents = scale * (z - shift)` (0.3611 and 0.1159 for its
own autoencoder); ours measures both on its training images, so that latents have mean 0 and deviation 1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from fluxmodel.module_files import load_module, read_config, save_module


class AutoencoderConfig(BaseModel):
    """Shape of the network and the normalisation of its latents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["autoencoder"] = "autoencoder"
    latent_channels: int = Field(default=8, gt=0, description="Channels of a latent.")
    width: int = Field(
        default=96, gt=0, multiple_of=8, description="Channels inside, at a quarter of the image's side."
    )
    num_blocks: int = Field(
        default=3, ge=0, description="Residual blocks in the encoder, and in the decoder."
    )
    scale: float = Field(default=1.0, gt=0, description="latents = scale * (z - shift).")
    shift: float = Field(default=0.0, description="latents = scale * (z - shift).")

    @property
    def downscale(self) -> int:
        """Image side over latent side."""
        return 4


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(norm(x)))))."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(functional.silu(self.conv1(functional.silu(self.norm(x)))))


class Autoencoder(nn.Module):
    """Pixels folded 2x2, one convolution, folded again; residual blocks; and the same way back."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        width, half = config.width, config.width // 2
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, half, 3, padding=1),
            nn.SiLU(),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * half, width, 1),
            *(ResidualBlock(width) for _ in range(config.num_blocks)),
            nn.Conv2d(width, config.latent_channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.latent_channels, width, 3, padding=1),
            *(ResidualBlock(width) for _ in range(config.num_blocks)),
            nn.Conv2d(width, 4 * half, 1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(half, half, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(half, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def encode(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h/4 w/4"]:
        """Return normalised latents of images in [-1, 1]."""
        return self.config.scale * (self.encoder(images) - self.config.shift)

    def decode(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 4*h 4*w"]:
        """Return images, about in [-1, 1], of normalised latents."""
        return self.decoder(latents / self.config.scale + self.config.shift)

    @classmethod
    def from_directory(cls, directory: str | Path) -> Autoencoder:
        """Read what `save` wrote; the module is in evaluation mode.

        Raises:
            InputError: a file is missing, damaged or does not fit the other.
        """
        module = cls(read_config(AutoencoderConfig, Path(directory) / "config.json"))
        return load_module(module, Path(directory) / "model.safetensors")

    def save(self, directory: str | Path) -> None:
        """Write config.json and model.safetensors into an existing directory."""
        (Path(directory) / "config.json").write_text(json.dumps(self.config.model_dump(), indent=2) + "\n")
        save_module(self, Path(directory) / "model.safetensors")
