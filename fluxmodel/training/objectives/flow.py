"""The base model: an MM-DiT that learns the velocity from noise to latents of captioned images."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import UInt8
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fluxmodel.data.batches import CaptionedLatents, Coupling, FlowBatch
from fluxmodel.data.caption_mix import DEFAULT_WEIGHTS
from fluxmodel.data.latent_cache import EncodedDataset
from fluxmodel.encoders.text import WordEncoder, WordEncoderConfig
from fluxmodel.errors import InputError
from fluxmodel.flow.objective import TrainedField, flow_matching_loss
from fluxmodel.flow.packing import image_ids
from fluxmodel.flow.timesteps import TimeDensity, sample_timesteps
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.randomness import keyed_generator
from fluxmodel.training.samples import draw
from fluxmodel.training_job import TrainingJob
from fluxmodel.weights import load_mmdit, save_mmdit


class FlowSettings(BaseModel):
    """What the flow objective adds to a job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: WordEncoderConfig = Field(default=WordEncoderConfig(), description="The text encoder.")
    caption_mix: dict[str, float] = Field(
        default=DEFAULT_WEIGHTS,
        description="Relative weight of each kind of caption; kinds that are not named are not used.",
    )
    caption_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Share of captions emptied, for guidance."
    )
    time_density: TimeDensity = Field(default="logit_normal", description="Which times are visited.")
    noise_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the times that are 1: pure noise, where a single step starts.",
    )
    coupling: Coupling = Field(
        default="independent",
        description="Fresh noise at every step, or each latent with the noise it came from.",
    )
    huber_width: float = Field(
        default=0.0,
        ge=0,
        description="Width of a token's pseudo-Huber loss, in deviations of the latents; 0 is the squared error.",
    )


class FlowObjective:
    """Flow matching on the latents of an encoded dataset, from random weights or those of a trained model.

    `job.inputs["start"]`, where given, is the directory of the network to go on from.
    """

    def __init__(self, job: TrainingJob):
        self.job = job
        self.settings = FlowSettings.model_validate(job.objective)
        self.encoder = WordEncoder(self.settings.text)
        encoded = EncodedDataset.from_directory(job.data, mapped=True)
        self.latents = CaptionedLatents(encoded, self.encoder, self.settings.caption_mix, job.seed, job.data)
        if self.settings.coupling == "pairs" and self.latents.noise is None:
            raise InputError(f"objective.coupling is pairs, but {job.data} holds no pairs; draw them first")
        self.model = self._network()

    def _network(self) -> MMDiT:
        start = self.job.inputs.get("start")
        if start and self.job.model:
            raise InputError(f"model is given, but the network comes from {start}; leave model empty")
        if start:
            model = load_mmdit(start)
            self._require_fit(model.config)
            return model
        config = MMDiTConfig.model_validate(self.job.model)
        self._require_fit(config)
        model = MMDiT(config)
        model.initialize(keyed_generator(self.job.seed, 0))
        return model

    def _require_fit(self, config: MMDiTConfig) -> None:
        """Raise InputError, before the network is built, where its ends do not fit the latents and the text."""
        channels, dim = self.latents.data.shape[-1], self.settings.text.dim
        wanted = {
            "in_channels": channels,
            "out_channels": channels,
            "vec_in_dim": dim,
            "context_in_dim": dim,
        }
        for name, width in wanted.items():
            if getattr(config, name) != width:
                raise InputError(f"model.{name} is {getattr(config, name)}; this data and text need {width}")

    def batch(self, step: int, part: slice) -> FlowBatch:
        """Return this process's part of batch `step`."""
        size, seed, latents = self.job.batch_size, self.job.seed, self.latents
        samples, epochs = latents.samples(size, seed, step)
        generator = keyed_generator(seed, 2, step)
        data = latents.data[samples]
        noise = torch.randn(data.shape, generator=generator)
        if self.settings.coupling == "pairs":
            assert latents.noise is not None
            noise = latents.noise[samples]
        t = sample_timesteps(size, self.settings.time_density, generator)
        t = t.masked_fill(torch.rand(size, generator=generator) < self.settings.noise_share, 1.0)
        texts = latents.texts(samples, epochs)
        kept = torch.rand(size, generator=generator) >= self.settings.caption_dropout
        return FlowBatch(data, noise, t, *latents.embed(texts * kept))[part]

    def loss(self, batch: FlowBatch, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean error of the velocity, squared or pseudo-Huber."""
        field = velocity_field(self.model, batch, self.encoder, self.latents.height, self.latents.width)
        width = self.settings.huber_width
        return flow_matching_loss(field, batch.data, batch.noise, batch.t, width).mean(), {}

    def draw(self) -> UInt8[Tensor, "n 3 height width"]:
        """Draw the job's prompts with the network as it is; needs `job.inputs["autoencoder"]`."""
        return draw(self.model, self.encoder, self.job.inputs["autoencoder"], self.latents, self.job.samples)

    def finish(self, directory: Path) -> dict[str, float]:
        """Write transformer/ and text_encoder.json."""
        (directory / "transformer").mkdir()
        save_mmdit(self.model, directory / "transformer")
        (directory / "text_encoder.json").write_text(self.settings.text.model_dump_json(indent=2) + "\n")
        return {"parameters": float(sum(p.numel() for p in self.model.parameters()))}


def velocity_field(
    model: MMDiT, batch: FlowBatch, encoder: WordEncoder, height: int, width: int
) -> TrainedField:
    """Return velocity(x, t) of a network under a batch's captions; height and width are those of the latents."""
    num = len(batch.t)
    img_ids, txt_ids = image_ids(num, height, width), encoder.text_ids(num)
    return lambda x, t: model(x, img_ids, batch.txt, txt_ids, t, batch.pooled)
