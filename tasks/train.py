"""Train: the base model by flow matching, composed with its encoders into one directory."""

from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.training_job import TrainingJob
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


class SamplerDefaults(BaseModel):
    """What the model's directory says about how to sample from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(gt=0, description="Side of the images it was trained on, in pixels.")
    num_steps: int = Field(default=8, gt=0, description="Solver steps.")
    guidance: float = Field(default=2.0, ge=1, description="Guidance; 1 is unguided.")


@task(**TRAIN.options(), task_run_name="train")
def train(
    context: RunContext,
    latents: ArtifactRef,
    autoencoder: ArtifactRef,
    job: TrainingJob,
    sampler: SamplerDefaults,
) -> ArtifactRef:
    """Train the transformer on the latents and compose the text-to-image model."""
    return TRAIN.run(context, _train, latents=latents, autoencoder=autoencoder, job=job, sampler=sampler)


def _train(
    run: StageRun, latents: ArtifactRef, autoencoder: ArtifactRef, job: TrainingJob, sampler: SamplerDefaults
) -> Outcome:
    inputs = {"autoencoder": str(run.path(autoencoder))}
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
