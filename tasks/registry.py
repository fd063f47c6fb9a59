"""The model registry: versions with their whole lineage, found again by name, number and alias.

Three aliases: `challenger` is the newest version, `champion` the one to use, `previous` the champion before it.
"""

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxmodel.errors import ArtifactError, FluxlineError, InputError, StageError
from tasks import tracking
from tasks.artifacts import ArtifactRef, ArtifactStore
from tasks.databases import shown_address
from tasks.home import Home

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
ALIASES = (CHAMPION, CHALLENGER, PREVIOUS)
LINEAGE = "lineage"
"""Tag with a JSON object of all a program wants of a version and nobody reads: digests, addresses, run keys.

One tag, because MLflow's page of a model draws each as a chip: sixty of them made a version two screens high.
"""
MAX_DESCRIPTION = 5000
"""Characters of a version's description in MLflow's tables."""


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model.

    Attributes:
        name: registered model.
        version: its number, as MLflow gives it.
        tags: what MLflow's page shows (dataset, commit, verdict) and, merged under it, what `LINEAGE` holds.
    """

    name: str
    version: str
    tags: dict[str, str]


@dataclass(frozen=True)
class StoredVersion(RegisteredVersion):
    """A version with what its place in the registry says.

    Attributes:
        aliases: its own.
        created: Unix time.
        run_id: run that holds its files.
    """

    aliases: tuple[str, ...] = ()
    created: float = 0.0
    run_id: str = ""


@contextlib.contextmanager
def answering(home: Home) -> Iterator[None]:
    """Turn whatever MLflow raises in the body into one sentence.

    Raises:
        StageError: MLflow did not do what was asked.
    """
    try:
        yield
    except FluxlineError:
        raise
    except Exception as error:
        uri = shown_address(tracking.tracking_uri(home))
        raise StageError(
            f"MLflow at {uri} did not answer as it should ({type(error).__name__}); start it, or correct or unset "
            "MLFLOW_TRACKING_URI, and run the same command again."
        ) from error


def register_version(
    home: Home,
    name: str,
    run_id: str,
    directory: Path,
    model: ArtifactRef,
    tags: dict[str, str],
    card: str,
    beside: Path | None = None,
    lineage: dict[str, str] | None = None,
) -> RegisteredVersion:
    """Make a new version of `name` from a model directory logged to run `run_id`, alias `challenger`.

    A version with the same tag `run_key` is from an attempt that was cut off, and is taken up again.

    Args:
        home: where the registry is.
        name: registered model.
        run_id: run that holds the version's files.
        directory: the model's files.
        model: the model's artifact.
        tags: what MLflow's page shows; `run_key` among them.
        card: what the version's page tells, in Markdown.
        beside: folder of further files for MLflow's copy alone: README.md, MLmodel and what that names.
        lineage: what only programs read, kept in one tag.
    """
    client = tracking.client(home)
    tracking.log_files(home, run_id, directory, model)
    if beside is not None:
        client.log_artifacts(run_id, str(beside), model.kind)
    with contextlib.suppress(Exception):  # exists already; a real trouble shows in the next call
        client.create_registered_model(name, description="Text-to-image models trained by Fluxline.")
    below = {"artifact_uri": model.uri, "artifact_digest": model.digest, **(lineage or {})}
    below = {key: value for key, value in sorted(below.items()) if value}
    tags = {key: value for key, value in tags.items() if value} | {LINEAGE: json.dumps(below, indent=1)}
    made = _made_by(home, name, tags.get("run_key", ""))
    if made is None:
        source = f"{client.get_run(run_id).info.artifact_uri}/{model.kind}"
        made = client.create_model_version(
            name, source=source, run_id=run_id, tags=tags, description=_description(card)
        )
    client.set_registered_model_alias(name, CHALLENGER, str(made.version))
    return RegisteredVersion(name, str(made.version), _merged(tags))


def _description(card: str) -> str:
    """Return as many of a card's chapters as MLflow keeps; the whole card is the version's README.md."""
    chapters = card.strip().split("\n\n## ")
    while len(chapters) > 1 and len("\n\n## ".join(chapters)) > MAX_DESCRIPTION:
        chapters.pop()
    return "\n\n## ".join(chapters)[:MAX_DESCRIPTION]


def _made_by(home: Home, name: str, run_key: str) -> Any | None:
    if not run_key:
        return None
    asked = f"name = '{_quoted(name)}' and tags.run_key = '{run_key}'"
    found = tracking.client(home).search_model_versions(asked, max_results=1)
    return found[0] if found else None


def has_version(home: Home, name: str, version: str) -> bool:
    """Return whether the registry still has this version."""
    return _none_if_missing(lambda: tracking.client(home).get_model_version(name, version)) is not None


def aliases(home: Home, name: str) -> dict[str, str]:
    """Return the version of each alias; empty where there is no such model."""
    model = _none_if_missing(lambda: tracking.client(home).get_registered_model(name))
    return {alias: str(version) for alias, version in model.aliases.items()} if model is not None else {}


def model_tags(home: Home, name: str) -> dict[str, str]:
    """Return the tags of a registered model; empty where there is none."""
    model = _none_if_missing(lambda: tracking.client(home).get_registered_model(name))
    return dict(model.tags) if model is not None else {}


def tagged_versions(home: Home, name: str, key: str, value: str) -> list[RegisteredVersion]:
    """Return the versions of a model with this tag, newest first."""
    asked = f"name = '{_quoted(name)}' and tags.{key} = '{value}'"
    found = tracking.client(home).search_model_versions(asked, max_results=200)
    return sorted((_version(each) for each in found), key=lambda each: -int(each.version))


def champion(home: Home, name: str) -> RegisteredVersion | None:
    """Return the champion of `name`, or None."""
    version = aliases(home, name).get(CHAMPION)
    return _version(tracking.client(home).get_model_version(name, version)) if version else None


def find_version(home: Home, name: str, which: str = "") -> RegisteredVersion:
    """Return a version by its number or alias; by default the champion, else the challenger, else the newest.

    Raises:
        InputError: there is no such model or version.
    """
    client, known = tracking.client(home), aliases(home, name)
    if which:
        number = known.get(which, which)
        found = _none_if_missing(lambda: client.get_model_version(name, number)) if number.isdigit() else None
        if found is None:
            raise InputError(f"{name!r} has no version {which!r}; {_known(home, name, known)}.")
        return _version(found)
    if number := known.get(CHAMPION) or known.get(CHALLENGER):
        return _version(client.get_model_version(name, number))
    versions = client.search_model_versions(
        f"name = '{_quoted(name)}'", order_by=["version_number DESC"], max_results=1
    )
    if not versions:
        raise InputError(f"There is no registered model {name!r}; `fluxline run` makes one.")
    return _version(versions[0])


def all_versions(home: Home) -> list[StoredVersion]:
    """Return every version of every model, the newest of a model first."""
    client, token, found = tracking.client(home), None, []
    aliased = {model.name: dict(model.aliases) for model in client.search_registered_models()}
    while True:
        page = client.search_model_versions(max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            break
    versions = [
        StoredVersion(
            name=each.name,
            version=str(each.version),
            tags=_merged(each.tags),
            aliases=tuple(a for a, v in aliased.get(each.name, {}).items() if str(v) == str(each.version)),
            created=each.creation_timestamp / 1000,
            run_id=each.run_id or "",
        )
        for each in found
    ]
    return sorted(versions, key=lambda version: (version.name, -int(version.version)))


def drop_version(home: Home, version: StoredVersion) -> None:
    """Take a version out of the registry, and its files out of its run; the run itself stays."""
    tracking.client(home).delete_model_version(version.name, version.version)
    others = [other for other in all_versions(home) if other.run_id == version.run_id]
    if version.run_id and not others:
        tracking.delete_files(home, version.run_id, "model")


def set_tags(home: Home, version: RegisteredVersion, tags: dict[str, str]) -> None:
    """Add tags to a version."""
    for key, value in tags.items():
        tracking.client(home).set_model_version_tag(version.name, version.version, key, value)


def stage_artifact(version: RegisteredVersion, stage: str, kind: str) -> ArtifactRef | None:
    """Return the artifact that a stage of the version's lineage made, or None."""
    digest = version.tags.get(f"{stage}.digest", "")
    if not digest:
        return None
    uri, run_id = version.tags.get(f"{stage}.uri", ""), version.tags.get(f"{stage}.mlflow_run_id", "")
    return ArtifactRef(kind=kind, uri=uri, digest=digest, mlflow_run_id=run_id)


def newest_model_name(home: Home) -> str:
    """Return the name of the model registered last.

    Raises:
        InputError: nothing is registered yet.
    """
    versions = tracking.client(home).search_model_versions(
        max_results=1, order_by=["creation_timestamp DESC"]
    )
    if not versions:
        raise InputError("No model is registered yet; `fluxline run` makes one.")
    return versions[0].name


def model_directory(home: Home, version: RegisteredVersion) -> Path:
    """Return a local directory with a version's model: from the store, else from MLflow.

    Raises:
        ArtifactError: it is in neither.
    """
    made = tracking.client(home).get_model_version(version.name, version.version)
    ref = ArtifactRef(
        kind="model",
        uri=version.tags.get("artifact_uri", ""),
        digest=version.tags.get("artifact_digest", ""),
        mlflow_run_id=made.run_id or "",
    )
    try:
        return ArtifactStore(home).path(ref)
    except ArtifactError as error:
        raise ArtifactError(
            f"The files of {version.name} version {version.version} are neither in the store nor in MLflow; "
            "run `fluxline run` again to rebuild them."
        ) from error


def evaluation_directory(home: Home, version: RegisteredVersion) -> Path:
    """Return a local directory with a version's evaluation: from the store, else from MLflow.

    Raises:
        ArtifactError: it is in neither.
    """
    ref = stage_artifact(version, "evaluate", "evaluation")
    try:
        if ref is not None:
            return ArtifactStore(home).path(ref)
    except ArtifactError:
        pass
    raise ArtifactError(
        f"The evaluation of {version.name} version {version.version} is neither in the store nor in MLflow."
    )


def git_commit() -> str:
    """Return the commit the code stands at, with `-dirty` for local changes; empty outside of git."""
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(made: Any) -> RegisteredVersion:
    return RegisteredVersion(made.name, str(made.version), _merged(made.tags))


def _merged(tags: Mapping[str, str]) -> dict[str, str]:
    return {**json.loads(tags.get(LINEAGE, "{}")), **{key: tags[key] for key in tags if key != LINEAGE}}


def _none_if_missing(ask: Callable[[], Any]) -> Any | None:
    try:
        return ask()
    except Exception as error:
        if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _known(home: Home, name: str, known: dict[str, str]) -> str:
    found = tracking.client(home).search_model_versions(f"name = '{_quoted(name)}'", max_results=50)
    if not found:
        return "there is no such model; `fluxline run` makes one"
    numbers = ", ".join(sorted((str(each.version) for each in found), key=int))
    named = ", ".join(f"{alias} ({known[alias]})" for alias in ALIASES if alias in known)
    return f"it has {numbers}" + (f" and the aliases {named}" if named else "")


def _quoted(name: str) -> str:
    return name.replace("'", "")
