"""What changed between two versions: settings, code, environment, parents and seeds, stage by stage.

What is known of a version is plain data (`VersionAccount`), so that this can be asked without any server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

STAGES = (
    "curate", "prepare-autoencoder", "prepare-dual_encoder", "prepare-detector", "prepare-captioner",
    "prepare-style_classifier", "caption", "encode", "train", "rectify", "finetune", "evaluate", "gate", "register",
)  # fmt: skip
"""Reading order; what is not named here comes last."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StageAccount(_Frozen):
    """What one stage of a version was told, and what it gave."""

    parameters: dict[str, Any] = Field(default={}, description="Settings, nested as they come.")
    upstream: dict[str, str] = Field(default={}, description="Input name -> artifact digest.")
    seed: int = 0
    code: dict[str, str] = Field(default={}, description="Module -> digest of its code.")
    digest: str = Field(default="", description="Of the artifact it made.")
    environment: dict[str, str] = Field(
        default={}, description="What it ran in: package -> version, and device."
    )
    seconds: float = 0.0
    url: str = Field(default="", description="Page of its MLflow run, where a server runs.")


class VersionAccount(_Frozen):
    """All that is known of one side of a comparison."""

    label: str = Field(description="What it is called on the page: `version 7`.")
    name: str = Field(default="", description="Registered model; empty for a mere directory.")
    version: str = ""
    aliases: list[str] = []
    verdict: str = Field(default="", description="What the gate said of it when it was made.")
    commit: str = ""
    data: str = Field(default="", description="What it learned from, in words.")
    url: str = Field(default="", description="Page of the version in MLflow, where a server runs.")
    stages: dict[str, StageAccount] = {}


class SettingChange(_Frozen):
    """One setting that differs alike in these stages; None where a side does not have it."""

    stages: list[str]
    name: str
    old: Any = None
    new: Any = None


class Change(_Frozen):
    """Something with a name that differs: a package, a seed, a stage's artifact."""

    name: str
    old: str
    new: str


class CodeChange(_Frozen):
    """The code of one stage differs, in these modules."""

    stage: str
    modules: list[str]


class Changes(_Frozen):
    """What changed from the old version to the new one; data are told apart (`versus_data`)."""

    is_known: bool = Field(description="Whether both sides say what they were made of.")
    settings: list[SettingChange] = Field(default=[], description="Seeds among them.")
    code: list[CodeChange] = []
    environment: list[Change] = []
    parents: list[Change] = Field(default=[], description="Every stage with the digests of its artifacts.")

    @property
    def shared(self) -> list[str]:
        """Stages that gave both versions the very same artifact."""
        return [each.name for each in self.parents if each.old == each.new]

    @property
    def different(self) -> list[str]:
        """Stages whose artifacts differ, or that only one side has."""
        return [each.name for each in self.parents if each.old != each.new]


def changes(old: VersionAccount, new: VersionAccount) -> Changes:
    """Return what changed from `old` to `new`."""
    names = stage_order(old.stages.keys() | new.stages.keys())
    pairs = [(name, old.stages.get(name), new.stages.get(name)) for name in names]
    both = [(name, left, right) for name, left, right in pairs if left is not None and right is not None]
    return Changes(
        is_known=bool(old.stages and new.stages),
        settings=_settings(both),
        code=[found for name, left, right in both if (found := _code(name, left, right)) is not None],
        environment=_environment(old, new),
        parents=[
            Change(name=name, old=left.digest if left else "", new=right.digest if right else "")
            for name, left, right in pairs
        ],
    )


def stage_order(names: Any) -> list[str]:
    """Return stages in reading order, unknown ones last by name."""
    place = {name: number for number, name in enumerate(STAGES)}
    return sorted(names, key=lambda name: (place.get(name, len(place)), name))


def _settings(both: list[tuple[str, StageAccount, StageAccount]]) -> list[SettingChange]:
    """What differs, in the order of the stages; the same change in several stages is one."""
    found: dict[str, SettingChange] = {}
    for stage, old, new in both:
        left = {"seed": old.seed} | flattened(old.parameters)
        right = {"seed": new.seed} | flattened(new.parameters)
        for name in sorted(left.keys() | right.keys()):
            before, after = left.get(name), right.get(name)
            if before == after:
                continue
            key = json.dumps([name, before, after], sort_keys=True, default=str)
            stages = found[key].stages if key in found else []
            found[key] = SettingChange(stages=[*stages, stage], name=name, old=before, new=after)
    return list(found.values())


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level, names joined by dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= flattened(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return found


def _code(stage: str, old: StageAccount, new: StageAccount) -> CodeChange | None:
    names = sorted(old.code.keys() | new.code.keys())
    modules = [name for name in names if old.code.get(name) != new.code.get(name)]
    return CodeChange(stage=stage, modules=modules) if modules else None


def _environment(old: VersionAccount, new: VersionAccount) -> list[Change]:
    """Packages whose versions differ; a side says several where its stages ran in different ones."""
    left, right = environment_of(old), environment_of(new)
    if not (left and right):
        return []
    return [
        Change(name=name, old=left.get(name, "none"), new=right.get(name, "none"))
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    ]


def environment_of(account: VersionAccount) -> dict[str, str]:
    """Return what a version's stages ran in; several values are joined by commas."""
    found: dict[str, list[str]] = {}
    for stage in stage_order(account.stages):
        for name, value in account.stages[stage].environment.items():
            if value not in found.setdefault(name, []):
                found[name].append(value)
    return {name: ", ".join(values) for name, values in found.items()}
