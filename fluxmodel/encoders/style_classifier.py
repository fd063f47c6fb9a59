"""Says whether an image wears a style: one small convolutional network, one score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from fluxmodel.encoders.autoencoder import ResidualBlock
from fluxmodel.module_files import load_module, read_config, save_module


class StyleClassifierConfig(BaseModel):
    """Which style it knows, and its shape."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["style_classifier"] = "style_classifier"
    style: str = Field(default="", description="Name of the style.")
    width: int = Field(default=32, gt=0, multiple_of=8, description="Channels inside.")
    num_blocks: int = Field(default=1, gt=0, description="Residual blocks.")


class StyleClassifier(nn.Module):
    """Local features, their mean and their largest values, one score: above 0 is the style."""

    def __init__(self, config: StyleClassifierConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.trunk = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            *(ResidualBlock(width) for _ in range(config.num_blocks)),
            nn.SiLU(),
        )
        self.score = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """Score images in [-1, 1]."""
        maps = self.trunk(images).flatten(2)
        return self.score(torch.cat((maps.mean(2), maps.amax(2)), dim=1))[:, 0]

    @classmethod
    def from_directory(cls, directory: str | Path) -> StyleClassifier:
        """Read what `save` wrote; the module is in evaluation mode.

        Raises:
            InputError: a file is missing, damaged or does not fit the other.
        """
        module = cls(read_config(StyleClassifierConfig, Path(directory) / "config.json"))
        return load_module(module, Path(directory) / "model.safetensors")

    def save(self, directory: str | Path) -> None:
        """Write config.json and model.safetensors into an existing directory."""
        (Path(directory) / "config.json").write_text(json.dumps(self.config.model_dump(), indent=2) + "\n")
        save_module(self, Path(directory) / "model.safetensors")
