"""The style classifier: the style against plain images and against halves of it.

For a style of ours the halves are drawn: plain objects on its ground and its objects on plain grounds, so that a
half-adopted style does not count. A folder's images stand against the dataset's, both turned, shifted and blurred.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from fluxmodel.data.image_pool import ImagePool, load_pools
from fluxmodel.data.procedural import render
from fluxmodel.data.style_images import StyleImages, open_style
from fluxmodel.data.styles import near_misses
from fluxmodel.encoders.style_classifier import StyleClassifier, StyleClassifierConfig
from fluxmodel.pixels import to_signed
from fluxmodel.randomness import epoch_batch, keyed_generator
from fluxmodel.training_job import TrainingJob

_ORDER = ("ground_only", "plain", "objects_only")
"""Which images the style is told from, in turn."""


class StyleClassifierSettings(BaseModel):
    """What this objective adds to a job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trigger: str = Field(default="", description="Trigger word of a folder's style.")
    num_images: int = Field(default=2000, gt=3, description="Plain images learned from.")
    num_validation: int = Field(default=400, gt=3, description="Plain images judged on.")
    pixel_noise: float = Field(default=0.06, ge=0, description="Largest deviation of the noise on pixels.")


class StyleClassifierObjective:
    """Tell a style's images from others; `job.inputs["style"]` is a specification or a folder."""

    def __init__(self, job: TrainingJob):
        self.job = job
        self.settings = StyleClassifierSettings.model_validate(job.objective)
        train, validation = load_pools(job.data, self.settings.num_images, self.settings.num_validation)
        images = open_style(job.inputs["style"], self.settings.trigger, train.image_size)
        self.groups = looks(train, images)
        self.validation = looks(validation, images)
        self.model = StyleClassifier(
            StyleClassifierConfig.model_validate({"style": images.name, **job.model})
        )
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (not in torch's stubs)

    def batch(self, step: int, part: slice) -> tuple[Tensor, Tensor]:
        """Return damaged images and whether they wear the style: half of them do."""
        size = self.job.batch_size
        others = [name for name in _ORDER if name in self.groups]
        place = torch.arange(size)
        member = torch.where(place % 2 == 0, 0, 1 + (place // 2) % len(others))
        images = torch.empty(size, *self.groups["style"].shape[1:], dtype=torch.uint8)
        for number, name in enumerate(("style", *others)):
            rows = member == number
            samples, _ = epoch_batch(len(self.groups[name]), int(rows.sum()), self.job.seed + number, step)
            images[rows] = self.groups[name][samples]
        generator = keyed_generator(self.job.seed, 2, step)
        return damaged(to_signed(images), self.settings.pixel_noise, generator)[part], (member == 0).float()[
            part
        ]

    def loss(self, batch: tuple[Tensor, Tensor], dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the binary cross entropy."""
        images, wears = batch
        return functional.binary_cross_entropy_with_logits(self.model(images.to(dtype)).float(), wears), {}

    @torch.inference_mode()
    def finish(self, directory: Path) -> dict[str, float]:
        """Write the network; return its accuracy on each group of images it did not learn from, and the mean."""
        self.model.save(directory)
        found = {}
        for name, pixels in self.validation.items():
            said = self.model(to_signed(pixels)) > 0
            found[f"accuracy/{name}"] = (said == (name == "style")).float().mean().item()
        return {"accuracy": sum(found.values()) / len(found), **found}


def looks(pool: ImagePool, images: StyleImages) -> dict[str, Tensor]:
    """Return uint8 images by group: the style's, plain ones and, where they can be drawn, half-adopted ones."""
    if images.style is None or pool.scenes is None:
        return {"style": torch.from_numpy(images.pixels), "plain": torch.from_numpy(pool.pixels)}
    half = len(pool.scenes) // 2
    misses = [render(pool.scenes[half:], miss) for miss in near_misses(images.style)]
    return {
        "style": torch.from_numpy(render(pool.scenes, images.style)),
        "plain": torch.from_numpy(pool.pixels),
        "ground_only": torch.from_numpy(np.ascontiguousarray(misses[0])),
        "objects_only": torch.from_numpy(np.ascontiguousarray(misses[1])),
    }


def damaged(images: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Return images [n, 3, h, w] mirrored, shifted by up to two pixels, some blurred, with a little noise."""
    num = len(images)
    mirror = torch.rand(num, 1, 1, 1, generator=generator) < 0.5
    images = torch.where(mirror, images.flip(3), images)
    dy, dx = torch.randint(-2, 3, (2,), generator=generator).tolist()
    images = functional.pad(images, (2, 2, 2, 2), mode="replicate").roll((dy, dx), (2, 3))[:, :, 2:-2, 2:-2]
    soft = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = torch.rand(num, 1, 1, 1, generator=generator)
    images = torch.lerp(images, soft, torch.where(share < 2 / 3, 0.0, 0.4))
    spread = noise * torch.rand(num, 1, 1, 1, generator=generator)
    return images + spread * torch.randn(images.shape, generator=generator)
