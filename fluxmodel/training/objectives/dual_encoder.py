"""The dual encoder: every image of a batch finds its own caption, and every caption its image."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fluxmodel.data.image_pool import load_pools
from fluxmodel.encoders.dual_encoder import DualEncoder, DualEncoderConfig
from fluxmodel.encoders.tokens import build_tokenizer
from fluxmodel.pixels import to_signed
from fluxmodel.randomness import epoch_batch
from fluxmodel.training_job import TrainingJob

CANDIDATES = 32


class DualEncoderSettings(BaseModel):
    """What this objective adds to a job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_images: int = Field(default=20_000, gt=0, description="Captioned images learned from.")
    num_validation: int = Field(default=1024, gt=0, description="Captioned images judged on.")


class DualEncoderObjective:
    """Contrast images with captions."""

    def __init__(self, job: TrainingJob):
        self.job = job
        self.settings = DualEncoderSettings.model_validate(job.objective)
        train, self.validation = load_pools(
            job.data,
            self.settings.num_images,
            self.settings.num_validation,
            with_held_out=True,
            cache=job.inputs.get("cache"),
        )
        config = DualEncoderConfig(image_size=train.image_size, **job.model)
        tokenizer = build_tokenizer(train.captions, config.max_tokens)
        self.model = DualEncoder.create(config, tokenizer)
        self.pixels = torch.from_numpy(train.pixels)
        self.tokens = self.model.tokenize(train.captions)

    def batch(self, step: int, part: slice) -> tuple[Tensor, dict[str, Tensor]]:
        """Return images [b, 3, h, w] and their captions' tokens."""
        samples, _ = epoch_batch(len(self.pixels), self.job.batch_size, self.job.seed, step)
        samples = samples[part]
        return to_signed(self.pixels[samples]), {name: value[samples] for name, value in self.tokens.items()}

    def loss(
        self, batch: tuple[Tensor, dict[str, Tensor]], dtype: torch.dtype
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the contrastive loss."""
        images, tokens = batch
        loss = self.model.contrastive_loss(
            self.model.image_embeddings(images.to(dtype)), self.model.embed_tokens(tokens)
        )
        return loss, {}

    @torch.inference_mode()
    def finish(self, directory: Path) -> dict[str, float]:
        """Write the transformers directory; return how often an image finds its caption among 32, if there are 32."""
        self.model.save(directory)
        if len(self.validation.captions) < CANDIDATES:
            return {"num_validation": float(len(self.validation.captions))}
        images = to_signed(torch.from_numpy(self.validation.pixels))
        image = torch.cat([self.model.image_embeddings(part) for part in images.split(256)])
        return {"retrieval_at_32": retrieval(image, self.model.text_embeddings(self.validation.captions))}


def retrieval(image: Tensor, text: Tensor, candidates: int = CANDIDATES) -> float:
    """Return the share of images nearest to their own caption among `candidates` consecutive ones."""
    whole = len(image) - len(image) % candidates if len(image) >= candidates else len(image)
    groups = max(1, whole // candidates)
    similarity = image[:whole].unflatten(0, (groups, -1)) @ text[:whole].unflatten(0, (groups, -1)).mT
    return (similarity.argmax(-1) == torch.arange(similarity.shape[-1])).float().mean().item()
