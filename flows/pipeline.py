"""The pipeline: prepare, curate, caption, encode, train, rectify, finetune, evaluate, gate, register. Wiring only."""

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.config import PipelineConfig
from flows.outcome import finish, wait_for_all
from flows.plan import Plan, make_plan
from tasks.caption import caption
from tasks.curate import curate
from tasks.encode import encode
from tasks.evaluate import evaluate
from tasks.finetune import finetune, prepare_style_classifier
from tasks.gate import gate
from tasks.parent_run import pipeline_run
from tasks.prepare import prepare
from tasks.rectify import rectify
from tasks.register import register
from tasks.stage_run import RunContext
from tasks.train import train

DEFAULTS = PipelineConfig()
JUDGES = ("dual_encoder", "detector")
"""Parts that only the evaluation asks for: made beside rectify and finetune, which leave a core free. Earlier they
took a core that training was waiting for: 37 s of the demo's chain, on two cores."""
Future = Any
"""A stage's artifact to be: Prefect takes it wherever the artifact is wanted, which its types do not say."""
RUNNER: Any = ThreadPoolTaskRunner(max_workers=16)


@flow(name="pipeline", task_runner=RUNNER, persist_result=False)
def pipeline(config: PipelineConfig = DEFAULTS) -> dict[str, Any]:
    """Turn raw images into a registered, evaluated, few-step text-to-image model."""
    plan = make_plan(config)
    with pipeline_run(config.model_dump(), plan.source.fingerprint) as run:
        refs = wait_for_all(submit_stages(plan, run.context))
        return finish(run, refs, plan.name).model_dump()


def submit_stages(plan: Plan, context: RunContext) -> dict[str, Future]:
    """Submit each stage with the stages it waits for; return them by name, in reading order."""
    dataset: Future = curate.submit(context, plan.source, plan.rules)
    own: dict[str, Any] = {"data": plan.source.data} if plan.source.is_procedural else {"dataset": dataset}
    parts: dict[str, Future] = {
        name: prepare.submit(context, name, job, **own)
        for name, job in plan.parts.items()
        if name not in JUDGES
    }
    captions: Future = caption.submit(context, dataset, parts.get("captioner"), plan.captioner)
    latents: Future = encode.submit(context, dataset, captions, parts["autoencoder"])
    base: Future = train.submit(context, latents, parts["autoencoder"], plan.flow, plan.sampler)
    model: Future = rectify.submit(context, base, latents, plan.pairs, plan.rectify, plan.rectified)
    styled = submit_style(plan, context, own, base, latents, parts["autoencoder"])
    judges: dict[str, Future] = {
        name: prepare.submit(context, name, job, **own, wait_for=[base])
        for name, job in plan.parts.items()
        if name in JUDGES
    }
    evaluation: Future = evaluate.submit(
        context, model, dataset, settings=plan.evaluation, **judges, **styled
    )
    decision: Future = gate.submit(context, evaluation, plan.name, plan.gate)
    lora = styled.get("lora")
    version = register.submit(context, model, evaluation, decision, dataset, plan.name, lora)
    prepared = {f"prepare-{name}": (parts | judges)[name] for name in plan.parts}
    if styled:
        prepared["prepare-style_classifier"] = styled["style_classifier"]
    return {
        **prepared,
        "curate": dataset,
        "caption": captions,
        "encode": latents,
        "train": base,
        "rectify": model,
        **({"finetune": lora} if lora is not None else {}),
        "evaluate": evaluation,
        "gate": decision,
        "register": version,
    }


def submit_style(
    plan: Plan, context: RunContext, own: dict[str, Any], base: Future, latents: Future, autoencoder: Future
) -> dict[str, Future]:
    """Submit the LoRA and what recognises its style, where there is a style."""
    if plan.style is None:
        return {}
    return {
        "lora": finetune.submit(context, base, latents, autoencoder, plan.style, plan.lora),
        "style_classifier": prepare_style_classifier.submit(
            context, plan.style, plan.style_classifier, **own, wait_for=[base]
        ),
    }
