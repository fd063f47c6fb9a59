"""The captioner: the next word of a small labelled subset's captions, given the image and the words before it.

A small set teaches its coincidences: with some pairs of shape and colour never seen, the colour already said gives the
shape away. So half of the images are recoloured: their channels are permuted and perhaps inverted, the colours said
are random ones, and colours are not asked for. Scenes with pairs never labelled are then captioned right to the word in
0.89 of cases; in 0.80 where 30 % are recoloured, and in 0.14 (against 0.62 of the others) in an early trial without.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from fluxmodel.data.caption_scores import CaptionTally
from fluxmodel.data.image_pool import draw_pool
from fluxmodel.data.procedural import ProceduralSource, held_out_pairs
from fluxmodel.encoders.captioner import Captioner, CaptionerConfig
from fluxmodel.encoders.tokens import build_tokenizer
from fluxmodel.randomness import epoch_batch, keyed_generator
from fluxmodel.training_job import TrainingJob


class CaptionerSettings(BaseModel):
    """What this objective adds to a job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_images: int = Field(default=4000, gt=0, description="Labelled scenes, none with a held-out pair.")
    num_validation: int = Field(
        default=1000, gt=0, description="Scenes judged on, a fifth with held-out pairs."
    )
    pixel_noise: float = Field(
        default=0.06, ge=0, description="Largest deviation of the noise on pixels in [-1, 1]."
    )
    recolored: float = Field(default=0.5, ge=0, le=1, description="Share of images shown in other colours.")


class CaptionBatch(NamedTuple):
    """Prepared images [b, 3, s, s], the words said so far [b, m] and the words to say [b, m]; ignored ones pad."""

    images: Tensor
    said: Tensor
    wanted: Tensor


class CaptionerObjective:
    """Say the next word."""

    def __init__(self, job: TrainingJob):
        self.job = job
        self.settings = CaptionerSettings.model_validate(job.objective)
        source = ProceduralSource.parse(job.data)
        labelled = draw_pool(source, self.settings.num_images, 0, with_held_out=False)
        self.validation = draw_pool(source, self.settings.num_validation, 1, with_held_out=True)
        config = CaptionerConfig.model_validate(job.model)
        tokenizer = build_tokenizer(labelled.captions, config.max_tokens)
        self.captioner = Captioner.create(config, tokenizer)
        self.model = self.captioner.model
        self.images = self.captioner.pixel_values(_channels_first(labelled.pixels))
        tokens = tokenizer(labelled.captions, padding=True, truncation=True, return_tensors="pt")
        self.tokens = tokens["input_ids"]
        self.padding = int(tokenizer.pad_token_id)
        vocabulary = tokenizer.get_vocab()
        level = source.level
        self.colors = torch.tensor([vocabulary[c] for c in level.colors if c in vocabulary])
        self.hues = torch.tensor(
            [vocabulary[c] for c in (*level.colors, *level.backgrounds) if c in vocabulary]
        )
        self.unseen = held_out_pairs(level)

    def batch(self, step: int, part: slice) -> CaptionBatch:
        """Return noisy, partly recoloured images and their captions' tokens."""
        samples, _ = epoch_batch(len(self.tokens), self.job.batch_size, self.job.seed, step)
        generator = keyed_generator(self.job.seed, 2, step)
        images, tokens = self.images[samples], self.tokens[samples]
        spread = self.settings.pixel_noise * torch.rand(len(images), 1, 1, 1, generator=generator)
        images = images + spread * torch.randn(images.shape, generator=generator)
        drawn = torch.rand(len(images), generator=generator) < self.settings.recolored
        images = torch.where(drawn[:, None, None, None], recolored(images, generator), images)
        said, wanted = tokens[:, :-1], tokens[:, 1:]
        others = self.colors[torch.randint(len(self.colors), said.shape, generator=generator)]
        said = torch.where(torch.isin(said, self.colors) & drawn[:, None], others, said)
        wanted = wanted.masked_fill(torch.isin(wanted, self.hues) & drawn[:, None], self.padding)
        return CaptionBatch(images[part], said[part], wanted[part])

    def loss(self, batch: CaptionBatch, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean cross entropy of the words asked for."""
        mask = torch.ones_like(batch.said)
        logits = self.model(
            pixel_values=batch.images.to(dtype), input_ids=batch.said, attention_mask=mask
        ).logits
        loss = functional.cross_entropy(
            logits.float().flatten(0, 1), batch.wanted.flatten(), ignore_index=self.padding
        )
        return loss, {}

    def finish(self, directory: Path) -> dict[str, float]:
        """Write the transformers directory; return how right its captions are, on unseen pairs as well."""
        self.captioner.save(directory)
        scenes = self.validation.scenes
        assert scenes is not None
        written = self.captioner.caption(_channels_first(self.validation.pixels))
        texts = [w.text for w in written]
        is_unseen = [any((o.shape, o.color) in self.unseen for o in s.objects) for s in scenes]
        everywhere = CaptionTally.of(texts, scenes).figures()
        picked = [(t, s) for t, s, unseen in zip(texts, scenes, is_unseen, strict=True) if unseen]
        unseen = CaptionTally.of([t for t, _ in picked], [s for _, s in picked]).figures()
        scores = [w.score for w in written if w.score is not None]
        return {
            "f1": everywhere["f1"],
            "exact": everywhere["exact"],
            "unseen_f1": unseen["f1"],
            "unseen_exact": unseen["exact"],
            "mean_score": sum(scores) / len(scores),
            "parameters": float(sum(p.numel() for p in self.model.parameters())),
        }


def recolored(images: Float[Tensor, "n 3 h w"], generator: torch.Generator) -> Float[Tensor, "n 3 h w"]:
    """Return images in [-1, 1] with their channels in a random order, half of them inverted."""
    order = torch.rand(len(images), 3, generator=generator).argsort(1)
    sign = torch.where(torch.rand(len(images), generator=generator) < 0.5, -1.0, 1.0)
    return images.gather(1, order[:, :, None, None].expand_as(images)) * sign[:, None, None, None]


def _channels_first(pixels) -> Int[Tensor, "n 3 h w"]:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
