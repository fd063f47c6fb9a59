"""Finetune: a LoRA of a style on the base, from a few images and the base's own data."""

from pathlib import Path

from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.training_job import TrainingJob
from tasks.artifacts import ArtifactRef
from tasks.cards import numbers, read_card, read_json
from tasks.prepare import placed
from tasks.stage import Stage
from tasks.stage_run import Outcome, RunContext, StageRun

FINETUNE = Stage(
    "finetune",
    kind="lora",
    modules=(
        "tasks.finetune",
        "tasks.prepare",
        "fluxmodel.training.__main__",
        "fluxmodel.training.objectives.lora",
    ),
)
PREPARE_STYLE = Stage(
    "prepare-style_classifier",
    kind="style_classifier",
    modules=(
        "tasks.finetune",
        "tasks.prepare",
        "fluxmodel.training.__main__",
        "fluxmodel.training.objectives.style_classifier",
    ),
)


class StyleSource(BaseModel):
    """The images of a style, and a fingerprint of what is there now."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="`style:NAME?level=full&n=16&seed=0`, or a folder of captioned images.")
    fingerprint: str = Field(default="", description="Digest of a folder's content; empty for a drawn style.")

    def semantic(self) -> dict[str, str]:
        """Return what a result depends on: a folder's content and name (the LoRA's), not its place."""
        if not self.fingerprint:
            return {"source": self.source}
        return {"fingerprint": self.fingerprint, "name": Path(self.source.removeprefix("folder:")).name}


def look_at_style(source: str, trigger: str, image_size: int) -> StyleSource:
    """Return a style's source with its fingerprint, having read its few images.

    Raises:
        InputError: the specification, the folder or its trigger word does not do; said before hours of training.
    """
    from fluxmodel.data.style_images import open_style

    open_style(source, trigger, image_size)
    if source.startswith("style:"):
        return StyleSource(source=source)
    from fluxmodel.data.image_folder import FolderSource

    folder = FolderSource(source)
    return StyleSource(source=folder.spec, fingerprint=folder.fingerprint())


@task(**FINETUNE.options())
def finetune(
    context: RunContext,
    model: ArtifactRef,
    latents: ArtifactRef,
    autoencoder: ArtifactRef,
    style: StyleSource,
    job: TrainingJob,
) -> ArtifactRef:
    """Train adapters of the base on the style's images and on prior data."""
    inputs = {"model": model, "latents": latents, "autoencoder": autoencoder}
    return FINETUNE.run(context, _finetune, **inputs, style=style, job=job)


def _finetune(
    run: StageRun,
    model: ArtifactRef,
    latents: ArtifactRef,
    autoencoder: ArtifactRef,
    style: StyleSource,
    job: TrainingJob,
) -> Outcome:
    inputs = {
        "start": str(run.path(model)),
        "autoencoder": str(run.path(autoencoder)),
        "style": style.source,
    }
    final = run.launch("fluxmodel.training", placed(run, job, run.path(latents), inputs), job.world_size)
    _, metrics = read_card(final)
    about = read_json(final / "lora.json")
    gave = f'"{about["trigger"]}" from {numbers(about)["num_images"]:.0f} images, {job.steps} steps'
    return Outcome(final, gave, metrics)


@task(**PREPARE_STYLE.options())
def prepare_style_classifier(
    context: RunContext,
    style: StyleSource,
    job: TrainingJob,
    data: str = "",
    dataset: ArtifactRef | None = None,
) -> ArtifactRef:
    """Train what tells the style from plain images: drawn ones of `data`, or those of a curated dataset."""
    return PREPARE_STYLE.run(context, _prepare_style, style=style, job=job, data=data, dataset=dataset)


def _prepare_style(
    run: StageRun, style: StyleSource, job: TrainingJob, data: str, dataset: ArtifactRef | None
) -> Outcome:
    place = run.path(dataset) if dataset is not None else data
    final = run.launch("fluxmodel.training", placed(run, job, place, {"style": style.source}), job.world_size)
    return Outcome(final, *read_card(final))
