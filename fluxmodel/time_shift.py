"""How far a model's sampling times are shifted towards noise, as diffusers' `scheduler_config.json` says it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fluxmodel.errors import InputError, first_fault
from fluxmodel.flow.schedule import dynamic_shift
from fluxmodel.pretrained_folder import read_json

_UNKNOWN_SCHEDULES = (
    "invert_sigmas",
    "shift_terminal",
    "stochastic_sampling",
    "use_beta_sigmas",
    "use_exponential_sigmas",
    "use_flow_sigmas",
    "use_karras_sigmas",
)
"""Options of the scheduler that FLUX.1 does without; they would change the times."""


class TimeShift(BaseModel):
    """How far sampling times are shifted towards noise: what `scheduler_config.json` says of it."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    use_dynamic_shifting: bool = Field(
        default=False, description="Shift further the more tokens there are (dev)."
    )
    shift: float = Field(
        default=1.0, gt=0, description="Shift where it is the same for any number of tokens."
    )
    base_shift: float = Field(default=0.5, description="mu at the base number of tokens.")
    max_shift: float = Field(default=1.15, description="mu at the maximal number of tokens.")
    base_image_seq_len: int = Field(default=256, gt=0, description="Base number of tokens.")
    max_image_seq_len: int = Field(default=4096, gt=0, description="Maximal number of tokens.")
    time_shift_type: Literal["exponential"] = Field(
        default="exponential", description="The times are shifted by e^mu."
    )

    @model_validator(mode="after")
    def _has_a_shift_for_any_size(self) -> Self:
        if self.base_image_seq_len == self.max_image_seq_len:
            raise ValueError(
                f"base_image_seq_len and max_image_seq_len are both {self.max_image_seq_len}; give two numbers"
            )
        return self

    def mu(self, num_tokens: int) -> float:
        """Return the shift of an image of so many tokens, as `sampling_times` takes it."""
        if not self.use_dynamic_shifting:
            return math.log(self.shift)
        return dynamic_shift(
            num_tokens, self.base_image_seq_len, self.base_shift, self.max_image_seq_len, self.max_shift
        )


def read_time_shift(path: str | Path) -> TimeShift:
    """Read `scheduler_config.json`.

    Raises:
        InputError: it is missing or damaged, or asks for times that FLUX.1 does not have.
    """
    config = read_json(Path(path))
    if odd := [name for name in _UNKNOWN_SCHEDULES if config.get(name)]:
        raise InputError(
            f"{path}: {odd[0]} is {config[odd[0]]!r}; FLUX.1's times do without, so remove it or use its own file."
        )
    try:
        return TimeShift.model_validate(config)
    except ValidationError as error:
        raise InputError(f"{path}: {first_fault(error)}; correct it or download the file again.") from error
