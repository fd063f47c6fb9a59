"""Prepare: train one embedded part (autoencoder, detector, dual encoder) and say what it can do."""

from typing import Any

from prefect import task

from fluxmodel.training_job import TrainingJob
from tasks.artifacts import ArtifactRef
from tasks.cards import read_card
from tasks.stage import Stage
from tasks.stage_run import Outcome, RunContext, StageRun

PREPARE = Stage(
    "prepare-{part}",
    kind="{part}",
    modules=("tasks.prepare", "fluxmodel.training.__main__", "fluxmodel.training.objectives.{part}"),
)


@task(**PREPARE.options())
def prepare(
    context: RunContext, part: str, job: TrainingJob, data: str = "", dataset: ArtifactRef | None = None
) -> ArtifactRef:
    """Train `part` on the procedural `data`, or on a curated `dataset`."""
    return PREPARE.run(context, _prepare, part=part, job=job, data=data, dataset=dataset)


def _prepare(run: StageRun, part: str, job: TrainingJob, data: str, dataset: ArtifactRef | None) -> Outcome:
    place = run.path(dataset) if dataset is not None else data
    final = run.launch(
        "fluxmodel.training", placed(run, job, place, {"cache": str(run.home.cache)}), job.world_size
    )
    gave, metrics = read_card(final)
    return Outcome(final, gave, metrics)


def placed(run: StageRun, job: TrainingJob, data: Any, inputs: dict[str, str]) -> dict[str, Any]:
    """Return the job file's content: the job with the places of this run filled in."""
    places = {"data": str(data), "inputs": inputs, "output": str(run.output)}
    return job.model_copy(update=places).model_dump(mode="json")
