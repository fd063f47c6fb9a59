"""A style by LoRA: adapters learn a few captioned images, and prior data keep the rest of the model in its place.

Every batch holds a share of the base's own training data with its own captions; without it the style leaks into
prompts that do not ask for it.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fluxmodel.data.batches import CaptionedLatents, FlowBatch
from fluxmodel.data.caption_mix import DEFAULT_WEIGHTS
from fluxmodel.data.decode import encode_png
from fluxmodel.data.latent_cache import EncodedDataset
from fluxmodel.data.style_images import StyleImages, open_style
from fluxmodel.encoders.autoencoder import Autoencoder
from fluxmodel.encoders.text import WordEncoder, WordEncoderConfig
from fluxmodel.flow.objective import flow_matching_loss
from fluxmodel.flow.timesteps import TimeDensity, sample_timesteps
from fluxmodel.lora_adapters import adapters_of
from fluxmodel.lora_files import FILES, write_lora
from fluxmodel.lora_passport import Passport, data_digest, weights_digest
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.module_files import read_config
from fluxmodel.pixels import to_signed
from fluxmodel.randomness import keyed_generator
from fluxmodel.text_to_image import INDEX, ModelIndex
from fluxmodel.training.lora import add_adapters, strengthen, target_layers
from fluxmodel.training.objectives.flow import velocity_field
from fluxmodel.training_job import TrainingJob
from fluxmodel.weights import load_mmdit


class LoraSettings(BaseModel):
    """What this objective adds to a job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="", description="Name of the LoRA; empty takes the style's.")
    trigger: str = Field(default="", description="The made-up word that asks for a folder's style.")
    rank: int = Field(default=16, gt=0, description="Rank of each adapter.")
    alpha: float = Field(default=16.0, gt=0, description="Adapters are scaled by alpha / rank.")
    targets: str = Field(
        default="blocks",
        description="Adapted layers: blocks, attention, mlp, modulation, embedders, final or all, several joined by +, "
        "or an expression for their whole names.",
    )
    strength: float = Field(
        default=1.0,
        gt=0,
        description="How much stronger than trained the LoRA is kept: style against the prompt.",
    )
    prior_share: float = Field(
        default=1 / 3, ge=0, lt=1, description="Share of each batch from the base's training data."
    )
    caption_mix: dict[str, float] = Field(
        default=DEFAULT_WEIGHTS, description="Relative weight of each kind of caption."
    )
    caption_dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the prior data's captions emptied; the style's never are.",
    )
    time_density: TimeDensity = Field(default="logit_normal", description="Which times are visited.")


class LoraObjective:
    """Flow matching on a style's images and prior data, by adapters on a trained base.

    `job.data` is the base's encoded dataset; `job.inputs` names the model's directory (start), the autoencoder and
    the style (a specification or a folder).
    """

    def __init__(self, job: TrainingJob):
        self.job = job
        self.settings = LoraSettings.model_validate(job.objective)
        self.start = Path(job.inputs["start"])
        self.encoder = WordEncoder(
            read_config(WordEncoderConfig, self.start / "text_encoder" / "config.json")
        )
        index = read_config(ModelIndex, self.start / INDEX)
        self.images = open_style(job.inputs["style"], self.settings.trigger, index.image_size)
        mix = self.settings.caption_mix
        self.prior = CaptionedLatents(
            EncodedDataset.from_directory(job.data, mapped=True), self.encoder, mix, job.seed, job.data
        )
        self.styled = CaptionedLatents(
            encode_style(self.images, job.inputs["autoencoder"]),
            self.encoder,
            mix,
            job.seed,
            job.inputs["style"],
        )
        self.base = self.start / index.choose("base")[0]
        self.model: MMDiT = load_mmdit(self.base)
        adapters = self.settings.rank, self.settings.alpha, job.seed, self.settings.targets
        add_adapters(self.model, *adapters)

    def batch(self, step: int, part: slice) -> FlowBatch:
        """Return this process's part of batch `step`: prior data and styled images in turn, evenly spread."""
        size, seed = self.job.batch_size, self.job.seed
        generator = keyed_generator(seed, 2, step)
        num_prior = round(size * self.settings.prior_share)
        steps_up = torch.arange(size + 1) * num_prior // size
        is_prior = steps_up[1:] > steps_up[:-1]  # evenly spread, so that every rank gets its share
        kept = torch.rand(size, generator=generator) >= self.settings.caption_dropout
        txt, pooled = self.styled.embed(torch.zeros(size, dtype=torch.long))
        data = torch.empty(size, *self.styled.data.shape[1:])
        for source, rows in ((self.styled, ~is_prior), (self.prior, is_prior)):
            if num := int(rows.sum()):
                samples, epochs = source.samples(num, seed, step)
                texts = source.texts(samples, epochs)
                txt[rows], pooled[rows] = source.embed(texts if source is self.styled else texts * kept[rows])
                data[rows] = source.data[samples]
        noise = torch.randn(data.shape, generator=generator)
        t = sample_timesteps(size, self.settings.time_density, generator)
        return FlowBatch(data, noise, t, txt, pooled)[part]

    def loss(self, batch: FlowBatch, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean squared error of the velocity."""
        field = velocity_field(self.model, batch, self.encoder, self.styled.height, self.styled.width)
        return flow_matching_loss(field, batch.data, batch.noise, batch.t).mean(), {}

    def finish(self, directory: Path) -> dict[str, float]:
        """Write the LoRA under diffusers' names, lora.json (its passport), images.png and story.json.

        Alpha is folded into B, so the file is as strong in readers that know no alpha.
        """
        strengthen(self.model, self.settings.strength)
        lora, passport = adapters_of(self.model), self.passport()
        proof = write_lora(lora, directory, self.model.config, folded=True, passport=passport)
        passport = passport.model_copy(update={"files": {FILES[proof.layout]: proof}})
        passport.write(directory)
        images = self.images
        (directory / "images.png").write_bytes(encode_png(picture_wall(images)))
        tiles = [
            {"png": base64.b64encode(encode_png(image)).decode(), "prompt": next(iter(said.values()))}
            for image, said in zip(images.pixels, images.captions, strict=True)
        ]
        (directory / "story.json").write_text(
            json.dumps({**passport.model_dump(mode="json"), "images": tiles}) + "\n"
        )
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        return {"parameters": float(trained), "num_images": float(len(images.pixels))}

    def passport(self) -> Passport:
        """Return what the LoRA is and was made of, before any file of it is."""
        images, settings = self.images, self.settings
        return Passport(
            name=settings.name or images.name,
            trigger=images.trigger,
            style=images.name,
            rank=settings.rank,
            alpha=settings.alpha,
            strength=settings.strength,
            targets=settings.targets,
            num_layers=len(target_layers(self.model, settings.targets)),
            base=weights_digest(self.base),
            base_name=f"{self.start.name}/{self.base.name}",
            data=data_digest(images.pixels.tobytes(), images.captions),
            num_images=len(images.pixels),
            steps=self.job.steps,
        )


@torch.inference_mode()
def encode_style(images: StyleImages, autoencoder: str | Path) -> EncodedDataset:
    """Return a style's images as latents with their captions."""
    latents = Autoencoder.from_directory(autoencoder).encode(to_signed(torch.from_numpy(images.pixels)))
    return EncodedDataset(latents.clone(), images.captions, [str(i) for i in range(len(latents))])


def picture_wall(images: StyleImages, columns: int = 8, zoom: int = 4) -> np.ndarray:
    """Return the images side by side, enlarged, uint8 [h, w, 3]."""
    shown = images.pixels[: columns * max(1, len(images.pixels) // columns)]
    columns = min(columns, len(shown))
    rows = [np.concatenate(list(shown[at : at + columns]), 1) for at in range(0, len(shown), columns)]
    return np.concatenate(rows, 0).repeat(zoom, 0).repeat(zoom, 1)
