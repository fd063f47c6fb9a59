"""The model registry: versions with their whole lineage, found again by name and alias."""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxmodel.errors import ArtifactError, FluxlineError, InputError, StageError
from tasks import tracking
from tasks.artifacts import ArtifactRef, ArtifactStore
from tasks.home import Home

CHALLENGER = "challenger"


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model.

    Attributes:
        name: registered model.
        version: its number, as MLflow gives it.
        tags: lineage: digests, run keys, dataset, commit.
    """

    name: str
    version: str
    tags: dict[str, str]


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
        uri = tracking.tracking_uri(home)
        raise StageError(
            f"MLflow at {uri} did not answer as it should ({type(error).__name__}); start it, or correct or unset "
            "MLFLOW_TRACKING_URI, and run the same command again."
        ) from error


def register_version(
    home: Home, name: str, run_id: str, directory: Path, model: ArtifactRef, tags: dict[str, str], card: str
) -> RegisteredVersion:
    """Make a new version of `name` from a model directory logged to run `run_id`, alias `challenger`."""
    client = tracking.client(home)
    tracking.log_files(home, run_id, directory, model)
    with contextlib.suppress(Exception):  # exists already; a real trouble shows in the next call
        client.create_registered_model(name, description="Text-to-image models trained by Fluxline.")
    tags = {"artifact_uri": model.uri, "artifact_digest": model.digest, **tags}
    made = client.create_model_version(
        name,
        source=f"{client.get_run(run_id).info.artifact_uri}/{model.kind}",
        run_id=run_id,
        tags={key: value for key, value in tags.items() if value},
        description=card,
    )
    client.set_registered_model_alias(name, CHALLENGER, made.version)
    return RegisteredVersion(name, str(made.version), tags)


def has_version(home: Home, name: str, version: str) -> bool:
    """Return whether the registry still has this version."""
    try:
        tracking.client(home).get_model_version(name, version)
    except Exception as error:
        if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return True


def find_version(home: Home, name: str) -> RegisteredVersion:
    """Return the version with alias `challenger`, else the latest.

    Raises:
        InputError: there is no such model, or it has no version.
    """
    client = tracking.client(home)
    with contextlib.suppress(Exception):
        return _version(client.get_model_version_by_alias(name, CHALLENGER))
    quoted = name.replace("'", "")
    versions = client.search_model_versions(
        f"name = '{quoted}'", order_by=["version_number DESC"], max_results=1
    )
    if not versions:
        raise InputError(f"There is no registered model {name!r}; `fluxline run` makes one.")
    return _version(versions[0])


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
    digest = version.tags.get("artifact_digest", "")
    ref = ArtifactRef(kind="model", uri=version.tags.get("artifact_uri", ""), digest=digest)
    store = ArtifactStore(home)
    if digest and not store.problems(ref):
        return store.path(ref)
    target = home.root / "fetched" / f"{version.name}-{version.version}"
    target.mkdir(parents=True, exist_ok=True)
    made = tracking.client(home).get_model_version(version.name, version.version)
    with contextlib.suppress(Exception):
        place = Path(tracking.client(home).download_artifacts(made.run_id, "model", str(target)))
        if (place / "model_index.json").is_file():
            return place
    raise ArtifactError(
        f"The files of {version.name} version {version.version} are neither in the store nor in MLflow; "
        "run `fluxline run` again to rebuild them."
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
    return RegisteredVersion(made.name, str(made.version), dict(made.tags))
