"""A tiny CLIP (Radford et al. 2021, arXiv:2103.00020), a plain transformers directory: image and text to one space.

It judges; it never conditions the model it judges.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from fluxmodel.errors import InputError

PREPROCESSOR = "preprocessor_config.json"
"""In the directory of a published CLIP: how its images are prepared."""


class DualEncoderConfig(BaseModel):
    """Shape of both towers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(default=32, gt=0, description="Side of its images, pixels.")
    patch_size: int = Field(default=4, gt=0, description="Side of a patch, pixels.")
    image_width: int = Field(default=96, gt=0, description="Width of the image tower.")
    text_width: int = Field(default=96, gt=0, description="Width of the text tower.")
    image_layers: int = Field(default=3, gt=0, description="Layers of the image tower.")
    text_layers: int = Field(default=2, gt=0, description="Layers of the text tower.")
    num_heads: int = Field(default=4, gt=0, description="Attention heads of both.")
    projection_dim: int = Field(default=64, gt=0, description="Width of the common space.")
    max_tokens: int = Field(default=20, gt=2, description="Words of a caption, with start and end.")


class DualEncoder(nn.Module):
    """A transformers CLIPModel with its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.pixel_statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
        """Mean and deviation of the pixels in [0, 1] that a model of others was trained with; none for ours."""

    @property
    def num_features(self) -> int:
        """Width of an embedding."""
        return self.model.config.projection_dim

    @classmethod
    def create(cls, config: DualEncoderConfig, tokenizer: Any) -> DualEncoder:
        """Build an untrained one over a tokenizer's vocabulary; weights come from torch's global generator."""
        from transformers import CLIPConfig, CLIPModel

        shared = {"num_attention_heads": config.num_heads, "projection_dim": config.projection_dim}
        text = {
            "vocab_size": len(tokenizer),
            "hidden_size": config.text_width,
            "intermediate_size": 4 * config.text_width,
            "num_hidden_layers": config.text_layers,
            "max_position_embeddings": config.max_tokens,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        vision = {
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "hidden_size": config.image_width,
            "intermediate_size": 4 * config.image_width,
            "num_hidden_layers": config.image_layers,
        }
        joint = CLIPConfig(
            text_config={**text, **shared},
            vision_config={**vision, **shared},
            projection_dim=config.projection_dim,
        )
        # In bf16 on a CPU the fused attention's backward is 3-4 times slower than the plain products.
        joint._attn_implementation = "eager"
        return cls(CLIPModel(joint), tokenizer)

    @classmethod
    def from_directory(cls, directory: str | Path) -> DualEncoder:
        """Read a CLIP directory, ours or any other in transformers' layout.

        Raises:
            InputError: there is none.
        """
        from transformers import AutoTokenizer, CLIPModel

        if not (Path(directory) / "config.json").is_file():
            raise InputError(
                f"{directory}: no config.json there; name a CLIP directory in transformers' layout"
            )
        model = CLIPModel.from_pretrained(str(directory), local_files_only=True)
        encoder = cls(model, AutoTokenizer.from_pretrained(str(directory), local_files_only=True)).eval()
        encoder.pixel_statistics = _pixel_statistics(Path(directory))
        return encoder

    def save(self, directory: str | Path) -> None:
        """Write the transformers directory."""
        self.model.save_pretrained(str(directory))
        self.tokenizer.save_pretrained(str(directory))

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Return input_ids and attention_mask [n, max_tokens]."""
        length = self.model.config.text_config.max_position_embeddings
        batch = self.tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def normalise(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] as the image tower was trained to see them."""
        if self.pixel_statistics is None:
            return images
        mean, deviation = (torch.tensor(each).view(1, -1, 1, 1) for each in self.pixel_statistics)
        return ((images + 1) / 2 - mean) / deviation

    def image_embeddings(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Embed images in [-1, 1], resized to the tower's side; rows have length 1."""
        side = self.model.config.vision_config.image_size
        if images.shape[-1] != side or images.shape[-2] != side:
            images = functional.interpolate(images, size=(side, side), mode="bicubic", antialias=True)
        pooled = self.model.vision_model(pixel_values=self.normalise(images)).pooler_output
        return functional.normalize(self.model.visual_projection(pooled), dim=-1)

    def text_embeddings(self, captions: Sequence[str]) -> Float[Tensor, "n d"]:
        """Embed captions; rows have length 1."""
        return self.embed_tokens(self.tokenize(captions))

    def embed_tokens(self, tokens: dict[str, Tensor]) -> Float[Tensor, "n d"]:
        """Embed what `tokenize` returned; rows have length 1."""
        pooled = self.model.text_model(**tokens).pooler_output
        return functional.normalize(self.model.text_projection(pooled), dim=-1)

    def contrastive_loss(self, image: Float[Tensor, "n d"], text: Float[Tensor, "n d"]) -> Tensor:
        """Return the symmetric cross entropy of every image against every caption of the batch, fp32."""
        logits = self.model.logit_scale.float().exp().clamp(max=100) * image.float() @ text.float().T
        labels = torch.arange(len(logits))
        return (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2


def _pixel_statistics(directory: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """What a published CLIP's preprocessor_config.json says of its pixels; none where there is no such file.

    Raises:
        InputError: the file is there and does not say it.
    """
    path = directory / PREPROCESSOR
    if not path.is_file():
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        mean, deviation = (tuple(map(float, said[name])) for name in ("image_mean", "image_std"))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: image_mean and image_std must be three numbers each ({error!r})"
        ) from error
    if len(mean) != 3 or len(deviation) != 3 or min(deviation) <= 0:
        raise InputError(f"{path}: image_mean and image_std must be three numbers each, the latter above 0")
    return mean, deviation
