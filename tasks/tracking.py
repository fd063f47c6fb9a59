"""MLflow, and nothing else: the only file that imports it (it takes seconds, so only where used).

A pipeline run is a parent run, each stage a child of it, found again by the tag `run_key`. Measurements come from the
spool of the child process; when MLflow is away the spool keeps them, the place reached is remembered in
`tracking.json`, and they are sent later. Nothing here ever stops a stage.
"""

import io
import json
import logging
import os
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tasks.artifacts import MANIFEST, ArtifactRef
from tasks.databases import mlflow_artifact_root, mlflow_database
from tasks.home import Home

EXPERIMENT = "fluxline"
WHOLE_ARTIFACT_BYTES = 1 << 30
"""Artifacts up to this size are logged whole; FLUXLINE_LOG_LIMIT (bytes) says otherwise."""
BATCH = 1000
PICTURE_SIDE = 256
"""Side, in pixels, that small images are enlarged to: MLflow shows them as they are."""
_MAX_VALUE = 500
_MAX_NOTE = 7000  # MLflow takes tags of 8000 characters
_lock = threading.Lock()


def tracking_uri(home: Home) -> str:
    """Return MLFLOW_TRACKING_URI, else the database itself: MLFLOW_BACKEND_STORE_URI, else a file of FLUXLINE_HOME.

    It may hold a password; people are shown `shown_address` of it.
    """
    return os.environ.get("MLFLOW_TRACKING_URI") or mlflow_database(home).url


def run_url(home: Home, run_id: str) -> str:
    """Return the page of a run in MLflow's interface; empty when no server is up."""
    uri = tracking_uri(home)
    if not (uri.startswith("http") and run_id):
        return ""
    experiment = experiment_id(home)
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning"


def version_url(home: Home, name: str, version: str) -> str:
    """Return the page of a registered version in MLflow's interface; empty when no server is up."""
    uri = tracking_uri(home)
    return f"{uri.rstrip('/')}/#/models/{quote(name)}/versions/{version}" if uri.startswith("http") else ""


def client(home: Home) -> Any:
    """Return MLflow's client for this home; the first call of a process takes seconds."""
    with _lock:
        return _client(tracking_uri(home))


@cache
def _client(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # its import sets the level again
    return MlflowClient(uri)


def experiment_id(home: Home) -> str:
    """Return the id of our experiment, made on first use."""
    return _experiment(tracking_uri(home), home)


@cache
def _experiment(uri: str, home: Home) -> str:
    mlflow = client(home)
    with _lock:
        found = mlflow.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return found.experiment_id
        place = None if uri.startswith("http") else mlflow_artifact_root(home)
        return mlflow.create_experiment(EXPERIMENT, artifact_location=place)


def find_run(home: Home, run_key: str) -> Any | None:
    """Return the newest MLflow run with the tag `run_key`, or None."""
    found = client(home).search_runs(
        [experiment_id(home)],
        f"tags.run_key = '{run_key}'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return found[0] if found else None


def open_run(home: Home, run_key: str, name: str, tags: dict[str, str], parent_key: str = "") -> str:
    """Re-open the run with this key, or make one (below the run with key `parent_key`); return its id."""
    mlflow = client(home)
    tags = {"run_key": run_key, **tags}
    if parent_key and (parent := find_run(home, parent_key)):
        tags["mlflow.parentRunId"] = parent.info.run_id
    if run := find_run(home, run_key):
        mlflow.update_run(run.info.run_id, status="RUNNING")
        log_run(home, run.info.run_id, tags=tags)
        return run.info.run_id
    return mlflow.create_run(experiment_id(home), run_name=name, tags=_texts(tags)).info.run_id


def log_run(home: Home, run_id: str, *, params: dict | None = None, tags: dict | None = None) -> None:
    """Log parameters and tags; a parameter MLflow already has is left as it is."""
    from mlflow.entities import Param, RunTag

    mlflow = client(home)
    known = mlflow.get_run(run_id).data.params if params else {}
    entries = [Param(k, v) for k, v in _texts(flat(params or {})).items() if k not in known]
    for start in range(0, len(entries), 100):
        mlflow.log_batch(run_id, params=entries[start : start + 100])
    if tags:
        mlflow.log_batch(run_id, tags=[RunTag(k, v) for k, v in _texts(tags).items()])


@dataclass(frozen=True)
class Adopted:
    """A stage's run as its pipeline's parent run names it."""

    stage: str
    run_id: str
    run_key: str
    link: str


def adopt(home: Home, parent_id: str, run_key: str, version: str = "") -> Adopted | None:
    """Link a stage's run and its pipeline's parent run; a reused stage stays with the parent that made it.

    A run made below this parent is named after the model version it was made for (`train v3`), so that runs of several
    versions can be told apart in a chart. Returns None where MLflow has no such run.
    """
    if (run := find_run(home, run_key)) is None:
        return None
    stage, tags = run.data.tags.get("stage", "stage"), run.data.tags
    if "mlflow.parentRunId" not in tags:  # MLflow was away when it began
        log_run(home, run.info.run_id, tags={"mlflow.parentRunId": parent_id})
    if version and tags.get("mlflow.parentRunId", parent_id) == parent_id and run.info.run_name == stage:
        rename(home, run.info.run_id, f"{stage} v{version}")
    said = tags.get("mlflow.note.content", stage)
    link = f"- [{said}](#/experiments/{run.info.experiment_id}/runs/{run.info.run_id})"
    return Adopted(stage, run.info.run_id, run_key, link)


def describe(home: Home, run_id: str, text: str) -> None:
    """Set the description that MLflow's page of a run shows, as Markdown."""
    client(home).set_tag(run_id, "mlflow.note.content", text[:_MAX_NOTE])


def close_run(home: Home, run_id: str, status: str) -> None:
    """End a run as FINISHED, FAILED or KILLED."""
    client(home).set_terminated(run_id, status)


@dataclass(frozen=True)
class MetricPoint:
    """A number at a step; `time` is Unix time, 0 for now."""

    name: str
    value: float
    step: int = 0
    time: float = 0.0


@dataclass(frozen=True)
class Picture:
    """A step of an image slider: `key` is the slider, `png` the image's bytes."""

    key: str
    step: int
    png: bytes


@dataclass(frozen=True)
class DatasetInput:
    """A dataset as MLflow shows it beside a run; the digest is cut to the 36 characters MLflow keeps."""

    name: str
    digest: str
    source: dict[str, str]
    columns: dict[str, str]
    profile: dict[str, Any]
    context: str


def log_metrics(home: Home, run_id: str, metrics: dict[str, float], step: int = 0) -> None:
    """Log a few final numbers, in their order: MLflow's page of a run keeps it."""
    log_points(home, run_id, [MetricPoint(name, value, step) for name, value in metrics.items()])


def log_points(home: Home, run_id: str, points: Sequence[MetricPoint]) -> None:
    """Log many numbers, a thousand a call."""
    from mlflow.entities import Metric

    now = time.time()
    made = [Metric(p.name, p.value, int(1000 * (p.time or now)), p.step) for p in points]
    for start in range(0, len(made), BATCH):
        client(home).log_batch(run_id, metrics=made[start : start + BATCH])


def log_pictures(home: Home, run_id: str, pictures: Sequence[Picture]) -> None:
    """Log steps of image sliders, all by one call: the very files that MLflow's `log_image` sends one by one."""
    from mlflow.tracking.multimedia import compress_image_size

    if not pictures:
        return
    now = int(1000 * time.time())
    with tempfile.TemporaryDirectory() as folder:
        for picture in pictures:
            image, key = _enlarged(picture.png), slider_key(picture.key).replace("/", "~")
            name = f"{key}+step+{picture.step}+timestamp+{now}+{uuid.uuid4()}"
            image.save(Path(folder) / f"{name}.png")
            compress_image_size(image).save(Path(folder) / f"{name}+compressed.webp")
        client(home).log_artifacts(run_id, folder, "images")
    client(home).set_tag(run_id, "mlflow.loggedImages", True)


def _enlarged(png: bytes) -> Any:
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        factor = max(1, PICTURE_SIDE // max(image.size))
        size = (image.width * factor, image.height * factor)
        return image.convert("RGB").resize(size, Image.Resampling.NEAREST)


def slider_key(text: str) -> str:
    """Return a slider's name in the characters MLflow allows."""
    return re.sub(r"[^a-zA-Z0-9_\-./ ]+", "", text.replace(";", " -")).strip()[:120]


def log_dataset(home: Home, run_id: str, dataset: DatasetInput) -> None:
    """Log what a run was made from, so that MLflow's tables name it and open its profile."""
    from mlflow.entities import Dataset, InputTag
    from mlflow.entities import DatasetInput as Entity

    columns = [{"name": name, "type": kind, "required": True} for name, kind in dataset.columns.items()]
    made = Dataset(
        name=dataset.name[:500],
        digest=dataset.digest[:36],
        source_type="fluxline",
        source=json.dumps(dataset.source),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps(dataset.profile),
    )
    tags = [InputTag("mlflow.data.context", dataset.context)]
    client(home).log_inputs(run_id, datasets=[Entity(made, tags)])


def rename(home: Home, run_id: str, name: str) -> None:
    """Name a run."""
    client(home).update_run(run_id, name=name)


def delete_files(home: Home, run_id: str, name: str) -> bool:
    """Delete the artifact directory `name` of a run; return whether there was one."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if not client(home).list_artifacts(run_id, name):
        return False
    get_artifact_repository(client(home).get_run(run_id).info.artifact_uri).delete_artifacts(name)
    return True


def log_artifact(home: Home, run_id: str, directory: Path, ref: ArtifactRef) -> None:
    """Log the artifact a run made: its address and digest always, its files where it is small."""
    tags = {"artifact_uri": ref.uri, "artifact_digest": ref.digest, "artifact_kind": ref.kind}
    log_run(home, run_id, tags=tags)
    log_files(home, run_id, directory, ref)


def log_files(home: Home, run_id: str, directory: Path, ref: ArtifactRef) -> None:
    """Log an artifact whole, and of a very large one where it is and what it holds."""
    if ref.num_bytes <= int(os.environ.get("FLUXLINE_LOG_LIMIT") or WHOLE_ARTIFACT_BYTES):
        client(home).log_artifacts(run_id, str(directory), ref.kind)
        return
    client(home).log_dict(run_id, ref.model_dump(), f"{ref.kind}/artifact.json")
    if (directory / MANIFEST).is_file():
        client(home).log_artifact(run_id, str(directory / MANIFEST), ref.kind)


def runs_with_artifact(home: Home, digest: str, limit: int = 5) -> list[str]:
    """Return the ids of at most `limit` runs whose artifact has this digest, newest first."""
    found = client(home).search_runs(
        [experiment_id(home)],
        f"tags.artifact_digest = '{digest}'",
        max_results=limit,
        order_by=["attributes.start_time DESC"],
    )
    return [run.info.run_id for run in found]


def download_files(home: Home, run_id: str, name: str, target: Path) -> Path:
    """Copy the artifact directory `name` of a run below `target`; return where it lies."""
    target.mkdir(parents=True, exist_ok=True)
    return Path(client(home).download_artifacts(run_id, name, str(target)))


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level, keys joined by dots."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        result |= flat(value, name) if isinstance(value, dict) else {name: value}
    return result


def _texts(values: dict[str, Any]) -> dict[str, str]:
    return {key: str(value)[:_MAX_VALUE] for key, value in values.items() if value not in (None, "")}
