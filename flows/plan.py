"""From a configuration to what each stage is told: the preset, with what the user changed."""

from dataclasses import dataclass, field, replace

from evaluation.gate_settings import GateSettings
from evaluation.settings import EvaluationSettings
from flows.config import PipelineConfig
from fluxmodel.data.curation_rules import CurationRules, choose_rules
from fluxmodel.data.scoring_models import AGREEMENT, ScoringModel, ScoringModels, identify_models
from fluxmodel.errors import InputError
from fluxmodel.presets import PRESETS, Preset
from fluxmodel.training_job import PairSettings, TrainingJob
from tasks.artifacts import ArtifactRef
from tasks.caption import OwnCaptioner, identify_captioner
from tasks.cluster import check_cluster
from tasks.curate import DataSource, identify_source
from tasks.finetune import StyleSource, look_at_style
from tasks.leases import Need, refuse_beyond
from tasks.seat import need_of, resources_of
from tasks.train import SamplerDefaults


@dataclass(frozen=True)
class Plan:
    """The settings of each stage.

    Attributes:
        source: the data.
        rules: what an image must satisfy.
        models: those that score images for the rules; None where there is none.
        parts: training job of each embedded part; without detector and captioner where nobody knows the scenes.
        captioner: a model of the user's that captions; None where the embedded one does, or nobody.
        flow: training job of the base model.
        sampler: how the base samples.
        pairs: the pairs of Reflow.
        rectify: training job on them.
        rectified: how the rectified model samples.
        style: what the LoRA learns; None where there is none.
        style_classifier: training job of what recognises the style.
        lora: training job of the LoRA.
        evaluation: how the model is judged.
        gate: what it takes to be promoted.
        name: registered model.
        start: model whose base network the training goes on from; None begins with random weights.
        given: artifacts of stages that need not run, by the stage's name (`prepare-PART` for a part).
    """

    source: DataSource
    rules: CurationRules
    models: ScoringModels | None
    parts: dict[str, TrainingJob]
    captioner: OwnCaptioner | None
    flow: TrainingJob
    sampler: SamplerDefaults
    pairs: PairSettings
    rectify: TrainingJob
    rectified: SamplerDefaults
    style: StyleSource | None
    style_classifier: TrainingJob
    lora: TrainingJob
    evaluation: EvaluationSettings
    gate: GateSettings
    name: str
    start: ArtifactRef | None = None
    given: dict[str, ArtifactRef] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse_beyond(self.needs())  # now, not in its third hour
        check_cluster()

    @property
    def agreement(self) -> ScoringModel | None:
        """The CLIP that holds captions against images, where the user named one."""
        models = self.models.models if self.models is not None else ()
        return next((each for each in models if each.column == AGREEMENT), None)

    def needs(self) -> dict[str, Need]:
        """Return the GPUs each stage asks for, where there are any."""
        jobs = {f"prepare-{name}": job for name, job in self.parts.items()}
        jobs |= {"train": self.flow, "rectify": self.rectify}
        if self.style is not None:
            jobs |= {"finetune": self.lora, "prepare-style_classifier": self.style_classifier}
        stages = [name for name in ("caption", "encode", *jobs, "evaluate", "gate") if name not in self.given]
        return {name: need_of(resources_of(name), [jobs[name]] if name in jobs else []) for name in stages}


def make_plan(config: PipelineConfig, source: DataSource | None = None) -> Plan:
    """Return the plan of a configuration.

    The seed is that of the models: data, captions and evaluators stay the same, so that models compare.

    Args:
        config: what the user asks for.
        source: the data, where they were looked at before; by default the configuration's or the preset's.

    Raises:
        InputError: a value is wrong, or there is no such data.
    """
    config.check()
    preset = PRESETS[config.preset]
    source = source or identify_source(config.data or preset.data)
    own = identify_captioner(config.captioner) if config.captioner else None
    if own is not None:
        patience = {"max_failed_share": config.max_failed_share, "max_failed": config.max_failed}
        own = own.model_copy(update=patience)
    names = ["autoencoder", "detector", "dual_encoder", "captioner"]
    if not source.is_procedural:  # nobody knows what a photograph shows
        names = ["autoencoder", "dual_encoder"]
    elif own is not None:
        names.remove("captioner")
    flow = preset.flow.job("", "", seed=config.seed, precision=config.precision)
    if config.train_steps:
        flow = flow.model_copy(update={"steps": config.train_steps})
    lora = preset.lora.job("", "", seed=config.seed, precision=config.precision)
    classifier = preset.style_classifier.job("", "", precision=config.precision)
    if config.trigger:
        lora, classifier = (
            job.model_copy(update={"objective": job.objective | {"trigger": config.trigger}})
            for job in (lora, classifier)
        )
    rules = choose_rules(preset.rules, config.rules_preset, config.rules)
    size, guidance = rules.image_size, config.guidance or preset.guidance
    judged = {"guidance": guidance} | ({"num_images": config.num_images} if config.num_images else {})
    return Plan(
        source=source,
        rules=rules,
        models=identify_models(config.models),
        parts={name: getattr(preset, name).job("", "", precision=config.precision) for name in names},
        captioner=own,
        flow=flow,
        sampler=SamplerDefaults(image_size=size, num_steps=preset.num_steps, guidance=preset.guidance),
        pairs=preset.pairs,
        rectify=preset.rectify.job("", "", seed=config.seed, precision=config.precision),
        rectified=SamplerDefaults(image_size=size, num_steps=1, guidance=1.0),
        style=_style(config, preset, source, size),
        style_classifier=classifier,
        lora=lora,
        evaluation=EvaluationSettings.model_validate(preset.evaluation | judged),
        gate=config.gate.model_copy(
            update={"thresholds": preset.evaluation.get("thresholds", {}) | config.gate.thresholds}
        ),
        name=config.model_name,
    )


def go_on_from(plan: Plan, base: ArtifactRef, autoencoder: ArtifactRef) -> Plan:
    """Return the plan with a base model whose network goes on training, in the latents of its own autoencoder."""
    return replace(plan, start=base, given=plan.given | {"prepare-autoencoder": autoencoder})


def _style(config: PipelineConfig, preset: Preset, source: DataSource, size: int) -> StyleSource | None:
    """Return what the LoRA learns: as asked for; else, on scenes, the preset's style at the level of the data."""
    if config.style == "none" or not (config.style or source.is_procedural):
        return None
    style = config.style or preset.style
    if style.startswith("style:"):
        if config.trigger:
            raise InputError(
                f"trigger is {config.trigger!r}, but a drawn style has a word of its own; leave --trigger out, "
                "or name a folder of captioned images by --style."
            )
        style = _at_level(style, source, is_typed=bool(config.style))
    return look_at_style(style, config.trigger, size)


def _at_level(style: str, source: DataSource, is_typed: bool) -> str:
    """Return a drawn style at the level of the data; another one that was typed is refused, for it cannot be had."""
    if not source.is_procedural:
        return style
    level = level_of(source.data)
    name, _, query = style.partition("?")
    fields = [field for field in query.split("&") if field]
    typed = [field for field in fields if field.startswith("level=")]
    if is_typed and typed and typed[-1] != f"level={level}":
        raise InputError(
            f"style is {style!r}, but the data are of level {level}; leave {typed[-1]} out, or choose such data."
        )
    return f"{name}?{'&'.join([f'level={level}', *(field for field in fields if field not in typed)])}"


def level_of(data: str) -> str:
    """Return the level of a procedural specification."""
    from fluxmodel.data.procedural import ProceduralSource

    return ProceduralSource.parse(data).level.name
