"""From a configuration to what each stage is told: the preset, with what the user changed."""

from dataclasses import dataclass

from evaluation.settings import EvaluationSettings
from flows.config import PipelineConfig
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.training_job import TrainingJob
from tasks.curate import DataSource, identify_source
from tasks.train import SamplerDefaults


@dataclass(frozen=True)
class Plan:
    """The settings of each stage.

    Attributes:
        source: the data.
        rules: what an image must satisfy.
        parts: training job of each embedded part; without detector where nobody knows the scenes.
        flow: training job of the base model.
        sampler: what the model's directory says about sampling.
        evaluation: how the model is judged.
        name: registered model.
    """

    source: DataSource
    rules: CurationRules
    parts: dict[str, TrainingJob]
    flow: TrainingJob
    sampler: SamplerDefaults
    evaluation: EvaluationSettings
    name: str


def make_plan(config: PipelineConfig) -> Plan:
    """Return the plan of a configuration.

    The seed is the base model's alone: data and evaluators stay the same, so that models compare.

    Raises:
        InputError: a value is wrong, or there is no such data.
    """
    from fluxmodel.presets import PRESETS

    config.check()
    preset = PRESETS[config.preset]
    source = identify_source(config.data or preset.data)
    parts = ["autoencoder", "detector", "dual_encoder"]
    if not source.is_procedural:  # nobody knows what a photograph shows
        parts.remove("detector")
    flow = preset.flow.job("", "", seed=config.seed, precision=config.precision)
    if config.train_steps:
        flow = flow.model_copy(update={"steps": config.train_steps})
    rules = CurationRules.model_validate(preset.rules)
    guidance = config.guidance or preset.guidance
    judged = {"guidance": guidance} | ({"num_images": config.num_images} if config.num_images else {})
    return Plan(
        source=source,
        rules=rules,
        parts={part: getattr(preset, part).job("", "", precision=config.precision) for part in parts},
        flow=flow,
        sampler=SamplerDefaults(
            image_size=rules.image_size, num_steps=preset.num_steps, guidance=preset.guidance
        ),
        evaluation=EvaluationSettings.model_validate(preset.evaluation | judged),
        name=config.model_name,
    )
