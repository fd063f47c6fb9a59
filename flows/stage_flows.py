"""A flow for each stage: it runs the chain up to that stage, and reuses what stands."""

from collections.abc import Callable
from typing import Any

from prefect import flow

from flows.chain import STAGES
from flows.config import PipelineConfig
from flows.form import form
from flows.pipeline import RUNNER, run_chain
from flows.plan import make_plan
from flows.run_name import named
from fluxmodel.errors import InputError

_DATA = ("preset", "data")
_CAPTION = (*_DATA, "captioner", "precision")
_TRAIN = (*_CAPTION, "seed", "train_steps")
_FINETUNE = (*_TRAIN, "style", "trigger")
_EVALUATE = (*_FINETUNE, "guidance", "num_images")
_GATE = (*_EVALUATE, "name", "gate")
FIELDS = {
    "prepare": (*_DATA, "precision"),
    "curate": _DATA,
    "caption": _CAPTION,
    "encode": _CAPTION,
    "train": _TRAIN,
    "rectify": _TRAIN,
    "finetune": _FINETUNE,
    "evaluate": _EVALUATE,
    "gate": _GATE,
    "register": _GATE,
}
"""What each stage's form asks for: what the stage and those before it depend on."""
SAID = {
    "prepare": "Train the embedded parts: autoencoder, captioner and what judges. Later runs reuse them.",
    "curate": "Read the data and keep what is fit to learn from; the run shows what was dropped and why.",
    "caption": "Curate, then write captions for the images that are kept.",
    "encode": "Curate and caption, then turn images into latents and captions into tokens.",
    "train": "Train the base model, with all it needs before; nothing is evaluated or registered.",
    "rectify": "Train the base model and straighten it into the few-step model.",
    "finetune": "Train the base model and a LoRA of a style on it.",
    "evaluate": "Train and judge a model; it gets no version, and the gate is not asked.",
    "gate": "Train and judge a model, and ask the gate what it would say; nothing is registered.",
    "register": "Run the whole chain; of what has run before nothing runs again.",
}


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
FLOWS = dict(
    zip(
        STAGES,
        (prepare, curate, caption, encode, train, rectify, finetune, evaluate, gate, register),
        strict=True,
    )
)
