"""Every number carries its identity; two numbers of different identity are not compared.

A Frechet distance over 500 images is not "better" than one over 1000: it is another quantity. So a measurement
knows what it was measured on and with, and `require_comparable` refuses, naming the fields that differ.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.errors import ArtifactError, IncomparableError

# The sources whose change may change a number; drawing grids and pages does not.
_MEASURING = (
    "baselines.py", "calibration.py", "caption_retrieval.py", "clip_score.py", "contamination.py", "contestants.py",
    "contrast.py", "curves.py", "distribution.py", "drawing_cost.py", "entrant.py", "feature_cache.py", "features.py",
    "frechet.py", "geneval.py", "given_groups.py", "groups.py", "inception.py", "instruments.py", "kid.py",
    "manifold.py", "measurements.py", "mind.py", "nearest.py", "own_prompts.py", "prompt_files.py", "prompts.py",
    "resize.py", "sampler.py", "scene_judge.py", "statistics.py", "straightness.py", "style.py", "templates.py",
    "verdicts.py",
)  # fmt: skip


CONTESTANT = "diffusers "
"""How the model of an identity begins that came as a diffusers pipeline."""
# What such a model brings with it: its own solver, its own size before resizing, its own precision.
_BROUGHT = ("solver", "resize", "dtype")
# The store's note about an artifact, such as when it was made; no part of what it holds.
_MANIFEST = "manifest.json"


class Identity(BaseModel):
    """What a number was measured on and with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="Digest of the model's directory: what is compared, so allowed to differ.")
    dataset: str = Field(description="Digest of the curated dataset.")
    reference: str = Field(description="Where the reference images come from.")
    feature_extractor: str | None = Field(description="Network of the Frechet distance and KID, with digest.")
    judge: str | None = Field(description="Judge of the attributes with its thresholds; none on folders.")
    text_image: str | None = Field(default=None, description="Dual encoder of the CLIP score and retrieval.")
    prompts: str = Field(description="Where the prompts come from, with their digest.")
    seeds: str = Field(description="Seeds of the noise.")
    solver: str = Field(description="Solver of the flow.")
    steps: int | None = Field(description="Solver steps; none where the number spans several.")
    guidance: float | None = Field(description="Guidance scale; 1 is unguided.")
    n: int = Field(description="Number of images.")
    resize: str = Field(description="Image size and what was done to reach it.")
    dtype: str = Field(description="Numbers the model computed in, batch size included: both fix rounding.")
    code: str = Field(description="Digest of the sources that measure.")
    device: str | None = Field(
        default=None, description="Device, threads and precision of a time or a memory; none for all else."
    )


class Measurement(BaseModel):
    """One number with its interval and its identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int
    method: str
    direction: Literal["higher", "lower", "none"] = Field(description="Which way is better.")
    identity: dict[str, Any] = Field(default={}, description="Where it departs from the report's identity.")

    def full_identity(self, shared: Identity) -> Identity:
        """The report's shared identity with this number's own departures."""
        return shared.model_copy(update=self.identity)


def differing_fields(left: Identity, right: Identity) -> list[str]:
    """Names of the fields in which two identities differ."""
    return [name for name in Identity.model_fields if getattr(left, name) != getattr(right, name)]


def require_comparable(left: Identity, right: Identity, may_differ: Iterable[str] = ("model",)) -> None:
    """Pass if two numbers measure the same thing, up to the fields that are the subject of the comparison.

    A model of other making is compared with the solver, size and precision it brings, as one subject.

    Raises:
        IncomparableError: naming each field that differs, with both values.
    """
    may_differ = set(may_differ)
    if "model" in may_differ and any(each.model.startswith(CONTESTANT) for each in (left, right)):
        may_differ |= set(_BROUGHT)
    fields = [name for name in differing_fields(left, right) if name not in may_differ]
    if fields:
        pairs = "; ".join(
            f"{name}: {getattr(left, name)!r} against {getattr(right, name)!r}" for name in fields
        )
        raise IncomparableError(
            f"These numbers are not comparable, they differ in {pairs}. Evaluate both alike.", fields
        )


def improvement(
    new: tuple[Measurement, Identity],
    old: tuple[Measurement, Identity],
    may_differ: Iterable[str] = ("model",),
) -> float:
    """How much better `new` is than `old`, positive is better; each is (measurement, its report's identity).

    Raises:
        IncomparableError: where names, directions or identities differ, or where a value is missing.
    """
    (left, left_shared), (right, right_shared) = new, old
    if (left.name, left.direction) != (right.name, right.direction):
        raise IncomparableError(
            f"{left.name!r} and {right.name!r} are different quantities and not comparable."
        )
    require_comparable(left.full_identity(left_shared), right.full_identity(right_shared), may_differ)
    if left.value is None or right.value is None:
        raise IncomparableError(
            f"{left.name!r} was not measured on both sides, so there is nothing to compare."
        )
    return (left.value - right.value) * (-1 if left.direction == "lower" else 1)


def digest_of_directory(directory: Path, suffixes: tuple[str, ...] | None = None) -> str:
    """First 16 hex digits of the sha256 over the relative names and bytes of a directory's files.

    Raises:
        ArtifactError: where the directory is missing or empty.
    """
    files = sorted(path for path in Path(directory).rglob("*") if path.is_file() and path.name != _MANIFEST)
    files = [path for path in files if suffixes is None or path.suffix in suffixes]
    if not files:
        raise ArtifactError(f"{directory} is missing or empty; run the stage that makes it again.")
    total = hashlib.sha256()
    for path in files:
        total.update(path.relative_to(directory).as_posix().encode() + b"\0")
        with path.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]


def digest_of(value: Any) -> str:
    """First 16 hex digits of the sha256 of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def code_digest() -> str:
    """Digest of the sources that measure: this package's and the renderer's."""
    here = Path(__file__).parent
    paths = [here / name for name in _MEASURING]
    paths.append(here.parent / "fluxmodel" / "data" / "procedural.py")
    return digest_of([[path.name, path.read_text(encoding="utf-8")] for path in paths if path.exists()])
