"""The parent of a pipeline run in MLflow, and the run's beginning and end: stop handling, old debts, summary."""

import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fluxmodel.errors import InterruptedRun
from tasks import owed, tracking
from tasks.home import Home, open_home
from tasks.launch import STOP
from tasks.progress import board
from tasks.stage_run import RunContext


@dataclass
class PipelineRun:
    """One run of the pipeline, as MLflow knows it.

    Attributes:
        home: the state of the project.
        key: tag `run_key` of the parent run; the same again after a crash, a new one after a finish.
        config: parameters of the run.
        tags: Prefect's ids and page.
        mlflow_run_id: empty while MLflow is away.
    """

    home: Home
    key: str
    config: dict[str, Any]
    tags: dict[str, str]
    mlflow_run_id: str = ""
    started: float = field(default_factory=time.monotonic)

    @property
    def context(self) -> RunContext:
        """What stages are told about the run."""
        return RunContext(home=str(self.home.root), pipeline_key=self.key)

    @property
    def mlflow_url(self) -> str:
        """Page of the parent run; empty when no MLflow server is up."""
        try:
            return tracking.run_url(self.home, self.mlflow_run_id)
        except Exception:  # a server that went away has no pages
            return ""

    def open(self) -> None:
        """Open or re-open the parent run; while MLflow is away, leave that for later."""
        try:
            tags = {"stage": "pipeline", **self.tags}
            self.mlflow_run_id = tracking.open_run(self.home, self.key, self.config["preset"], tags)
            tracking.log_run(self.home, self.mlflow_run_id, params=self.config)
        except Exception as error:  # whatever MLflow or the network raises
            logging.getLogger("fluxline").info("MLflow is away", exc_info=error)

    def close(
        self, status: str, metrics: dict[str, float], run_keys: list[str], report: Path | None = None
    ) -> None:
        """Log the summary and end the parent run. Never raises."""
        try:
            if not self.mlflow_run_id:
                self.open()
            links = [tracking.adopt(self.home, self.mlflow_run_id, run_key) for run_key in run_keys]
            tracking.describe(self.home, self.mlflow_run_id, "\n".join(filter(None, ["Stages:", *links])))
            tracking.log_metrics(self.home, self.mlflow_run_id, metrics)
            if report is not None and report.is_file():
                tracking.client(self.home).log_artifact(self.mlflow_run_id, str(report))
            tracking.close_run(self.home, self.mlflow_run_id, status)
        except Exception as error:
            logging.getLogger("fluxline").info("MLflow is away", exc_info=error)
            board().say("MLflow did not take the run's summary; each stage is logged as soon as it is back.")


@contextmanager
def pipeline_run(config: dict[str, Any], data_fingerprint: str) -> Iterator[PipelineRun]:
    """Open a pipeline run; however it ends, its children have ended and MLflow knows.

    An exception sets the stop of all children: they save checkpoints and leave, so nothing is lost.
    """
    STOP.clear()
    home = open_home().make()
    place = home.root / "pipelines" / f"{_digest(config, data_fingerprint)}.json"
    run = PipelineRun(home, _unfinished(place) or uuid.uuid4().hex, config, _prefect_tags())
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps({"key": run.key}))
    run.open()
    try:
        yield run
    except BaseException as error:
        STOP.set()
        is_stop = isinstance(error, InterruptedRun) or not isinstance(error, Exception)
        run.close("KILLED" if is_stop else "FAILED", {}, [])
        raise
    place.unlink(missing_ok=True)
    if run.mlflow_run_id:
        owed.settle(home, board().say)


def _digest(config: dict[str, Any], data_fingerprint: str) -> str:
    text = json.dumps([config, data_fingerprint], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _unfinished(place: Path) -> str:
    try:
        return json.loads(place.read_text())["key"]
    except (OSError, ValueError, KeyError):
        return ""


def _prefect_tags() -> dict[str, str]:
    from prefect.runtime import flow_run

    if not flow_run.id:
        return {}
    address = os.environ.get("PREFECT_API_URL", "").removesuffix("/api")
    page = f"{address}/runs/flow-run/{flow_run.id}" if address else ""
    return {"prefect.flow_run_id": flow_run.id, "prefect.flow_run_url": page}
