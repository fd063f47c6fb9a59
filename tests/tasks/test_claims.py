import json
import subprocess
import sys

import pytest

from tasks import parent_run, tracking
from tasks.claims import abandoned, claim
from tasks.home import Home
from tests.kit import ROOT

DIE = (
    "import os, signal, sys\n"
    "from pathlib import Path\n"
    "from tasks.claims import claim\n"
    "from tasks.home import Home\n"
    "with claim(Home(Path(sys.argv[1])), 'same') as held:\n"
    "    print(held.key, flush=True)\n"
    "    os.kill(os.getpid(), signal.SIGKILL)\n"
)


def die(home: Home) -> str:
    """Let a process claim a key and be killed; return the key."""
    dead = subprocess.run(
        [sys.executable, "-c", DIE, str(home.root)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert dead.returncode == -9, dead.stderr
    return dead.stdout.strip()


def test_a_killed_run_leaves_its_key_to_the_next_and_a_finished_one_does_not(home):
    key = die(home)
    with claim(home, "same") as held:
        assert held.key == key
    with claim(home, "same") as held:
        assert held.key == key  # it was stopped, too
        held.give_up()
    with claim(home, "same") as held:
        assert held.key != key


def test_two_at_once_have_a_key_each_and_both_are_taken_up_again(home):
    with claim(home, "same") as one, claim(home, "same") as other, claim(home, "another") as third:
        keys = [one.key, other.key]
        assert len({one.key, other.key, third.key}) == 3
    with claim(home, "same") as one, claim(home, "same") as other:
        assert [one.key, other.key] == keys
        one.give_up()
        with claim(home, "same") as fresh:  # the freed name, not the removed file
            assert fresh.key not in keys
            assert json.loads(fresh.path.read_text())["is_open"] is True


def test_only_what_died_and_was_never_closed_is_abandoned(home):
    key = die(home)
    with claim(home, "another") as stopped:
        stopped.note(is_open=False)
    with claim(home, "a third"):
        found = [each.key for each in abandoned(home)]
    assert found == [key]
    for each in abandoned(home):
        each.note(is_open=False)
    with claim(home, "a third") as alive:
        assert [each.key for each in abandoned(home) if each.key != alive.key] == []


@pytest.mark.filterwarnings("ignore")  # MLflow and SQLAlchemy warn of their own deprecations
def test_what_a_killed_pipeline_left_open_in_mlflow_is_closed_once_and_opened_again_by_its_key(tracked):
    key = die(tracked)
    parent = tracking.open_run(tracked, key, "pipeline", {"stage": "pipeline"})
    child = tracking.open_run(tracked, "a stage", "train", {}, key)
    done = tracking.open_run(tracked, "another stage", "encode", {}, key)
    tracking.close_run(tracked, done, "FINISHED")
    assert sorted(parent_run.close_abandoned(tracked)) == sorted([parent, child])
    assert parent_run.close_abandoned(tracked) == []
    status = {run: tracking.client(tracked).get_run(run).info.status for run in (parent, child, done)}
    assert status == {parent: "FAILED", child: "FAILED", done: "FINISHED"}
    assert tracking.open_run(tracked, key, "pipeline", {}) == parent


def test_a_run_that_finished_while_mlflow_was_away_is_finished_by_whoever_comes_next(tracked, monkeypatch):
    config = {"preset": "smoke", "seed": 0}
    with monkeypatch.context() as away:
        away.setattr(tracking, "close_run", lambda *_: (_ for _ in ()).throw(ConnectionError()))
        with parent_run.pipeline_run(config, "data") as run:
            assert not run.close("FINISHED")
    assert parent_run.close_abandoned(tracked) == [run.mlflow_run_id]
    assert tracking.client(tracked).get_run(run.mlflow_run_id).info.status == "FINISHED"
    assert parent_run.close_abandoned(tracked) == []
    with parent_run.pipeline_run(config, "data") as another:
        another.close("FINISHED")
    assert another.key != run.key
