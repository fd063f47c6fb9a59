"""From a configuration to what each stage is told: the preset, with what the user changed."""

from dataclasses import dataclass

from evaluation.settings import EvaluationSettings
from flows.config import PipelineConfig
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.training.job import TrainingJob
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

    Raises:
        InputError: a value is wrong, or there is no such data.
    """
    from fluxmodel.presets import PRESETS

    config.check()
    preset = PRESETS[config.preset]
    source = identify_source(config.data or preset.data)
    parts = {name: job.model_copy(update={"seed": config.seed}) for name, job in preset.parts.items()}
    if not source.is_procedural:
        parts.pop("detector", None)
    flow = {"seed": config.seed} | ({"steps": config.train_steps} if config.train_steps else {})
    guidance = config.guidance or preset.evaluation.guidance
    judged = {"guidance": guidance, "seed": config.seed}
    judged |= {"num_images": config.num_images} if config.num_images else {}
    return Plan(
        source=source,
        rules=preset.rules.model_copy(update={"seed": config.seed}),
        parts=parts,
        flow=preset.flow.model_copy(update=flow),
        sampler=SamplerDefaults(image_size=preset.rules.image_size, guidance=guidance),
        evaluation=EvaluationSettings.model_validate(preset.evaluation.model_dump() | judged),
        name=config.model_name,
    )
