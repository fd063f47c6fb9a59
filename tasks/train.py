"""Train: the base model by flow matching, composed with its encoders into one directory."""

import json
from pathlib import Path

from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.training_job import SampleSettings, TrainingJob
from tasks.artifacts import ArtifactRef
from tasks.cards import read_card
from tasks.prepare import placed
from tasks.stage import Stage
from tasks.stage_run import Outcome, RunContext, StageRun

TRAIN = Stage(
    "train",
    kind="model",
    modules=(
        "tasks.train",
        "tasks.prepare",
        "fluxmodel.training.__main__",
        "fluxmodel.training.objectives.flow",
        "fluxmodel.text_to_image",
    ),
)


NUM_PROMPTS, NUM_LOOKS = 4, 8
"""Images that training shows on its way: enough to see it learn, at the price of a few steps. With more than ten
steps MLflow draws a slider without marks."""


class SamplerDefaults(BaseModel):
    """What the model's directory says about how to sample from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(gt=0, description="Side of the images it was trained on, in pixels.")
    num_steps: int = Field(default=8, gt=0, description="Solver steps.")
    guidance: float = Field(default=2.0, ge=1, description="Guidance; 1 is unguided.")


def watched(job: TrainingJob, latents: Path, sampler: SamplerDefaults) -> TrainingJob:
    """Return the job, drawing the same few prompts of its data `NUM_LOOKS` times on its way.

    Base and rectified model are shown the same prompts: the shortest captions of the first images.
    """
    rows = json.loads((latents / "captions.json").read_text())
    prompts = list(dict.fromkeys(min((c["text"] for c in row), key=len) for row in rows[:100] if row))
    samples = SampleSettings(
        prompts=tuple(prompts[:NUM_PROMPTS]),
        every=-(-job.steps // NUM_LOOKS),
        num_steps=sampler.num_steps,
        guidance=sampler.guidance,
    )
    return job.model_copy(update={"samples": samples})


@task(**TRAIN.options())
def train(
    context: RunContext,
    latents: ArtifactRef,
    autoencoder: ArtifactRef,
    job: TrainingJob,
    sampler: SamplerDefaults,
    start: ArtifactRef | None = None,
) -> ArtifactRef:
    """Train the transformer on the latents, from random weights or `start`'s, and compose the model."""
    inputs = {"latents": latents, "autoencoder": autoencoder, "start": start}
    return TRAIN.run(context, _train, **inputs, job=job, sampler=sampler)


def _train(
    run: StageRun,
    latents: ArtifactRef,
    autoencoder: ArtifactRef,
    job: TrainingJob,
    sampler: SamplerDefaults,
    start: ArtifactRef | None,
) -> Outcome:
    inputs = {"autoencoder": str(run.path(autoencoder))}
    if start is not None:
        inputs["start"] = str(run.path(start) / "transformer")
        job = job.model_copy(update={"model": {}})  # the network is the one that is there
    job = watched(job, run.path(latents), sampler)
    trained = run.launch("fluxmodel.training", placed(run, job, run.path(latents), inputs), job.world_size)
    model = run.call(
        "fluxmodel.text_to_image:assemble",
        place="assembled",
        trained=str(trained),
        autoencoder=inputs["autoencoder"],
        **sampler.model_dump(),
    )
    gave, metrics = read_card(trained)
    return Outcome(model, gave or f"{job.steps} steps", metrics)
