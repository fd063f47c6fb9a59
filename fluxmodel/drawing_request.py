"""What a served model is asked for and what it answers: one class a direction, for every door (HTTP, page, MLflow).

Bounds that depend on the model (its sizes, variants and LoRAs) are checked by `fluxmodel.drawing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fluxmodel.errors import InputError
from fluxmodel.flow.solver_names import Solver

MAX_PROMPT = 1000
MAX_STEPS = 50
MAX_IMAGES = 16
MAX_SEED = 2**53 - 1
"""The largest whole number that survives JSON in a browser."""


class RequestError(InputError):
    """A request was refused; the text begins with the field at fault.

    Attributes:
        field: its name, empty where the request as a whole is at fault.
        message: what is wrong with it.
    """

    def __init__(self, field: str, message: str):
        super().__init__(f"{field}: {message}" if field else message)
        self.field, self.message = field, message


class DrawingRequest(BaseModel):
    """What to draw: one prompt, once or several times; image i starts from the noise of seed + i."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    prompt: str = Field(
        min_length=1, max_length=MAX_PROMPT, description="What the image shows, in the data's words."
    )
    num_steps: int | None = Field(
        default=None, ge=1, le=MAX_STEPS, description="Solver steps; default the model's."
    )
    guidance: float | None = Field(
        default=None, ge=1, le=30, description="1 is unguided and costs half; default the model's."
    )
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="Noise of the first image.")
    num_images: int = Field(default=1, ge=1, le=MAX_IMAGES, description="Drawn together, seeds count up.")
    height: int | None = Field(default=None, ge=1, description="Pixels; default the training size.")
    width: int | None = Field(default=None, ge=1, description="Pixels; default the training size.")
    variant: str = Field(
        default="", max_length=64, description="base or rectified; default what the model is for."
    )
    lora: str = Field(default="", max_length=128, description="One of the model's LoRAs by name.")
    lora_scale: float = Field(default=1.0, ge=-4, le=4, description="How strongly the LoRA acts.")
    solver: Solver = Field(default="euler", description="heun and midpoint call the network twice a step.")
    true_guidance: float = Field(
        default=1.0, ge=1, le=30, description="Classifier-free guidance beside embedded one; 1 is none."
    )
    negative: str = Field(
        default="", max_length=MAX_PROMPT, description="What classifier-free guidance leads away from."
    )

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("it is blank; say what to draw")
        return prompt


class ServedImage(BaseModel):
    """One image of an answer."""

    model_config = ConfigDict(frozen=True)

    seed: int = Field(description="Of its noise.")
    png: str = Field(description="The file in base64; it carries its recipe as text.")


class DrawingAnswer(BaseModel):
    """The images, and with what they were drawn."""

    model_config = ConfigDict(frozen=True)

    images: list[ServedImage]
    num_steps: int
    guidance: float
    solver: str
    height: int
    width: int
    variant: str
    lora: str
    model: str = Field(description="Registered name; empty for a directory.")
    version: str = Field(description="Registered version; empty where the model does not know it.")
    digest: str = Field(description="sha256 of the model's files; empty where nobody wrote it down.")
    milliseconds: float = Field(description="Time to draw and pack the images, without waiting.")


def read_request(values: object) -> DrawingRequest:
    """Check a request that came as JSON.

    Raises:
        RequestError: a field is missing, unknown or out of its range.
    """
    try:
        return DrawingRequest.model_validate(values)
    except ValidationError as error:
        raise refused(error.errors()[0]) from None


def refused(fault: Mapping[str, Any]) -> RequestError:
    """Return a fault that pydantic describes as ours."""
    return RequestError(
        ".".join(str(part) for part in fault["loc"]), fault["msg"].removeprefix("Value error, ")
    )
