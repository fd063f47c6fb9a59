"""The configuration of the pipeline: one class for the command's flags, Prefect's form and MLflow's parameters."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from evaluation.gate_settings import GateSettings
from fluxmodel.data.curation_rules import RULE_PRESETS
from fluxmodel.errors import InputError
from fluxmodel.presets import PRESETS
from fluxmodel.training_job import Precision

PresetName = Annotated[
    str,
    Field(
        description="Named size; it says whatever is left at 0 or empty below.",
        json_schema_extra={"enum": [*PRESETS]},
    ),
]
Data = Annotated[
    str,
    Field(
        description="Data: a folder, .parquet, .arrow or .tar files, hf:org/name, a URI, a curated dataset, "
        "a mixture.yaml, or procedural:shapes?level=...&n=...&seed=...; empty takes the preset's."
    ),
]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Steps = Annotated[int, Field(ge=0, le=10_000_000)]
ModelName = Annotated[str, Field(max_length=200)]


class PipelineConfig(BaseModel):
    """What a run of the pipeline may be told; everything else stands in its preset. 0 or empty: as the preset says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: PresetName = "demo"
    data: Data = ""
    rules_preset: str = Field(
        default="",
        description="Named curation rules: procedural, photos or web; empty takes the preset's.",
        json_schema_extra={"enum": ["", *RULE_PRESETS]},
    )
    rules: dict[str, float] = Field(
        default={},
        description="Single curation rules by name, as --rules.min-sharpness 20; -1 switches one off.",
    )
    models: dict[str, str] = Field(
        default={},
        description="Directories of models that score images for the rules: agreement and embedding (a CLIP), "
        "aesthetic, safety, watermark (image classifiers), as --models.safety DIR or DIR?label=NAME.",
    )
    seed: Seed = Field(default=0, description="Seed of the base model's training.")
    name: ModelName = Field(default="", description="Name of the registered model; default fluxline-PRESET.")
    train_steps: Steps = Field(
        default=0, description="Optimizer steps of the base model; 0 takes the preset's."
    )
    guidance: float = Field(
        default=0.0, ge=0, description="Guidance the model is judged at, above 1; 0 takes the preset's."
    )
    num_images: int = Field(
        default=0, ge=0, description="Images in each point of the evaluation; 0 takes the preset's."
    )
    captioner: str = Field(
        default="",
        description="Directory of a vision-language model that captions instead of the embedded one, or the address of "
        "an OpenAI-compatible endpoint (http://HOST:PORT/v1?model=NAME).",
    )
    max_failed_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of the images that a captioner of your own may fail on before the stage fails.",
    )
    max_failed: int = Field(
        default=1000, ge=0, description="Images that it may fail on, however many there are."
    )
    style: str = Field(
        default="",
        description="What the LoRA learns: style:NAME?n=16&seed=0, or a folder of captioned images; none skips it.",
    )
    trigger: str = Field(
        default="", description="Made-up word that asks for a folder's style at the end of a prompt."
    )
    precision: Precision = Field(
        default="auto",
        description="Of training: fp32, bf16, or auto, which takes bf16 where a probe shows it pays.",
    )
    gate: GateSettings = Field(
        default=GateSettings(),
        description="What a promotion needs; the preset's thresholds are asked as well.",
    )

    @property
    def model_name(self) -> str:
        """Name of the registered model."""
        return self.name or f"fluxline-{self.preset}"

    def check(self) -> "PipelineConfig":
        """Return this configuration if its values make sense together.

        Raises:
            InputError: names the field, its value and the cure.
        """
        if self.preset not in PRESETS:
            raise InputError(f"preset is {self.preset!r}; choose one of {', '.join(PRESETS)}.")
        if 0 < self.guidance <= 1:
            raise InputError(f"guidance is {self.guidance}; give a number above 1, such as 2.")
        if any(c in self.name for c in "/:'\"") or self.name != self.name.strip():
            raise InputError(f"name is {self.name!r}; leave out slashes, colons and quotes.")
        return self
