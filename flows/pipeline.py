"""The pipeline: prepare, curate, caption, encode, train, rectify, finetune, evaluate, gate, register. Wiring only."""

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.chain import Chain
from flows.config import PipelineConfig
from flows.form import form
from flows.outcome import finish, wait_for_all
from flows.plan import Plan, make_plan
from flows.run_name import named
from tasks.parent_run import pipeline_run

RUNNER: Any = ThreadPoolTaskRunner(max_workers=16)


@flow(
    name="pipeline",
    task_runner=RUNNER,
    persist_result=False,
    flow_run_name=named("pipeline {preset}, seed {seed}"),
)
@form(PipelineConfig)
def pipeline(config: PipelineConfig) -> dict[str, Any]:
    """Turn raw images into a registered, evaluated, few-step text-to-image model."""
    return run_chain(make_plan(config), config.model_dump())


def run_chain(plan: Plan, config: dict[str, Any], stage: str = "register") -> dict[str, Any]:
    """Run the plan's stages up to `stage` inside a flow; return what they came to.

    Args:
        plan: what each stage is told.
        config: parameters of the run, for its page in MLflow; the same again goes on with an unfinished run's.
        stage: one of `flows.chain.STAGES`.
    """
    with pipeline_run(config, plan.source.fingerprint) as run:
        refs = wait_for_all(Chain(plan, run.context).upto(stage))
        return finish(run, refs, plan.name).model_dump()
