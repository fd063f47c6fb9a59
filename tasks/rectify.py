"""Rectify: straighten the flow by Reflow, so that one step draws what the teacher draws in many."""

import shutil

from prefect import task

from fluxmodel.training_job import PairSettings, TrainingJob
from tasks.artifacts import ArtifactRef
from tasks.cards import numbers, read_card, read_json
from tasks.prepare import placed
from tasks.stage import Stage
from tasks.stage_run import Outcome, RunContext, StageRun
from tasks.train import SamplerDefaults, watched

RECTIFY = Stage(
    "rectify",
    kind="model",
    modules=(
        "tasks.rectify",
        "tasks.prepare",
        "fluxmodel.training.__main__",
        "fluxmodel.training.objectives.flow",
        "fluxmodel.training.pairs",
        "fluxmodel.text_to_image",
    ),
)


@task(**RECTIFY.options())
def rectify(
    context: RunContext,
    model: ArtifactRef,
    latents: ArtifactRef,
    pairs: PairSettings,
    job: TrainingJob,
    sampler: SamplerDefaults,
) -> ArtifactRef:
    """Draw pairs with the model, train a copy of it on them, and put both into one directory."""
    return RECTIFY.run(context, _rectify, model=model, latents=latents, pairs=pairs, job=job, sampler=sampler)


def _rectify(
    run: StageRun,
    model: ArtifactRef,
    latents: ArtifactRef,
    pairs: PairSettings,
    job: TrainingJob,
    sampler: SamplerDefaults,
) -> Outcome:
    teacher = run.path(model)
    drawn = run.call(
        "fluxmodel.training.pairs:draw_pairs",
        place="pairs",
        again=False,
        model=str(teacher),
        latents=str(run.path(latents)),
        settings=pairs.model_dump(mode="json"),
        seed=job.seed,
    )
    text = read_json(teacher / "text_encoder" / "config.json")
    job = job.model_copy(update={"objective": job.objective | {"text": text}})
    inputs = {"start": str(teacher / "transformer"), "autoencoder": str(teacher / "autoencoder")}
    job = watched(job, run.path(latents), sampler)
    trained = run.launch("fluxmodel.training", placed(run, job, drawn, inputs), job.world_size)
    rectified = run.call(
        "fluxmodel.text_to_image:assemble_rectified",
        place="assembled",
        model=str(teacher),
        trained=str(trained),
        num_steps=sampler.num_steps,
        guidance=sampler.guidance,
    )
    shutil.copy(drawn / "pairs.json", rectified / "pairs.json")
    _, metrics = read_card(trained)
    manifest = numbers(read_json(drawn / "pairs.json"))
    gave = f"{manifest.get('num', 0):.0f} pairs, {job.steps} steps"
    return Outcome(rectified, gave, metrics | {f"pairs/{name}": value for name, value in manifest.items()})
