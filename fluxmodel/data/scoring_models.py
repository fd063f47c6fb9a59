"""The models that score images for curation: which column each fills, where it lies, what it is known by.

Loads nothing heavy: a directory's config.json says enough to refuse what cannot work before a run begins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.data.measurements import EMBEDDING, MODEL_COLUMNS
from fluxmodel.errors import InputError

AGREEMENT = "agreement"
BATCH = 16
"""Images scored at once."""
MEASURES = (*MODEL_COLUMNS, EMBEDDING)
_OF_CLIP = (AGREEMENT, EMBEDDING)
# Labels of published two-class models that mean what a column measures; of more classes the user says which.
_LABELS = {
    "aesthetic": ("aesthetic", "good", "high_quality"),
    "safety": ("safe", "normal", "sfw", "neutral"),
    "watermark": ("watermark", "watermarked"),
}


class ScoringModel(BaseModel):
    """A model that gives every image one number, or a vector.

    `agreement` is the cosine of image and first caption by a CLIP, `embedding` a CLIP's of the image; the others are
    the probability of some labels of an image classifier.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str = Field(description="Measure it fills: agreement, aesthetic, safety, watermark or embedding.")
    directory: str = Field(description="Where it lies, in transformers' layout.")
    labels: tuple[str, ...] = Field(
        default=(), description="Labels of a classifier whose probabilities are added."
    )
    revision: str = Field(description="Digest of its files.")

    def semantic(self) -> dict[str, Any]:
        """Return what influences the result: its content, not where it lies."""
        return {"column": self.column, "labels": list(self.labels), "revision": self.revision}


class ScoringModels(BaseModel):
    """All models of a curation, in the order of the columns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[ScoringModel, ...] = Field(description="Each fills another column.")

    def semantic(self) -> list[dict[str, Any]]:
        """Return what influences the result."""
        return [each.semantic() for each in self.models]


def identify_models(given: Mapping[str, str]) -> ScoringModels | None:
    """Look at the models of a configuration, `DIRECTORY` or `DIRECTORY?label=NAME,NAME` by column; None without any.

    Raises:
        InputError: there is no such measure, the directory holds no such model, or it does not say which label counts.
    """
    unknown = [name for name in given if name not in MEASURES]
    if unknown:
        raise InputError(
            f"models.{unknown[0]} is no measure that a model makes; there are {', '.join(MEASURES)}."
        )
    found = [_identify(column, given[column]) for column in MEASURES if given.get(column)]
    return ScoringModels(models=tuple(found)) if found else None


def _identify(column: str, text: str) -> ScoringModel:
    from fluxmodel.data.caption_writers import revision_of

    place, _, query = text.partition("?label=")
    directory = Path(place).expanduser().absolute()
    config = _config(column, directory)
    labels = tuple(name.strip() for name in query.split(",") if name.strip())
    if column in _OF_CLIP:
        _require_clip(column, directory, config, labels)
    else:
        labels = _labels(column, place, config, labels)
    return ScoringModel(
        column=column, directory=str(directory), labels=labels, revision=revision_of(directory)
    )


def _config(column: str, directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"models.{column} is {directory}: no config.json can be read there ({error.strerror}); name the directory "
            "of a model in transformers' layout."
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: this is no JSON ({error}); copy the model again.") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: this is no JSON object; copy the model again.")
    return config


def _require_clip(column: str, directory: Path, config: Mapping[str, Any], labels: tuple[str, ...]) -> None:
    if config.get("model_type") != "clip":
        raise InputError(
            f"models.{column} is {directory}: this is a model of type {config.get('model_type')!r}; name a CLIP "
            "(model_type clip) in transformers' layout."
        )
    if labels:
        raise InputError(f"models.{column} has a label, but a CLIP has none; leave ?label= out.")


def _labels(column: str, place: str, config: Mapping[str, Any], asked: tuple[str, ...]) -> tuple[str, ...]:
    """Return the labels whose probabilities are added: those asked for, else the known one of two."""
    known = config.get("id2label")
    names = [str(each) for each in known.values()] if isinstance(known, dict) else []
    if config.get("problem_type") == "regression":
        raise InputError(
            f"models.{column} is {place}: it gives a number that is no probability; name an image classifier."
        )
    if not names:
        raise InputError(
            f"models.{column} is {place}: its config.json has no id2label; name an image classifier of transformers."
        )
    missing = [name for name in asked if name not in names]
    if missing:
        raise InputError(
            f"models.{column} asks for the label {missing[0]!r}; the model has {', '.join(names)}."
        )
    if asked:
        return asked
    usual = [name for name in names if name.lower().replace(" ", "_") in _LABELS[column]]
    if len(names) == 2 and len(usual) == 1:
        return (usual[0],)
    raise InputError(
        f"models.{column} is {place}: of its labels ({', '.join(names)}) none is known to mean {column}; say which "
        f"do: {place}?label=NAME, several with commas."
    )
