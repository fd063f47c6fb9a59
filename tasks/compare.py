"""Compare: two versions laid side by side as a page and a picture, and logged beside the versions in MLflow."""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from evaluation.compare import SUBJECT, read_side
from evaluation.gate import FILE
from evaluation.gate_settings import GateSettings
from evaluation.identity import differing_fields
from evaluation.versus import Comparison, Version, compare_versions, write_comparison
from evaluation.versus_changes import VersionAccount
from evaluation.versus_data import Learned
from evaluation.versus_words import plain_words
from fluxmodel.errors import ArtifactError, InputError
from tasks import registry, tracking
from tasks.artifacts import ArtifactRef, ArtifactStore
from tasks.cards import read_json
from tasks.home import Home
from tasks.lineage import account_of
from tasks.links import PAGE

FOLDER = "comparisons"
_TAG = "comparison"
_HEAD = "\n\n## Compared\n\n"


@dataclass(frozen=True)
class Compared:
    """A comparison and where it lies.

    Attributes:
        comparison: what was found.
        files: page, picture and JSON by kind.
        mlflow_run_id: the run it was logged to; empty where a side is no registered version.
        mlflow_url: that run's page; empty where no server runs.
    """

    comparison: Comparison
    files: dict[str, Path]
    mlflow_run_id: str = ""
    mlflow_url: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON: `a` is the challenger, `b` what it is compared with."""
        found, decision = self.comparison, self.comparison.decision
        said = decision.model_dump(mode="json", exclude={"name", "evaluation", "champion", "settings"})
        return {
            "a": found.new.version or found.new.label,
            "b": found.old.version or found.old.label,
            "name": found.new.name,
            **said,
            "changes": found.changes.model_dump(mode="json"),
            "data": found.data.model_dump(mode="json", exclude={"shown"}) if found.data else None,
            "numbers": [each.model_dump(mode="json") for each in found.numbers],
            "outcomes": found.outcomes.model_dump(mode="json") if found.outcomes else None,
            "files": {kind: str(path) for kind, path in self.files.items()},
            "mlflow_run_id": self.mlflow_run_id,
            "mlflow_url": self.mlflow_url,
        }


def compare(
    home: Home, left: str, right: str, name: str = "", out: Path | None = None, root: Path = Path(FOLDER)
) -> Compared:
    """Compare two versions or evaluation directories, write the page and the picture, and log them.

    Of two versions of one model the later one is the challenger, in whichever order they are named; else the first.

    Args:
        home: where the registry is.
        left: a version (`v7`, `7`, an alias, `NAME@7`) or a directory with an evaluation.
        right: likewise.
        name: registered model of sides that name none; by default the newest.
        out: folder of the files; by default NAME-OLD-NEW below `root`.
        root: folder of all comparisons.

    Raises:
        InputError: there is no such version or evaluation.
        ArtifactError: an evaluation is lost.
    """
    with registry.answering(home):
        sides = [find_side(home, left, name), find_side(home, right, name)]
        new, old = sorted(sides, key=_number, reverse=True) if _one_model(sides) else _told_apart(sides)
        settings = _settings(new.account)
        old, said = _on_terms_of(home, new, old)
    found = compare_versions(new, old, settings).model_copy(update={"note": said})
    files = write_comparison(found, new, old, out or root / _folder(found))
    if not (new.account.version and old.account.version):
        return Compared(found, files)
    with registry.answering(home):
        run_id = _log(home, found, files)
        return Compared(found, files, run_id, tracking.run_url(home, run_id))


def find_side(home: Home, what: str, name: str = "") -> Version:
    """Return one side of a comparison, with its evaluation and, where they are at hand, its data.

    Raises:
        InputError: it is neither a directory nor a version.
        ArtifactError: its evaluation is neither in the store nor in MLflow.
    """
    if Path(what).is_dir():
        directory = Path(what).resolve()
        return Version(
            VersionAccount(label=directory.name),
            directory,
            None,
            f"{directory.name} is no version of the registry",
        )
    given, _, which = what.rpartition("@")
    if "/" in what or not which:
        raise InputError(f"{what} is no directory; name one with an evaluation, or a version such as NAME@3.")
    number = re.fullmatch(r"v(\d+)", which)
    version = registry.find_version(
        home, given or name or registry.newest_model_name(home), number[1] if number else which
    )
    evaluation = registry.evaluation_directory(home, version)
    learned, why = _learned(home, version)
    return Version(account_of(home, version), evaluation, learned, why)


def _learned(home: Home, version: registry.RegisteredVersion) -> tuple[Learned | None, str]:
    """What the version learned from; else why it is not at hand."""
    store, said = ArtifactStore(home), f"the data of version {version.version} are not at hand"
    dataset = registry.stage_artifact(version, "curate", "dataset")
    captions = registry.stage_artifact(version, "caption", "captions")
    if dataset is None:
        return None, said
    try:
        return Learned(store.path(dataset), store.path(captions) if captions else None), ""
    except ArtifactError as error:
        return None, f"{said}: {error}"


def _one_model(sides: list[Version]) -> bool:
    first, second = (side.account for side in sides)
    return bool(first.version and second.version) and first.name == second.name


def _on_terms_of(home: Home, new: Version, old: Version) -> tuple[Version, str]:
    """The old version with the evaluation that the new one's gate made of it, where they were measured differently.

    Data that changed change the evaluation, too: the gate then evaluates the champion again on the challenger's terms.
    """
    asked, gate = new.account, new.account.stages.get("gate")
    differing = differing_fields(read_side(new.evaluation).identity, read_side(old.evaluation).identity)
    if gate is None or not asked.version or set(differing) <= set(SUBJECT):
        return old, ""
    version = registry.find_version(home, asked.name, asked.version)
    ref = registry.stage_artifact(version, "gate", "decision")
    made = read_json(ArtifactStore(home).path(ref) / FILE) if ref is not None else {}
    digest = made.get("reevaluated", "")
    if not digest or made.get("champion") != {"name": old.account.name, "version": old.account.version}:
        return old, ""
    again = ArtifactStore(home).path(ArtifactRef(kind="evaluation", uri="", digest=digest))
    said = f"{old.account.label} was evaluated again on the terms of {asked.label} by its gate"
    return replace(
        old, evaluation=again
    ), f"{said} ({', '.join(each for each in differing if each not in SUBJECT)})."


def _told_apart(sides: list[Version]) -> list[Version]:
    """Sides of two models, or directories, with labels that differ."""
    if sides[0].account.label != sides[1].account.label:
        return sides
    labels = [
        f"{side.account.name} {side.account.label}"
        if side.account.name
        else "/".join(side.evaluation.parts[-2:])
        for side in sides
    ]
    return [
        replace(side, account=side.account.model_copy(update={"label": label}))
        for side, label in zip(sides, labels, strict=True)
    ]


def _number(side: Version) -> int:
    return int(side.account.version)


def _settings(account: VersionAccount) -> GateSettings:
    """What the gate asked of the version when it was made; its usual settings where that is not known any more."""
    gate = account.stages.get("gate")
    asked = gate.parameters.get("settings", {}) if gate else {}
    return GateSettings.model_validate(
        {name: asked[name] for name in asked if name in GateSettings.model_fields}
    )


def _folder(found: Comparison) -> str:
    """`NAME-7-12`, the older first."""
    old, new = found.old, found.new
    names = [old.name, *([new.name] if new.name != old.name else [])]
    parts = [*names, old.version or old.label, new.version or new.label]
    return "-".join(re.sub(r"[^\w.-]+", "_", part) for part in parts if part)


def _log(home: Home, found: Comparison, files: dict[str, Path]) -> str:
    """Log the comparison as a run of its own, found again by the same comparison, and link it from both versions."""
    old, new = found.old, found.new
    content = [old.name, old.version, new.name, new.version, found.decision.settings.model_dump(mode="json")]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    title = f"compare {new.name} {old.version} with {new.version}"
    tags = {"stage": "compare", "verdict": found.decision.verdict, "model": new.name}
    run_id = tracking.open_run(home, key, title, tags)
    metrics = {f"difference.{each.row.name}": each.row.difference for each in found.numbers}
    if found.outcomes is not None:
        metrics |= {"only_new": float(found.outcomes.only_new), "only_old": float(found.outcomes.only_old)}
    tracking.log_metrics(home, run_id, metrics)
    for path in files.values():
        tracking.client(home).log_artifact(run_id, str(path))
    said = "\n".join(
        [f"{found.title}: **{found.decision.verdict}**", "", *map(plain_words, found.decision.reasons)]
    )
    tracking.describe(home, run_id, f"{said}\n\n{' '.join(map(_version_link, (old, new)))}")
    tracking.close_run(home, run_id, "FINISHED")
    page = f"#/experiments/{tracking.experiment_id(home)}/runs/{run_id}/artifacts/{files['html'].name}{PAGE}"
    for account, other in ((old, new), (new, old)):
        _link(home, account, other, page, found.decision.verdict)
    return run_id


def _version_link(account: VersionAccount) -> str:
    return f"[{account.label}](#/models/{quote(account.name)}/versions/{account.version})"


def _link(home: Home, account: VersionAccount, other: VersionAccount, page: str, verdict: str) -> None:
    """Link a version to a comparison: in a tag, and below its description, where MLflow makes links of Markdown."""
    uri = tracking.tracking_uri(home)
    label = other.label if other.name == account.name else f"{other.name} {other.label}"
    tag = f"{_TAG}.{label.removeprefix('version ').replace(' version ', '.')}"
    version = registry.find_version(home, account.name, account.version)
    registry.set_tags(home, version, {tag: f"{uri.rstrip('/')}/{page}" if uri.startswith("http") else page})
    client = tracking.client(home)
    told = client.get_model_version(account.name, account.version).description or ""
    card, _, listed = told.partition(_HEAD)
    lines = [line for line in listed.splitlines() if line and not line.startswith(f"- [with {label}]")]
    text = card + _HEAD + "\n".join([*lines, f"- [with {label}]({page}): {verdict}"])
    if len(text) <= registry.MAX_DESCRIPTION:
        client.update_model_version(account.name, account.version, description=text)
