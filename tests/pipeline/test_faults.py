"""The fault table: what dies at a random moment of a served run, and that the run ends as if nobody had disturbed it.

One `fluxline up` for all rows. Each row makes home and MLflow forget one training stage, presses Run, and strikes.
"""

import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest

from tasks.spool import SpoolReader
from tests.kit import wait_until
from tests.served_home import CHILDREN, PATIENCE, ServedHome, spooled

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # MLflow, SQLAlchemy and Prefect warn of their own deprecations
]

REMADE = ("train", "finetune", "rectify")
LOCKED_SECONDS = 8.0
LONGEST_UNKNOWN = 180.0
ENGINE, RUNNER = "prefect.engine", "deployments.serve"
PREFECT, MLFLOW = ("prefect.server.api.server",), ("-m mlflow server", "mlflow.server")


@dataclass(frozen=True)
class Row:
    """What is done to a served home while a run works."""

    name: str
    strike: Callable[[ServedHome], object]


@pytest.fixture(scope="module")
def served(finished, tmp_path_factory) -> Iterator[ServedHome]:
    """A copy of the finished run's home, served until the last row."""
    place = tmp_path_factory.mktemp("served") / "home"
    shutil.copytree(finished[0].home, place)
    home = ServedHome(place)
    home.start()
    try:
        yield home
        home.stop()
    finally:
        home.kill_everything()


def kill_child(home: ServedHome) -> None:
    wait_until(lambda: home.kill(*CHILDREN), "a child to kill", seconds=PATIENCE)


def lock_databases(home: ServedHome) -> None:
    """Hold the whole of both databases, as a careless backup or a hung viewer does."""
    with closing(sqlite3.connect(home.home / "prefect" / "prefect.db", timeout=60)) as one:
        one.execute("begin exclusive")
        with closing(sqlite3.connect(home.home / "mlflow.db", timeout=60)) as other:
            other.execute("begin exclusive")
            time.sleep(LOCKED_SECONDS)


def lose_power(home: ServedHome) -> None:
    """Kill all there is, and come back: what was lost goes on by itself."""
    home.kill_everything()
    assert (home.home / "servers.json").exists()  # nobody was there to remove it
    wait_until(
        lambda: home.held() == [], "no lock is held by the dead", 10
    )  # they let go a moment after they vanish
    home.start()


ROWS = [
    Row("child", kill_child),
    Row("flow", lambda home: home.kill(ENGINE)),
    Row("runner", lambda home: home.kill(RUNNER)),
    Row("prefect", lambda home: home.kill(*PREFECT)),
    Row("mlflow", lambda home: home.kill(*MLFLOW)),
    Row("databases", lock_databases),
    Row("everything", lose_power),
]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_whatever_dies_the_run_ends_as_if_undisturbed(row, served, finished):
    chance = random.Random(row.name)  # by a text: the same in every process
    name, moment = chance.choice(REMADE), chance.uniform(0.0, 6.0)
    print(f"{row.name}: {moment:.2f} s after {name} begins")
    stages = finished[1]
    served.forget(stages[name])
    run = served.press_run(preset="smoke")
    wait_until((served.work(stages[name]) / "job.json").exists, f"{name} to begin", seconds=PATIENCE)
    time.sleep(moment)  # the random moment; nothing is hoped of it
    row.strike(served)
    struck = time.monotonic()
    assert served.end_of(run) == "COMPLETED"
    print(f"{row.name}: done {time.monotonic() - struck:.1f} s after the strike")
    as_if_undisturbed(served, stages, name)


def test_cancelled_it_saves_a_checkpoint_and_run_again_it_goes_on(served, finished):
    stages = finished[1]
    served.forget(stages["train"])
    run = served.press_run(preset="smoke")
    checkpoints = served.work(stages["train"]) / "output" / "checkpoints"
    wait_until(lambda: list(checkpoints.glob("*")), "a first checkpoint", seconds=PATIENCE)
    before = served.runs_of(f"tags.run_key = '{stages['train']['run_key']}'")
    served.press_cancel(run)
    began = time.monotonic()
    wait_until(
        lambda: served.state(run)[0] not in ("RUNNING", "CANCELLING"),
        "the end of the cancelled run",
        seconds=PATIENCE,
    )
    print(f"cancelled after {time.monotonic() - began:.1f} s")
    assert served.state(run)[0] == "CANCELLED"
    wait_until(lambda: not served.members(ENGINE, *CHILDREN), "the end of its processes", 60)
    assert served.held() == []
    assert list(checkpoints.glob("*"))
    (stopped,) = served.runs_of(f"tags.`prefect.flow_run_id` = '{run}' and tags.stage = 'pipeline'")
    assert stopped["info"]["status"] == "KILLED"
    assert served.runs_of("attributes.status = 'RUNNING'") == []
    again = served.press_run(preset="smoke")
    assert served.end_of(again) == "COMPLETED"
    as_if_undisturbed(served, stages, "train")
    after = served.runs_of(f"tags.run_key = '{stages['train']['run_key']}'")
    assert [each["info"]["run_id"] for each in after] == [each["info"]["run_id"] for each in before]
    (parent,) = served.runs_of(f"tags.`prefect.flow_run_id` = '{again}' and tags.stage = 'pipeline'")
    assert parent["info"]["run_id"] == stopped["info"]["run_id"]
    assert parent["info"]["status"] == "FINISHED"


def test_two_at_once_do_the_work_once_and_a_third_that_asks_for_more_its_own(served, finished):
    stages = finished[1]
    served.forget(stages["train"])
    command = type(finished[0])(served.home, {})
    run = served.press_run(preset="smoke")
    others: list[tuple[Any, list[str]]] = []
    wait_until((served.work(stages["train"]) / "job.json").exists, "train to begin", seconds=PATIENCE)
    for asked in ([], ["--num-images", "32"]):
        others.append((command.start("run", "--preset", "smoke", "--json", *asked), asked))
    ends = [(process.communicate(timeout=600), process.returncode) for process, _ in others]
    assert [code for _, code in ends] == [0, 0], ends
    assert served.end_of(run) == "COMPLETED"
    as_if_undisturbed(served, stages, "train")
    lines = SpoolReader(served.work(stages["train"]) / "output" / "metrics.jsonl").read()
    assert len({line.step for line in lines}) == len(lines)  # no child repeated another's steps
    runs = served.runs_of("tags.stage = 'pipeline'")
    assert {each["info"]["status"] for each in runs} == {"FINISHED"}


def as_if_undisturbed(served: ServedHome, stages: dict[str, dict[str, Any]], remade: str) -> None:
    """Digests, processes, locks, states and points are those of a run that nobody disturbed."""
    assert served.digests(stages) == {name: stage["digest"] for name, stage in stages.items()}
    wait_until(lambda: not served.members(ENGINE, *CHILDREN), "the end of its processes", LONGEST_UNKNOWN)
    wait_until(lambda: not served.unfinished(), "no run that is said to work", LONGEST_UNKNOWN)
    assert served.held() == []
    assert not list((served.home / "owed").glob("*"))
    (run,) = served.runs_of(f"tags.run_key = '{stages[remade]['run_key']}'")
    assert run["info"]["status"] == "FINISHED"
    expected: dict[str, dict[int, float]] = {}
    for name, step, value in spooled(served.work(stages[remade]) / "output" / "metrics.jsonl"):
        expected.setdefault(name, {})[step] = value
    assert "loss" in expected
    for name, points in expected.items():
        found = served.points(run["info"]["run_id"], name)
        assert sorted(step for step, _ in found.elements()) == sorted(points), name
        assert dict(found.keys()) == pytest.approx(points, rel=1e-6), name


def test_children_take_no_longer_to_stop_than_prefect_waits():
    import inspect

    from prefect.runner._process_manager import ProcessManager

    from tasks.launch import GRACE_SECONDS

    waits = inspect.signature(ProcessManager.kill).parameters["grace_seconds"].default
    assert waits - GRACE_SECONDS >= 10, "what follows a child's end needs its time, too"
