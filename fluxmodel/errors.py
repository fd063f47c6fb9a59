"""The errors Fluxline raises on purpose, each with the exit code the command ends with.

FluxlineError            1   anything below, caught in one place by the command
├── InputError           2   bad usage or bad input: names the file, field or value, and the cure
├── IncomparableError    3   two numbers of different identity were to be compared
├── ArtifactError        1   an artifact is missing, half-written or damaged
├── StageError           1   a stage could not do its work
└── InterruptedRun      75   stopped after saving a checkpoint; the same command goes on
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class FluxlineError(Exception):
    """Base of all expected errors; its text is one sentence fit for a user."""

    exit_code = 1


class InputError(FluxlineError, ValueError):
    """Bad usage or bad input. The text names the file, field or value, and the cure."""

    exit_code = 2


class IncomparableError(FluxlineError):
    """Two numbers with different identities were asked to be compared; `fields` names where the identities differ."""

    exit_code = 3

    def __init__(self, text: str, fields: Sequence[str] = ()):
        super().__init__(text)
        self.fields = tuple(fields)


class ArtifactError(FluxlineError):
    """An artifact is missing, half-written or does not match its digest."""


class StageError(FluxlineError):
    """A stage failed; the text says which and where its log is."""


class InterruptedRun(FluxlineError):
    """Stopped on request after a checkpoint was saved; running the same command again goes on."""

    exit_code = 75


def first_fault(error: ValidationError) -> str:
    """Return "field: what is wrong with it" of the first fault pydantic found."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    return ": ".join(filter(None, (".".join(str(part) for part in first["loc"]), message)))
