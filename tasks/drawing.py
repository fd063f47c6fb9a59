"""How images are drawn: one class for the flags of `fluxline generate` and for whoever calls it."""

from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.flow.solver_names import Solver


class Drawing(BaseModel):
    """How to draw."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        default="",
        description="Registered name, NAME@VERSION or directory; default the newest model's champion.",
    )
    steps: int = Field(default=0, description="Solver steps; 0 is the model's default.")
    guidance: float = Field(default=0.0, description="Guidance; 1 is unguided, 0 the model's default.")
    solver: Solver = Field(
        default="euler", description="What follows the flow; heun and midpoint call the network twice a step."
    )
    negative: str = Field(default="", description="What classifier-free guidance leads away from.")
    true_guidance: float = Field(
        default=1.0,
        description="Classifier-free guidance beside the embedded one of FLUX.1 dev; 1 is none.",
    )
    height: int = Field(default=0, description="Pixels; 0 is the training size.")
    width: int = Field(default=0, description="Pixels; 0 is the training size.")
    variant: str = Field(default="", description="base or rectified; default what the model is made for.")
    lora: str = Field(default="", description="One of the model's LoRAs by name, or the path of one.")
    lora_scale: float = Field(default=1.0, description="How strongly the LoRA acts.")
    seed: int = Field(default=0, description="Seed of the first image; the next ones count up.")
