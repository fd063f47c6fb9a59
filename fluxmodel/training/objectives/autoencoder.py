"""The autoencoder: squared and absolute error of reconstructions, through latents with a little noise."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fluxmodel.data.image_pool import load_pools, vary_looks
from fluxmodel.encoders.autoencoder import Autoencoder, AutoencoderConfig
from fluxmodel.errors import InputError
from fluxmodel.pixels import to_signed
from fluxmodel.randomness import epoch_batch, keyed_generator
from fluxmodel.training_job import TrainingJob

STATISTICS_IMAGES = 2000


class AutoencoderSettings(BaseModel):
    """What this objective adds to a job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_images: int = Field(default=20_000, gt=0, description="Images learned from.")
    num_validation: int = Field(default=500, gt=0, description="Images judged on.")
    varied_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of drawn scenes in random looks: 0.2 draws unseen grounds at 34 dB instead of 17, and "
        "plain scenes at 35.0 dB instead of 37.2.",
    )
    latent_noise: float = Field(
        default=0.05,
        ge=0,
        description="Noise on latents, in their deviations: the decoder forgives small errors.",
    )
    absolute_weight: float = Field(
        default=0.1, ge=0, description="Weight of the absolute error beside the squared."
    )
    latent_penalty: float = Field(default=1e-4, ge=0, description="Weight of the latents' mean square.")


class AutoencoderObjective:
    """Reconstruct images."""

    def __init__(self, job: TrainingJob):
        self.job = job
        self.settings = AutoencoderSettings.model_validate(job.objective)
        train, validation = load_pools(
            job.data, self.settings.num_images, self.settings.num_validation, cache=job.inputs.get("cache")
        )
        train = vary_looks(train, self.settings.varied_share, job.seed)
        self.train = torch.from_numpy(train.pixels)
        self.validation = to_signed(torch.from_numpy(validation.pixels))
        config = AutoencoderConfig.model_validate(job.model)
        if train.image_size % (2 * config.downscale):
            raise InputError(
                f"{job.data}: image_size is {train.image_size}; curate to a multiple of {2 * config.downscale} pixels"
            )
        self.model = Autoencoder(config)
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (not in torch's stubs)

    def batch(self, step: int, part: slice) -> tuple[Tensor, Tensor]:
        """Return images [b, 3, h, w] and the noise of their latents."""
        samples, _ = epoch_batch(len(self.train), self.job.batch_size, self.job.seed, step)
        images = to_signed(self.train[samples]).contiguous(memory_format=torch.channels_last)
        side = images.shape[-1] // self.model.config.downscale
        shape = (len(images), self.model.config.latent_channels, side, side)
        noise = torch.randn(shape, generator=keyed_generator(self.job.seed, 2, step))
        return images[part], noise[part]

    def loss(self, batch: tuple[Tensor, Tensor], dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the mean squared error."""
        images, noise = batch
        latents = self.model.encoder(images.to(dtype))
        spread = self.settings.latent_noise * latents.detach().float().std()
        restored = self.model.decoder(latents + (spread * noise).to(dtype)).float()
        squared = (restored - images).square().mean()
        absolute = (restored - images).abs().mean()
        penalty = latents.float().square().mean()
        loss = squared + self.settings.absolute_weight * absolute + self.settings.latent_penalty * penalty
        return loss, {"mse": squared.detach()}

    @torch.inference_mode()
    def finish(self, directory: Path) -> dict[str, float]:
        """Measure the latents' normalisation, write the network; return reconstruction quality in decibels."""
        images = to_signed(self.train[:STATISTICS_IMAGES])
        latents = torch.cat([self.model.encoder(part) for part in images.split(250)])
        measured = {"scale": 1 / latents.std().item(), "shift": latents.mean().item()}
        self.model.config = self.model.config.model_copy(update=measured)
        self.model.save(directory)
        restored = self.model.decode(self.model.encode(self.validation)).clamp(-1, 1)
        mse = (restored - self.validation).square().mean().item()
        return {"psnr_db": 10 * math.log10(4 / mse), "parameters": _count(self.model)}


def _count(module: torch.nn.Module) -> float:
    return float(sum(p.numel() for p in module.parameters()))
