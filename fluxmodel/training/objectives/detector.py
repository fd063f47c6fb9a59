"""The scene detector: cross entropies of what stands in every cell."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from fluxmodel.data.image_pool import ImagePool, load_pools
from fluxmodel.data.procedural import Level, ProceduralSource
from fluxmodel.encoders.detector import SceneDetector, SceneDetectorConfig, SceneLogits
from fluxmodel.pixels import to_signed
from fluxmodel.randomness import epoch_batch, keyed_generator
from fluxmodel.training_job import TrainingJob

ABSENT = -100
"""The class cross entropy passes over."""


class DetectorSettings(BaseModel):
    """What this objective adds to a job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_images: int = Field(default=20_000, gt=0, description="Scenes learned from.")
    num_validation: int = Field(default=1000, gt=0, description="Scenes judged on.")
    pixel_noise: float = Field(
        default=0.06,
        ge=0,
        description="Largest deviation of the noise on pixels in [-1, 1]; its size varies.",
    )


class DetectorObjective:
    """Read scenes off images."""

    def __init__(self, job: TrainingJob):
        self.job = job
        self.settings = DetectorSettings.model_validate(job.objective)
        level = ProceduralSource.parse(job.data).level
        train, self.validation = load_pools(
            job.data, self.settings.num_images, self.settings.num_validation, with_held_out=True
        )
        self.pixels = torch.from_numpy(train.pixels)
        self.labels = scene_labels(train, level)
        self.validation_labels = scene_labels(self.validation, level)
        config = SceneDetectorConfig(
            grid=level.grid,
            shapes=level.shapes,
            colors=level.colors,
            sizes=level.sizes,
            backgrounds=level.backgrounds,
            **job.model,
        )
        self.model = SceneDetector(config)
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (not in torch's stubs)

    def batch(self, step: int, part: slice) -> tuple[Tensor, dict[str, Tensor]]:
        """Return noisy images [b, 3, h, w] and their labels."""
        samples, _ = epoch_batch(len(self.pixels), self.job.batch_size, self.job.seed, step)
        generator = keyed_generator(self.job.seed, 2, step)
        images = to_signed(self.pixels[samples]).contiguous(memory_format=torch.channels_last)
        spread = self.settings.pixel_noise * torch.rand(len(images), 1, 1, 1, generator=generator)
        images = images + spread * torch.randn(images.shape, generator=generator)
        return images[part], {name: label[samples[part]] for name, label in self.labels.items()}

    def loss(
        self, batch: tuple[Tensor, dict[str, Tensor]], dtype: torch.dtype
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the five losses."""
        images, labels = batch
        scores = self.model(images.to(dtype))
        loss = functional.binary_cross_entropy_with_logits(
            scores.presence.float(), (labels["shape"] >= 0).float()
        )
        loss = loss + functional.cross_entropy(scores.background.float(), labels["background"])
        for name in ("shape", "color", "size"):
            score = getattr(scores, name).float().flatten(0, 1)
            loss = loss + functional.cross_entropy(score, labels[name].flatten(), ignore_index=ABSENT)
        return loss, {}

    @torch.inference_mode()
    def finish(self, directory: Path) -> dict[str, float]:
        """Write the network; return the share of right attributes and of images right in all."""
        self.model.save(directory)
        scores = self.model(to_signed(torch.from_numpy(self.validation.pixels)))
        return accuracies(scores, self.validation_labels)


def scene_labels(pool: ImagePool, level: Level) -> dict[str, Tensor]:
    """Return class numbers: shape, color, size [n, cells], `ABSENT` in empty cells, and background [n]."""
    scenes = pool.scenes
    assert scenes is not None
    labels = {name: torch.full((len(scenes), level.grid**2), ABSENT) for name in ("shape", "color", "size")}
    names = {"shape": level.shapes, "color": level.colors, "size": level.sizes}
    for row, scene in enumerate(scenes):
        for item in scene.objects:
            for name, choices in names.items():
                labels[name][row, item.row * level.grid + item.col] = choices.index(getattr(item, name))
    labels["background"] = torch.tensor([level.backgrounds.index(s.background) for s in scenes])
    return labels


def accuracies(scores: SceneLogits, labels: dict[str, Tensor]) -> dict[str, float]:
    """Return the accuracy of every attribute where it applies, and of whole images."""
    present = labels["shape"] >= 0
    found = (scores.presence > 0) == present
    background = scores.background.argmax(-1) == labels["background"]
    result = {
        "presence_accuracy": found.float().mean().item(),
        "background_accuracy": background.float().mean().item(),
    }
    right = found.all(1) & background
    for name in ("shape", "color", "size"):
        correct = getattr(scores, name).argmax(-1) == labels[name]
        result[f"{name}_accuracy"] = correct[present].float().mean().item()
        right &= (correct | ~present).all(1)
    return {**result, "all_correct": right.float().mean().item()}
