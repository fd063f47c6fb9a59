"""MLflow, and nothing else: the only file that imports it (it takes seconds, so only where used).

A pipeline run is a parent run, each stage a child of it, found again by the tag `run_key`. Measurements come from the
spool of the child process; when MLflow is away the spool keeps them, the place reached is remembered in
`tracking.json`, and they are sent later. Nothing here ever stops a stage.
"""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from tasks.artifacts import MANIFEST, ArtifactRef
from tasks.home import Home
from tasks.spool import SpoolLine, SpoolReader

EXPERIMENT = "fluxline"
WHOLE_ARTIFACT_BYTES = 1 << 30
"""Artifacts up to this size are logged whole; FLUXLINE_LOG_LIMIT (bytes) says otherwise."""
BATCH = 1000
_MAX_VALUE = 500
_MAX_NOTE = 7000  # MLflow takes tags of 8000 characters
_lock = threading.Lock()


def tracking_uri(home: Home) -> str:
    """Return MLFLOW_TRACKING_URI, else the SQLite file under FLUXLINE_HOME."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home.root / 'mlflow.db'}"


def run_url(home: Home, run_id: str) -> str:
    """Return the page of a run in MLflow's interface; empty when no server is up."""
    uri = tracking_uri(home)
    if not (uri.startswith("http") and run_id):
        return ""
    experiment = experiment_id(home)
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning"


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
        place = (home.root / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
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


def adopt(home: Home, parent_id: str, run_key: str) -> str:
    """Link a stage's run and its pipeline's parent run; a reused stage stays with the parent that made it.

    Returns a link to the stage's run for the parent's description: MLflow shows a run below one parent only.
    """
    if (run := find_run(home, run_key)) is None:
        return ""
    stage = run.data.tags.get("stage", "stage")
    log_run(home, parent_id, tags={f"{stage}.mlflow_run_id": run.info.run_id, f"{stage}.run_key": run_key})
    if "mlflow.parentRunId" not in run.data.tags:  # MLflow was away when it began
        log_run(home, run.info.run_id, tags={"mlflow.parentRunId": parent_id})
    said = run.data.tags.get("mlflow.note.content", stage)
    return f"- [{said}](#/experiments/{run.info.experiment_id}/runs/{run.info.run_id})"


def describe(home: Home, run_id: str, text: str) -> None:
    """Set the description that MLflow's page of a run shows, as Markdown."""
    client(home).set_tag(run_id, "mlflow.note.content", text[:_MAX_NOTE])


def close_run(home: Home, run_id: str, status: str) -> None:
    """End a run as FINISHED, FAILED or KILLED."""
    client(home).set_terminated(run_id, status)


def log_metrics(home: Home, run_id: str, metrics: dict[str, float], step: int = 0) -> None:
    """Log a few final numbers."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    points = [Metric(name, value, now, step) for name, value in metrics.items()]
    for start in range(0, len(points), BATCH):
        client(home).log_batch(run_id, metrics=points[start : start + BATCH])


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


def runs_with_artifact(home: Home, digest: str) -> list[str]:
    """Return the ids of runs whose artifact has this digest, newest first."""
    found = client(home).search_runs(
        [experiment_id(home)],
        f"tags.artifact_digest = '{digest}'",
        max_results=5,
        order_by=["attributes.start_time DESC"],
    )
    return [run.info.run_id for run in found]


def download_files(home: Home, run_id: str, name: str, target: Path) -> Path:
    """Copy the artifact directory `name` of a run below `target`; return where it lies."""
    target.mkdir(parents=True, exist_ok=True)
    return Path(client(home).download_artifacts(run_id, name, str(target)))


class MetricsTail:
    """Sends a spool to MLflow in batches from its own thread; what cannot be sent is sent later.

    A resumed child repeats steps bit for bit, so a point at or before the last one sent is not sent again.

    Args:
        home: where tracking happens.
        spool: the child's metrics.jsonl.
        state: file that remembers the place reached, for after a crash.
        open_run: returns the MLflow run's id; called until it succeeds.
        say: told in one line when MLflow goes away and when it is back.
    """

    RETRY_SECONDS = 15.0

    def __init__(
        self, home: Home, spool: Path, state: Path, open_run: Callable[[], str], say: Callable[[str], None]
    ):
        self.home, self.state, self.say, self._open = home, state, say, open_run
        remembered = _read_json(state)
        self.reader = SpoolReader(spool, int(remembered.get("offset", 0)))
        self.last: dict[str, int] = dict(remembered.get("last", {}))
        self.run_id = ""
        self.is_away = False
        self._done = threading.Event()
        self._opening = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="metrics-tail", daemon=True)

    def __enter__(self) -> "MetricsTail":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.pump()

    def require(self) -> str:
        """Return the MLflow run's id, opened if need be; raises what MLflow raises."""
        with self._opening:  # the stage's thread and ours may both ask, and two runs must not be made
            if not self.run_id:
                self.run_id = self._open()
            return self.run_id

    def close(self, status: str) -> None:
        """End the run, if it was opened. Never raises: a run left open is re-opened by its key."""
        with contextlib.suppress(Exception):
            if self.run_id:
                close_run(self.home, self.run_id, status)

    def pump(self) -> bool:
        """Send what is new; return whether MLflow took it all. Never raises."""
        offset, last = self.reader.offset, dict(self.last)
        try:
            self.require()
            self._send(self.reader.read())
            _write_json(self.state, {"run_id": self.run_id, "offset": self.reader.offset, "last": self.last})
        except Exception as error:  # whatever MLflow or the network raises: the spool keeps the points
            self.reader.offset, self.last = offset, last
            if not self.is_away:
                self.is_away = True
                self.say(
                    f"MLflow is away ({type(error).__name__}); points stay in the spool and are sent later."
                )
            return False
        if self.is_away:
            self.is_away = False
            self.say("MLflow is back; the points of the meantime were sent.")
        return True

    def _work(self) -> None:
        wait = 0.0
        while not self._done.wait(wait):
            wait = 2.0 if self.pump() else self.RETRY_SECONDS

    def _send(self, lines: Iterable[SpoolLine]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = []
        for line in lines:
            for name, value in line.metrics.items():
                if line.step > self.last.get(name, -1):
                    self.last[name] = line.step
                    points.append(Metric(name, value, now, line.step))
        for start in range(0, len(points), BATCH):
            client(self.home).log_batch(self.run_id, metrics=points[start : start + BATCH])


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level, keys joined by dots."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        result |= flat(value, name) if isinstance(value, dict) else {name: value}
    return result


def _texts(values: dict[str, Any]) -> dict[str, str]:
    return {key: str(value)[:_MAX_VALUE] for key, value in values.items() if value not in (None, "")}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value))
    os.replace(partial, path)
