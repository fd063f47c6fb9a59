"""The base model: an MM-DiT that learns the velocity from noise to latents of captioned images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fluxmodel.data.latent_cache import EncodedDataset
from fluxmodel.encoders.text import WordEncoder, WordEncoderConfig
from fluxmodel.errors import InputError
from fluxmodel.flow.objective import flow_matching_loss
from fluxmodel.flow.packing import image_ids, pack
from fluxmodel.flow.timesteps import TimeDensity, sample_timesteps
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.randomness import epoch_batch, keyed_generator
from fluxmodel.training_job import TrainingJob
from fluxmodel.weights import save_mmdit


class FlowSettings(BaseModel):
    """What the flow objective adds to a job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: WordEncoderConfig = Field(default=WordEncoderConfig(), description="The text encoder.")
    caption_mix: dict[str, float] = Field(
        default={"detailed": 0.85, "short": 0.15, "given": 1.0},
        description="Relative weight of each kind of caption; kinds that are not named are not used.",
    )
    caption_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Share of captions emptied, for guidance."
    )
    time_density: TimeDensity = Field(default="logit_normal", description="Which times are visited.")


@dataclass(frozen=True)
class FlowBatch:
    """Packed latents [b, n, c], noise alike, times [b], text [b, m, d], pooled text [b, d]."""

    data: Tensor
    noise: Tensor
    t: Tensor
    txt: Tensor
    pooled: Tensor


class FlowObjective:
    """Flow matching on the latents of an encoded dataset."""

    def __init__(self, job: TrainingJob):
        self.job = job
        self.settings = FlowSettings.model_validate(job.objective)
        encoded = EncodedDataset.from_directory(job.data)
        self.data = pack(encoded.latents)
        self.height, self.width = encoded.latents.shape[-2:]
        self.encoder = WordEncoder(self.settings.text)
        config = MMDiTConfig.model_validate(job.model)
        self._require_fit(config)
        self._choose_captions(encoded.captions)
        self.model = MMDiT(config)
        self.model.initialize(keyed_generator(job.seed, 0))

    def _require_fit(self, config: MMDiTConfig) -> None:
        """Raise InputError, before the network is built, where its ends do not fit the latents and the text."""
        channels, dim = self.data.shape[-1], self.settings.text.dim
        wanted = {
            "in_channels": channels,
            "out_channels": channels,
            "vec_in_dim": dim,
            "context_in_dim": dim,
        }
        for name, width in wanted.items():
            if getattr(config, name) != width:
                raise InputError(f"model.{name} is {getattr(config, name)}; this data and text need {width}")

    def _choose_captions(self, captions: list[dict[str, str]]) -> None:
        mix = self.settings.caption_mix
        kinds = [k for k in mix if mix[k] > 0 and any(k in own for own in captions)]
        if not kinds:
            raise InputError(
                f"objective.caption_mix names {', '.join(mix) or 'nothing'}, and {self.job.data} has no such caption; "
                f"its kinds are {', '.join(sorted(set().union(*captions))) or 'none'}"
            )
        weight = torch.tensor([[mix[k] * (k in own) for k in kinds] for own in captions])
        if num_without := int((weight.sum(1) == 0).sum()):
            raise InputError(
                f"{num_without} images of {self.job.data} have no caption of the kinds {', '.join(kinds)}: "
                "caption them, or name their kinds in objective.caption_mix"
            )
        self._cumulative = (weight / weight.sum(1, keepdim=True)).cumsum(1)
        texts = {"": 0}
        numbers = [[texts.setdefault(own.get(k, ""), len(texts)) for k in kinds] for own in captions]
        self._text_of = torch.tensor(numbers)
        self._embedded = self.encoder(list(texts))

    def batch(self, step: int, part: slice) -> FlowBatch:
        """Return this process's part of batch `step`."""
        size = self.job.batch_size
        samples, _ = epoch_batch(len(self.data), size, self.job.seed, step)
        generator = keyed_generator(self.job.seed, 2, step)
        data = self.data[samples]
        noise = torch.randn(data.shape, generator=generator)
        t = sample_timesteps(size, self.settings.time_density, generator)
        pick = torch.rand(size, 1, generator=generator)
        column = (pick > self._cumulative[samples]).sum(1).clamp(max=self._text_of.shape[1] - 1)
        kept = torch.rand(size, generator=generator) >= self.settings.caption_dropout
        text = self._text_of[samples, column] * kept
        fields = (data, noise, t, self._embedded.tokens[text], self._embedded.pooled[text])
        return FlowBatch(*(field[part] for field in fields))

    def loss(self, batch: FlowBatch, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean squared error of the velocity."""
        num = len(batch.t)
        img_ids, txt_ids = image_ids(num, self.height, self.width), self.encoder.text_ids(num)

        def field(x: Tensor, t: Tensor) -> Tensor:
            return self.model(x, img_ids, batch.txt, txt_ids, t, batch.pooled)

        errors = flow_matching_loss(field, batch.data, batch.noise, batch.t)
        return errors.mean(), {}

    def finish(self, directory: Path) -> dict[str, float]:
        """Write transformer/ and text_encoder.json."""
        (directory / "transformer").mkdir()
        save_mmdit(self.model, directory / "transformer")
        (directory / "text_encoder.json").write_text(self.settings.text.model_dump_json(indent=2) + "\n")
        return {"parameters": float(sum(p.numel() for p in self.model.parameters()))}
