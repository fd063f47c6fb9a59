"""The parent of a pipeline run in MLflow, and the run's beginning and end: stop handling, old debts, summary."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fluxmodel.errors import InterruptedRun
from tasks import owed, tracking
from tasks.claims import abandoned, claim
from tasks.dataset_input import dataset_input
from tasks.headline import curve_points, headline_metrics, headline_settings
from tasks.home import Home, open_home
from tasks.http_call import without_login
from tasks.in_use import in_use
from tasks.launch import STOP
from tasks.links import wait_until_sent
from tasks.pictures import SAMPLES, step_pictures, training_pictures
from tasks.presence import RUN, present, this_flow_run
from tasks.progress import board
from tasks.run_key import RunBook, RunRecord
from tasks.stage_run import RunContext

STAGES_FILE = "stages.json"
_PARENT_CURVES = ("rectified", "base_guided")
"""Of the curves that were drawn the first named is the parent's; all of them stand on the evaluation's run."""
_CLOSE_AGAIN = (5.0, 10.0, 20.0)
"""Seconds between attempts to log a finished run's summary."""
_PARENT_NUMBERS = ("attr_acc", "all_correct", "retrieval", "fd")


@dataclass(frozen=True)
class Summary:
    """What a finished run came to, for its page in MLflow.

    Attributes:
        evaluation: directory of the evaluation.
        run_keys: of all stages, in reading order.
        model: registered model.
        version: of it.
        said: a few lines: verdict with its first reason, then the closing figures.
        report: the run's page.
    """

    evaluation: Path
    run_keys: list[str]
    model: str
    version: str
    said: list[str]
    report: Path | None = None


@dataclass
class PipelineRun:
    """One run of the pipeline, as MLflow knows it.

    Attributes:
        home: the state of the project.
        key: tag `run_key` of the parent run; the same again after a crash, a new one after a finish.
        config: parameters of the run.
        tags: Prefect's ids and page.
        mlflow_run_id: empty while MLflow is away.
        is_closed: whether MLflow was told what it came to.
    """

    home: Home
    key: str
    config: dict[str, Any]
    tags: dict[str, str]
    mlflow_run_id: str = ""
    started: float = field(default_factory=time.monotonic)
    is_closed: bool = False

    @property
    def context(self) -> RunContext:
        """What stages are told about the run."""
        return RunContext(home=str(self.home.root), pipeline_key=self.key)

    @property
    def name(self) -> str:
        """What it makes, in a few words."""
        model = self.config.get("name") or f"fluxline-{self.config['preset']}"
        return f"{model}, seed {self.config['seed']}"

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
            self.mlflow_run_id = tracking.open_run(self.home, self.key, self.name, tags)
            given = {  # nested settings are those of a stage, whose run has them
                name: value
                for name, value in self.config.items()
                if name == "seed" or (value not in ("", 0, "auto") and not isinstance(value, dict))
            }
            tracking.log_run(self.home, self.mlflow_run_id, params=given)
        except Exception as error:  # whatever MLflow or the network raises
            logging.getLogger("fluxline").info("MLflow is away", exc_info=error)

    def close(self, status: str, summary: Summary | None = None) -> bool:
        """Log what the run came to, where it finished, and end the parent run; return whether MLflow took it.

        A finished run waits for an MLflow that is away: `fluxline up` starts a dead server again. Never raises.
        """
        for seconds in (*(_CLOSE_AGAIN if summary is not None else ()), 0.0):
            try:
                if not self.mlflow_run_id:
                    self.open()
                if summary is not None:
                    self._log(summary)
                tracking.close_run(self.home, self.mlflow_run_id, status)
                self.is_closed = True
                return True
            except Exception as error:
                logging.getLogger("fluxline").info("MLflow is away", exc_info=error)
                if STOP.wait(seconds):
                    break
        board().say("MLflow did not take the run's summary; each stage is logged as soon as it is back.")
        return False

    def _log(self, summary: Summary) -> None:
        """Log the headline, so that runs compare in MLflow's own tables and charts, and the way to everything else."""
        home, run_id = self.home, self.mlflow_run_id
        records = [record for key in summary.run_keys if (record := RunBook(home).read(key)) is not None]
        settings = headline_settings(records)
        settings.pop("train.seed", None)  # the run's own
        tracking.log_run(home, run_id, params=settings)
        tracking.log_metrics(home, run_id, headline_metrics(summary.evaluation))
        points = curve_points(summary.evaluation, _PARENT_NUMBERS)
        curve = next(
            (name for name in _PARENT_CURVES if any(p.name.startswith(f"{name}/") for p in points)), ""
        )
        tracking.log_points(home, run_id, [p for p in points if p.name.startswith(f"{curve}/")])
        if dataset := dataset_input(home, "pipeline", [record.artifact.digest for record in records]):
            tracking.log_dataset(home, run_id, dataset)
        adopted = [tracking.adopt(home, run_id, key, summary.version) for key in summary.run_keys]
        images = self._log_images(summary, records)
        self._describe(summary, [each for each in adopted if each is not None], images)

    def _log_images(self, summary: Summary, records: list[RunRecord]) -> str:
        """Gather the sliders of the whole run in a run of their own, and return its id.

        MLflow writes a run's parameters above each of its images: this run has none, so the images have the room. It is
        no child of the pipeline's: a table folds children away, whatever it is filtered by.
        """
        home, key = self.home, f"{self.key}-images"
        known = tracking.find_run(home, key)
        if known is not None:
            return known.info.run_id
        pictures = step_pictures(summary.evaluation, _PARENT_CURVES)
        for record in records:
            samples = home.work(record.run_key) / "output" / SAMPLES
            pictures += training_pictures(samples, record.identity.stage)
        name, tags = f"{summary.model} v{summary.version} images", {"stage": "images", "model": summary.model}
        run_id = tracking.open_run(home, key, name, tags | {"model_version": summary.version})
        tracking.log_pictures(home, run_id, pictures)
        tracking.close_run(home, run_id, "FINISHED")
        return run_id

    def _describe(self, summary: Summary, stages: list[tracking.Adopted], images: str) -> None:
        home, run_id = self.home, self.mlflow_run_id
        model, version = summary.model, summary.version
        page = f"#/models/{quote(model)}/versions/{version}"
        sliders = f"#/experiments/{tracking.experiment_id(home)}/runs/{images}/model-metrics"
        first = f"**[{model} version {version}]({page})**, [its images]({sliders})"
        lines = [first, "", *summary.said, "", "Stages:", "", *(stage.link for stage in stages)]
        tracking.describe(home, run_id, "\n".join(lines))
        tracking.rename(home, run_id, f"{model} v{version}")
        tracking.log_run(home, run_id, tags={"model": model, "model_version": version})
        table = {s.stage: {"mlflow_run_id": s.run_id, "run_key": s.run_key} for s in stages}
        tracking.client(home).log_dict(run_id, table, STAGES_FILE)
        if summary.report is not None and summary.report.is_file():
            tracking.client(home).log_artifact(run_id, str(summary.report))


@contextmanager
def pipeline_run(config: dict[str, Any], data_fingerprint: str) -> Iterator[PipelineRun]:
    """Open a pipeline run; however it ends, its children have ended and MLflow knows.

    An exception sets the stop of all children: they save checkpoints and leave, so nothing is lost.
    """
    STOP.clear()
    home = open_home().make()
    with claim(home, _digest(config, data_fingerprint)) as held:
        run = PipelineRun(home, held.key, config, _prefect_tags())
        seen = present(home, run.name, RUN, pipeline_key=run.key, prefect=this_flow_run())
        try:
            with seen, in_use(home):
                close_abandoned(home)
                run.open()
                yield run
        except BaseException as error:
            STOP.set()
            is_stop = isinstance(error, InterruptedRun) or not isinstance(error, Exception)
            held.note(is_open=not run.close("KILLED" if is_stop else "FAILED"))
            raise
        finally:
            wait_until_sent()
        if run.is_closed:
            held.give_up()
        else:
            held.note(is_open=True, status="FINISHED")  # whoever comes next tells MLflow
    if run.mlflow_run_id:
        owed.settle(home, board().say)


def close_abandoned(home: Home) -> list[str]:
    """End the MLflow runs of pipelines that died, which nobody else will; return their ids. Never raises.

    A next run of the same configuration opens them again.
    """
    ended: list[str] = []
    try:
        for held in abandoned(home):
            if run := tracking.find_run(home, held.key):
                begun = dict.fromkeys(_running_children(home, run.info.run_id), "FAILED")
                if run.info.status == "RUNNING":
                    begun[run.info.run_id] = held.status
                for run_id, status in begun.items():
                    tracking.close_run(home, run_id, status)
                    ended.append(run_id)
            if held.status == "FINISHED":
                held.give_up()
            else:
                held.note(is_open=False)
    except (
        Exception
    ) as error:  # whatever MLflow or the network raises: the next run, or `fluxline up`, tries again
        logging.getLogger("fluxline").info("MLflow is away", exc_info=error)
    return ended


def _running_children(home: Home, run_id: str) -> list[str]:
    asked = f"tags.`mlflow.parentRunId` = '{run_id}' and attributes.status = 'RUNNING'"
    found = tracking.client(home).search_runs([tracking.experiment_id(home)], asked)
    return [run.info.run_id for run in found]


def _digest(config: dict[str, Any], data_fingerprint: str) -> str:
    text = json.dumps([config, data_fingerprint], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _prefect_tags() -> dict[str, str]:
    from prefect.runtime import flow_run

    if not flow_run.id:
        return {}
    address = without_login(os.environ.get("PREFECT_API_URL", "").removesuffix("/api"))
    page = f"{address}/runs/flow-run/{flow_run.id}" if address else ""
    return {"prefect.flow_run_id": flow_run.id, "prefect.flow_run_url": page}
