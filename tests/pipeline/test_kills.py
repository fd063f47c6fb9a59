"""`kill -9` in each stage of one run: the same command goes on, and ends as a run that nobody disturbed."""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tasks import tracking
from tasks.home import Home
from tests.kit import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # MLflow, SQLAlchemy and Prefect warn of their own deprecations
]

TRAINED = [
    *(
        f"prepare-{part}"
        for part in ("autoencoder", "detector", "dual_encoder", "captioner", "style_classifier")
    ),
    *("train", "rectify", "finetune"),
]
WHAT = {"model_versions": "true", "registered_model_aliases": "alias = 'champion'"}
CALLED = ("curate", "caption", "encode", "evaluate")


@dataclass(frozen=True)
class Moment:
    """When to kill: once `began` holds, and before the stage's artifact is at `end`."""

    began: Callable[[], object]
    end: Path

    def is_now(self) -> bool:
        return bool(self.began()) and not self.end.exists()


def test_killed_once_in_every_stage_the_run_ends_as_if_undisturbed(finished, tmp_path, kill_tree):
    """Kill a fresh run whenever it first comes to one of the moments, until it ends by itself.

    Training stages die after their first checkpoint, the others after their first report. Gate and register take
    less than a second: gate dies when it has begun, register when the version is made, and again with the crown.
    """
    undisturbed = finished[1]
    command = type(finished[0])(tmp_path / "home", finished[0].environment)
    remaining, lives = moments(command, undisturbed), []
    while (process := run_until(command, remaining)).poll() is None:
        lives.append([name for name, moment in remaining.items() if moment.is_now()])
        kill_tree(process)
        remaining = {name: moment for name, moment in remaining.items() if name not in lives[-1]}
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert not remaining, lives
    stages = {stage["name"]: stage for stage in json.loads(out.splitlines()[-1])["stages"]}
    assert list(stages) == list(undisturbed)
    digests = {name: stage["digest"] for name, stage in stages.items()}
    assert digests == {name: stage["digest"] for name, stage in undisturbed.items()}
    each_stage_has_one_run_in_mlflow(command.home, stages)
    again, _, _ = command.pipeline()
    assert all(stage["reused"] for stage in again.values())


def run_until(command, remaining: dict[str, Moment]):
    """Start the run; return its process when it has ended or one of the moments has come."""
    process = command.start("run", "--preset", "smoke", "--json")
    wait_until(
        lambda: process.poll() is not None or any(moment.is_now() for moment in remaining.values()),
        seconds=300,
    )
    return process


def moments(command, undisturbed: dict[str, dict]) -> dict[str, Moment]:
    """Run keys do not depend on the home, so it is known beforehand where each stage will work.

    But for evaluate's artifact and what follows from it: it holds times, so its digest is another each time.
    """
    artifacts, work = command.home / "artifacts", {n: command.work(s) for n, s in undisturbed.items()}
    ends = {name: command.artifact(undisturbed[name]) for name in [*TRAINED, *CALLED]}
    ends["evaluate"] = artifacts / "evaluation"
    found = {name: Moment(partial(has_saved, work[name]), ends[name]) for name in TRAINED}
    found |= {name: Moment(partial(has_reported, work[name]), ends[name]) for name in CALLED}
    pairs = work["rectify"] / "pairs"
    found["rectify: pairs"] = Moment(partial(has_reported, pairs), pairs / "finished")
    begun = command.home / "runs" / "stages" / "gate.jsonl"
    found["gate"] = Moment(begun.exists, artifacts / "decision")
    for name, table in (("made", "model_versions"), ("crowned", "registered_model_aliases")):
        found[f"register: {name}"] = Moment(partial(rows, command.home, table), artifacts / "registration")
    return found


def has_saved(work: Path) -> bool:
    return any((work / "output" / "checkpoints").glob("*"))


def has_reported(work: Path) -> bool:
    spool = work / "output" / "metrics.jsonl"
    return spool.exists() and spool.stat().st_size > 0


def rows(home: Path, table: str) -> list[tuple]:
    try:
        store = sqlite3.connect(f"file:{home / 'mlflow.db'}?mode=ro", uri=True, timeout=0.1)
        try:
            return store.execute(f"select * from {table} where {WHAT[table]}").fetchall()
        finally:
            store.close()
    except sqlite3.OperationalError:  # not made yet, or being written
        return []


def each_stage_has_one_run_in_mlflow(home: Path, stages: dict[str, dict]) -> None:
    mlflow, experiment = tracking.client(Home(home)), tracking.experiment_id(Home(home))
    for name, stage in stages.items():
        found = mlflow.search_runs([experiment], f"tags.run_key = '{stage['run_key']}'")
        assert [run.info.status for run in found] == ["FINISHED"], name
        assert found[0].data.tags["artifact_digest"] == stage["digest"]
        points = mlflow.get_metric_history(found[0].info.run_id, "loss")
        assert len({point.step for point in points}) == len(points), name
        assert bool(points) == (name in TRAINED), name
    runs = mlflow.search_runs([experiment], "tags.stage = 'pipeline'")
    assert [run.info.status for run in runs] == ["FINISHED"]
