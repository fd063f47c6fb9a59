"""CLIP score through torchmetrics' interface over the embedded dual encoder, image by image.

score = 100 cos(image, caption)   (Hessel et al. 2021, arXiv:2104.08718)

transformers 5 returns an object where torchmetrics expects a tensor, and torchmetrics cuts long captions behind the
processor's back, so that they lose their end token; the wrapper unwraps the one and the processor cuts captions
itself, end token kept. The score is worth reporting only where the encoder can tell captions apart.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.multimodal.clip_score import CLIPScore

from fluxmodel.encoders.dual_encoder import PREPROCESSOR

from .features import unit_range

RETRIEVAL_THRESHOLD = 0.90
_METRIC = "retrieval_at_32"


@dataclass(frozen=True)
class Admission:
    """Whether a dual encoder's score may be reported, and why not."""

    admitted: bool
    reason: str


def admission(directory: Path) -> Admission:
    """Read the encoder's card: it has to find its own caption among 32 in at least 90 % of cases."""
    path = Path(directory) / "card.json"
    if not path.exists() and (Path(directory) / PREPROCESSOR).exists():
        return Admission(True, "a published CLIP model: its score is known, and needs no examination here")
    if not path.exists():
        return Admission(False, f"{path.name} of the dual encoder is missing, so what it can do is not known")
    value = json.loads(path.read_text(encoding="utf-8")).get("metrics", {}).get(_METRIC)
    if value is None:
        return Admission(False, f"the dual encoder's card does not say its {_METRIC}")
    text = f"the dual encoder finds its own caption among 32 in {value:.1%} of cases"
    if value >= RETRIEVAL_THRESHOLD:
        return Admission(True, text)
    return Admission(False, f"{text}, below the {RETRIEVAL_THRESHOLD:.0%} its score needs")


class _Unwrapped(nn.Module):
    """A CLIP model whose feature methods return tensors."""

    def __init__(self, clip: Any):
        super().__init__()
        self.clip: Any = clip
        self.config: Any = clip.config

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        side = self.config.vision_config.image_size
        if pixel_values.shape[-2:] != (side, side):
            size = [side, side]
            pixel_values = functional.interpolate(pixel_values, size=size, mode="bicubic", antialias=True)
        return _pooled(self.clip.get_image_features(pixel_values=pixel_values))

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return _pooled(self.clip.get_text_features(input_ids=input_ids, attention_mask=attention_mask))


def _pooled(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output


class _Processor:
    """Images and captions as the dual encoder takes them."""

    def __init__(self, tokenizer, max_length: int, normalise: Callable[[Tensor], Tensor]):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.normalise = normalise

    def __call__(
        self, text: list[str] | None = None, images: list[Tensor] | None = None, **_: object
    ) -> dict:
        if images is not None:
            return {"pixel_values": self.normalise(unit_range(torch.stack(images)))}
        return self.tokenizer(
            text, return_tensors="pt", padding=True, truncation=True, max_length=self.max_length
        )


class DualEncoderCLIPScore(CLIPScore):
    """torchmetrics' CLIPScore over our dual encoder; keeps the score of every image.

    update(uint8 images [n, 3, H, W], captions) as in the parent; `compute` is the parent's mean.
    """

    full_state_update: bool = False
    values: list[Tensor]
    embeddings: list[Tensor]

    def __init__(self, dual_encoder: Any, **kwargs: Any):
        model, tokenizer = dual_encoder.model.eval(), dual_encoder.tokenizer
        length = model.config.text_config.max_position_embeddings
        processor = _Processor(tokenizer, length, dual_encoder.normalise)
        super().__init__(lambda: (_Unwrapped(model), processor), **kwargs)
        self.add_state("values", [], dist_reduce_fx="cat")
        self.add_state("embeddings", [], dist_reduce_fx="cat")

    @torch.inference_mode()
    def update(self, source: Tensor, target: list[str]) -> None:
        """Score images against their captions, one each."""
        if len(source) != len(target):
            raise ValueError(
                f"{len(source)} images and {len(target)} captions: CLIP score needs one caption an image"
            )
        pixels = self.processor(images=list(source))["pixel_values"].to(self.device)
        tokens = self.processor(text=list(target))
        image = self.model.get_image_features(pixels)
        text = self.model.get_text_features(
            tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device)
        )
        image, text = functional.normalize(image, dim=-1), functional.normalize(text, dim=-1)
        scores = 100 * (image * text).sum(-1)
        self.embeddings.append(image)
        self.values.append(scores)
        self.score += scores.sum()
        self.n_samples += len(scores)

    def per_image(self) -> Tensor:
        """Scores of all images so far, in order, [n]."""
        return torch.cat(list(self.values)) if len(self.values) else torch.zeros(0)


def clip_scores(
    dual_encoder: Any, images: Tensor, captions: list[str], batch_size: int = 250
) -> tuple[Tensor, Tensor]:
    """CLIP score of every image against its caption, [n], and the images' unit embeddings, [n, d]."""
    metric = DualEncoderCLIPScore(dual_encoder)
    for start in range(0, len(images), batch_size):
        metric.update(images[start : start + batch_size], captions[start : start + batch_size])
    return metric.per_image().float(), torch.cat(list(metric.embeddings))
