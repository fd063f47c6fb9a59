"""The pipeline: prepare, curate, caption, encode, train, rectify, finetune, evaluate, gate, register. Wiring only."""

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.chain import Chain
from flows.config import PipelineConfig
from flows.outcome import finish, wait_for_all
from flows.plan import make_plan
from tasks.parent_run import pipeline_run

DEFAULTS = PipelineConfig()
RUNNER: Any = ThreadPoolTaskRunner(max_workers=16)


@flow(name="pipeline", task_runner=RUNNER, persist_result=False)
def pipeline(config: PipelineConfig = DEFAULTS) -> dict[str, Any]:
    """Turn raw images into a registered, evaluated, few-step text-to-image model."""
    plan = make_plan(config)
    with pipeline_run(config.model_dump(), plan.source.fingerprint) as run:
        refs = wait_for_all(Chain(plan, run.context).upto("register"))
        return finish(run, refs, plan.name).model_dump()
