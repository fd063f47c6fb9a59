"""Evaluate: judge the model, with intervals, curves over steps, floors and ceilings."""

from prefect import task

from evaluation.settings import EvaluationSettings
from tasks.artifacts import ArtifactRef
from tasks.headline import all_metrics
from tasks.stage import Stage
from tasks.stage_run import Outcome, RunContext, StageRun

EVALUATE = Stage("evaluate", kind="evaluation", modules=("tasks.evaluate", "evaluation.__main__"))


@task(**EVALUATE.options())
def evaluate(
    context: RunContext,
    model: ArtifactRef,
    dataset: ArtifactRef,
    dual_encoder: ArtifactRef,
    settings: EvaluationSettings,
    detector: ArtifactRef | None = None,
    lora: ArtifactRef | None = None,
    style_classifier: ArtifactRef | None = None,
    captions: ArtifactRef | None = None,
) -> ArtifactRef:
    """Draw images from prompts, seen and unseen, and measure them; try the LoRA where there is one.

    Captions are those the model learned from: what it is asked must not stand among them.
    """
    evaluators = {"dual_encoder": dual_encoder, "detector": detector, "style_classifier": style_classifier}
    inputs = {"model": model, "lora": lora, "dataset": dataset, "captions": captions, **evaluators}
    return EVALUATE.run(context, _evaluate, **inputs, settings=settings)


def _evaluate(
    run: StageRun,
    model: ArtifactRef,
    lora: ArtifactRef | None,
    dataset: ArtifactRef,
    settings: EvaluationSettings,
    captions: ArtifactRef | None = None,
    **evaluators: ArtifactRef | None,
) -> Outcome:
    job = {
        "model": str(run.path(model)),
        "dataset": str(run.path(dataset)),
        "captions": str(run.path(captions)) if captions is not None else None,
        "evaluators": {name: str(run.path(ref)) for name, ref in evaluators.items() if ref is not None},
        "lora": str(run.path(lora)) if lora is not None else None,
        "settings": settings.model_dump(mode="json"),
        "output": str(run.output),
        "threads": run.threads,
        "cache": str(run.home.features),
        "pixels": str(run.home.cache),
    }
    final = run.launch("evaluation", job)
    from evaluation.report import closing_figures

    gave = [f"{name} {value}" for name, value in closing_figures(final).items()]
    return Outcome(final, ", ".join(gave[:3]), all_metrics(final))
