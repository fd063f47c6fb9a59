"""A flow for each stage: it runs the chain up to that stage, and reuses what stands."""

from collections.abc import Callable
from typing import Any

from prefect import flow

from flows.chain import STAGES
from flows.config import PipelineConfig
from flows.form import fields_of, form
from flows.pipeline import RUNNER, pipeline, run_chain
from flows.plan import make_plan
from flows.run_name import named
from flows.stage_forms import FIELDS, SAID
from fluxmodel.errors import InputError


def _stage_flow(stage: str) -> Any:
    """Return the flow of one stage."""
    seeded = ", seed {seed}" if "seed" in FIELDS[stage] else ""

    def run(config: PipelineConfig) -> dict[str, Any]:
        return run_stage(stage, config)

    run.__name__ = run.__qualname__ = stage
    run.__doc__ = SAID[stage]
    make: Callable[[Any], Any] = flow(
        name=stage,
        task_runner=RUNNER,
        persist_result=False,
        flow_run_name=named(f"{stage} {{preset}}{seeded}"),
        description=SAID[stage],
    )
    return make(form(PipelineConfig, FIELDS[stage])(run))


def run_stage(stage: str, config: PipelineConfig) -> dict[str, Any]:
    """Run the chain up to one stage inside a flow; return what it came to.

    Raises:
        InputError: a value is wrong, or there is nothing for this stage to do.
    """
    plan = make_plan(config)
    if stage == "finetune" and plan.style is None:
        raise InputError(
            f"style is {config.style!r}, so there is nothing to finetune; name a style or a folder of images."
        )
    return run_chain(plan, config.model_dump() | {"upto": stage}, stage)


prepare, curate, caption, encode, train, rectify, finetune, evaluate, gate, register = map(
    _stage_flow, STAGES
)
FLOWS: dict[str, Any] = dict(
    zip(
        STAGES,
        (prepare, curate, caption, encode, train, rectify, finetune, evaluate, gate, register),
        strict=True,
    )
)


def call_flow(stage: str, config: PipelineConfig) -> dict[str, Any]:
    """Run the flow of a stage, of the whole pipeline for an empty one, with those settings that it asks for."""
    given = fields_of(config)
    if not stage:
        return pipeline(**given)
    return FLOWS[stage](**{name: given[name] for name in FIELDS[stage]})
