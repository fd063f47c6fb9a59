"""Where training may go on from: the champion's base network and the autoencoder whose latents it knows."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxmodel.errors import InputError
from fluxmodel.training_job import TrainingJob
from tasks import registry, tracking
from tasks.artifacts import ArtifactRef, ArtifactStore
from tasks.home import Home

_CURE = "choose start scratch"


@dataclass(frozen=True)
class WarmStart:
    """What a warm start takes from a version.

    Attributes:
        name: registered model.
        version: number of the version.
        base: its base model, whose network goes on.
        autoencoder: its autoencoder: the network knows no other's latents.
    """

    name: str
    version: str
    base: ArtifactRef
    autoencoder: ArtifactRef


def champions_start(home: Home, name: str, job: TrainingJob) -> WarmStart:
    """Return the warm start from the champion of `name`.

    Raises:
        InputError: there is no champion, or `job` is of another network or text encoder.
        ArtifactError: its files are lost.
    """
    with registry.answering(home):
        champion = registry.champion(home, name)
    if champion is None:
        raise InputError(f"start is champion, but {name!r} has no champion yet; {_CURE}.")
    base = registry.stage_artifact(champion, "train", "model")
    autoencoder = registry.stage_artifact(champion, "prepare-autoencoder", "autoencoder")
    who = f"version {champion.version} of {name!r}"
    if base is None or autoencoder is None:
        raise InputError(f"start is champion, but {who} does not say what it was made of; {_CURE}.")
    place = ArtifactStore(home).path(base)
    ArtifactStore(home).path(autoencoder)
    asked = {
        "network": (job.model, place / "transformer" / "config.json"),
        "text encoder": (job.objective.get("text", {}), place / "text_encoder" / "config.json"),
    }
    for what, (wanted, file) in asked.items():
        if field := _differing(wanted, file):
            raise InputError(
                f"start is champion, but the {what} of {who} is not this preset's ({field}); choose the preset it "
                f"was made by, or {_CURE}."
            )
    return WarmStart(name, champion.version, base, autoencoder)


def next_seed(home: Home, name: str) -> int:
    """Return the least seed above those of all versions of a model, 0 where it has none."""
    with registry.answering(home):
        versions = [version for version in registry.all_versions(home) if version.name == name]
        runs = [tracking.client(home).get_run(version.run_id) for version in versions if version.run_id]
    seeds = [int(seed) for run in runs if (seed := run.data.params.get("train.seed", "")).isdigit()]
    return max(seeds, default=-1) + 1


def _differing(wanted: dict[str, Any], file: Path) -> str:
    """Return the first field that differs, with both values; empty where all that is wanted is there."""
    found = json.loads(file.read_text())
    plain = json.loads(json.dumps(wanted))
    for name, value in plain.items():
        if found.get(name, value) != value:
            return f"{name} is {found[name]}, asked is {value}"
    return ""
