"""The pipeline: prepare, curate, encode, train, evaluate, register. Wiring only."""

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.config import PipelineConfig
from flows.outcome import finish, wait_for_all
from flows.plan import Plan, make_plan
from tasks.curate import curate
from tasks.encode import encode
from tasks.evaluate import evaluate
from tasks.parent_run import pipeline_run
from tasks.prepare import prepare
from tasks.register import register
from tasks.stage_run import RunContext
from tasks.train import train

DEFAULTS = PipelineConfig()
Future = Any
"""A stage's artifact to be: Prefect takes it wherever the artifact is wanted, which its types do not say."""
RUNNER: Any = ThreadPoolTaskRunner(max_workers=16)


@flow(name="pipeline", task_runner=RUNNER, persist_result=False)
def pipeline(config: PipelineConfig = DEFAULTS) -> dict[str, Any]:
    """Turn raw images into a registered, evaluated text-to-image model."""
    plan = make_plan(config)
    with pipeline_run(config.model_dump(), plan.source.fingerprint) as run:
        refs = wait_for_all(submit_stages(plan, run.context))
        return finish(run, refs, plan.name).model_dump()


def submit_stages(plan: Plan, context: RunContext) -> dict[str, Future]:
    """Submit each stage with the stages it waits for; return them by name, in reading order."""
    dataset: Future = curate.submit(context, plan.source, plan.rules)
    own: dict[str, Any] = {"data": plan.source.data} if plan.source.is_procedural else {"dataset": dataset}
    parts: dict[str, Future] = {
        name: prepare.submit(context, name, job, **own) for name, job in plan.parts.items()
    }
    latents: Future = encode.submit(context, dataset, parts["autoencoder"])
    model: Future = train.submit(context, latents, parts["autoencoder"], plan.flow, plan.sampler)
    evaluators = {name: parts[name] for name in ("dual_encoder", "detector") if name in parts}
    evaluation: Future = evaluate.submit(context, model, dataset, settings=plan.evaluation, **evaluators)
    version = register.submit(context, model, evaluation, None, dataset, plan.name)
    prepared = {f"prepare-{name}": future for name, future in parts.items()}
    return {
        **prepared,
        "curate": dataset,
        "encode": latents,
        "train": model,
        "evaluate": evaluation,
        "register": version,
    }
