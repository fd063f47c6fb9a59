"""What an evaluation may vary, and the job file that asks for one. No torch here."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fluxmodel.training_job import Precision


class EvaluationSettings(BaseModel):
    """How a model is judged; every field that changes a number ends up in that number's identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_images: int = Field(
        default=1000, ge=4, description="Images per point of the curves. The Frechet distance depends on it."
    )
    steps: tuple[int, ...] = Field(
        default=(1, 2, 4, 8), min_length=1, description="Numbers of solver steps along the curves, rising."
    )
    guidance: float = Field(default=2.0, gt=1.0, description="Guidance scale of the guided curve.")
    rectified_steps: tuple[int, ...] = Field(
        default=(1, 2, 4),
        min_length=1,
        description="Numbers of steps of a rectified model, rising; unguided.",
    )
    caption_kind: Literal["short", "detailed"] = Field(
        default="short",
        description="Wording of the prompts on scenes: short ones leave the background open.",
    )
    num_detailed: int = Field(
        default=500,
        ge=0,
        description="Images of further prompts in the other wording, at the headline point.",
    )
    num_lora: int = Field(
        default=200,
        ge=2,
        description="Prompts a LoRA is measured on, each with and without its trigger word.",
    )
    lora_steps: int = Field(default=4, gt=0, description="Guided steps of the base while a LoRA is measured.")
    num_paths: int = Field(
        default=128,
        ge=0,
        description="Images whose way from noise is measured for straightness; 0 measures none.",
    )
    num_held_out: int = Field(
        default=500, ge=0, description="Images on combinations of attributes that training never showed."
    )
    seed: int = Field(default=0, ge=0, description="Seed of prompts, noise, reference and bootstrap.")
    batch_size: int = Field(
        default=250,
        ge=1,
        description="Images sampled together. Fixes rounding, so it is part of the identity.",
    )
    precision: Precision = Field(
        default="auto",
        description="Of the network while it draws; auto takes bf16 where a probe shows it pays.",
    )
    num_candidates: int = Field(
        default=32, ge=2, description="Captions among which an image has to find its own (chance is 1/N)."
    )
    num_latency_trials: int = Field(
        default=5, ge=1, description="Single images timed per point; the fastest counts."
    )
    num_training: int = Field(
        default=20_000,
        ge=0,
        description="Training images among which the nearest to each generated one is sought; 0 seeks none.",
    )
    num_calibration: int = Field(
        default=200, ge=0, description="Known scenes on which the judge is calibrated, per kind of damage."
    )
    grid_size: int = Field(default=24, ge=1, description="Images in the sample grid.")
    thresholds: dict[str, float] = Field(
        default={}, description="Least value asked of a metric by its name, shown beside it; judges nothing."
    )
    workers: int = Field(
        default=1, ge=1, description="Processes that share the sampling. Changes the time, not the images."
    )

    @model_validator(mode="after")
    def _steps_rise(self) -> "EvaluationSettings":
        for name in ("steps", "rectified_steps"):
            _check_steps(name, getattr(self, name))
        return self

    def semantic(self) -> dict:
        """The fields that influence what an evaluation says; `workers` and the latency trials do not."""
        return self.model_dump(mode="json", exclude={"workers", "num_latency_trials"})


def _check_steps(name: str, steps: tuple[int, ...]) -> None:
    if list(steps) != sorted(set(steps)) or (steps and steps[0] < 1):
        raise ValueError(f"{name} must be rising numbers from 1 up, such as 1,2,4,8; got {steps}")


class ContestantSettings(BaseModel):
    """How a diffusers pipeline is drawn where that differs from how it is meant to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[int, ...] = Field(
        default=(), description="Numbers of solver steps along its curve, rising; none takes its family's."
    )
    guidance: float = Field(default=0.0, ge=0, description="Guidance; 1 is unguided, 0 takes its family's.")
    size: int = Field(
        default=0, ge=0, multiple_of=8, description="Side of its own images, pixels; 0 is its native one."
    )
    batch_size: int = Field(default=0, ge=0, description="Images it draws together; 0 chooses by their size.")

    @model_validator(mode="after")
    def _values_make_sense(self) -> "ContestantSettings":
        _check_steps("steps", self.steps)
        if 0 < self.guidance < 1:
            raise ValueError(f"guidance must be at least 1, which is unguided; got {self.guidance:g}")
        return self


class EvaluationJob(BaseModel):
    """The job file of `python -m evaluation JOB.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path = Field(description="Directory that `TextToImage.from_pretrained` reads.")
    dataset: Path = Field(description="Directory of the curated dataset.")
    evaluators: dict[str, Path] = Field(
        description="Directories by name: dual_encoder; detector and style_classifier if any."
    )
    captions: Path | None = Field(
        default=None,
        description="Directory of captions the model learned from, where they were written anew.",
    )
    lora: Path | None = Field(default=None, description="Directory of a LoRA to try on the model.")
    prompts: Path | None = Field(
        default=None, description="File of prompts to ask instead of the data's; none asks those."
    )
    contestant: ContestantSettings = Field(
        default=ContestantSettings(), description="How the model is drawn where it is a diffusers pipeline."
    )
    settings: EvaluationSettings = Field(default=EvaluationSettings())
    cache: Path | None = Field(
        default=None,
        description="Where features of real images are kept for the next evaluation; none keeps none.",
    )
    pixels: Path | None = Field(
        default=None, description="Folder of all caches, where decoded images are kept; none keeps none."
    )
    output: Path = Field(description="Where metrics.jsonl and final/ are written.")
    threads: int | None = Field(default=None, ge=1, description="Threads of torch; none leaves it as it is.")
