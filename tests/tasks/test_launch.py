import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from fluxmodel.errors import InputError, InterruptedRun, StageError
from tasks.launch import STOP, child_environment, end_group, run_child, start_child, stop_group
from tests.kit import wait_until

ROOT = Path(__file__).parents[2]


def job(work: Path, **changes) -> dict:
    return {"output": str(work / "output"), "steps": 5, **changes}


def launch(work: Path, **changes) -> Path:
    options = {
        name: changes.pop(name)
        for name in ("progress", "stall_seconds", "timeout_seconds")
        if name in changes
    }
    return run_child("fake_child", job(work, **changes), work, **options)


def test_child_leaves_its_result_and_reports_progress(tmp_path):
    heard = []
    final = launch(tmp_path, progress=lambda *said: heard.append(said), seconds_per_step=0.05)
    assert (final / "weights.json").read_text() == "55"
    assert heard[-1] == (5, 5, "")


def test_bad_input_is_the_childs_own_sentence(tmp_path):
    with pytest.raises(InputError, match=r"^the field `colour` is 'mauve'; choose red or blue\.$"):
        launch(tmp_path, fail=2)


def test_failure_quotes_the_end_of_the_log(tmp_path):
    with pytest.raises(
        StageError, match=r"exit code 3; its log is .*log\.txt(?s:.*)loading the data(?s:.*)mauve"
    ):
        launch(tmp_path, fail=3)


@pytest.mark.parametrize("limit", [{"stall_seconds": 0.5}, {"timeout_seconds": 0.5}])
def test_child_that_hangs_is_stopped(tmp_path, monkeypatch, limit):
    monkeypatch.setattr("tasks.launch.GRACE_SECONDS", 1.0)
    with pytest.raises(StageError, match="too long"):
        launch(tmp_path, hang=True, **limit)


def test_what_a_child_leaves_behind_is_ended(tmp_path):
    launch(tmp_path, orphan=True)
    orphan = int((tmp_path / "output" / "orphan").read_text())
    assert wait_until(lambda: not _runs(orphan), seconds=15)


def test_stop_saves_a_checkpoint_and_the_next_run_ends_the_same(tmp_path):
    threading.Timer(0.6, STOP.set).start()
    with pytest.raises(InterruptedRun, match="the same command goes on"):
        launch(tmp_path, steps=50, seconds_per_step=0.05)
    STOP.clear()
    reached = json.loads((tmp_path / "output" / "checkpoint.json").read_text())["step"]
    assert 0 < reached < 50
    final = launch(tmp_path, steps=50)
    assert (final / "weights.json").read_text() == str(sum(n**2 for n in range(51)))


def test_child_dies_with_a_killed_parent(tmp_path):
    code = (
        "from pathlib import Path; from tasks.launch import run_child;"
        f"run_child('fake_child', {job(tmp_path, steps=10_000, seconds_per_step=0.05)!r}, Path({str(tmp_path)!r}))"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    wait_until((tmp_path / "output" / "checkpoint.json").exists, seconds=15)
    child = psutil.Process(parent.pid).children()[0]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert wait_until(lambda: not _runs(child.pid), seconds=15)


def test_children_are_quiet_and_have_their_threads():
    environment = child_environment(3)
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["PYTHONWARNINGS"] == "ignore"


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_training_child_that_hangs_does_not_outlive_its_parent_for_long():
    read_end, write_end = os.pipe()
    code = "from fluxmodel.training.__main__ import end_orphan; import time; end_orphan(0.1); time.sleep(600)"
    hung = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"FLUXLINE_PARENT_PIPE": str(read_end)},
        pass_fds=(read_end,),
    )
    os.close(read_end)
    os.close(write_end)
    assert hung.wait(60) == 75


@pytest.mark.parametrize("said", ["soon", "-1", "1e9"])
def test_a_time_to_stop_that_is_none_is_refused(said, tmp_path, monkeypatch):
    monkeypatch.setenv("FLUXLINE_STOP_SECONDS", said)
    with pytest.raises(InputError, match=rf"^FLUXLINE_STOP_SECONDS is '{said}'; give a number of seconds"):
        launch(tmp_path)


def test_a_child_that_will_not_stop_is_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("FLUXLINE_STOP_SECONDS", "0.3")
    threading.Timer(0.5, STOP.set).start()
    with pytest.raises(InterruptedRun):
        launch(tmp_path, hang=True)


def test_what_a_dead_leader_left_behind_is_ended(tmp_path):
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    leader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert leader.stdout is not None
    orphan = int(leader.stdout.readline())
    leader.wait()
    leader.stdout.close()
    assert _runs(orphan)
    end_group(leader, grace=5.0)
    assert wait_until(lambda: not _runs(orphan), seconds=15)


def test_a_child_holds_the_locks_it_is_given_until_it_ends(tmp_path):
    path = tmp_path / "lock"
    with path.open("w") as ours, (tmp_path / "log").open("wb") as sink:
        fcntl.flock(ours, fcntl.LOCK_EX)
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        process, pipe = start_child(command, sink, threads=1, keep=(ours.fileno(),))
    with path.open("w") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stop_group(process, grace=0.0)
        os.close(pipe)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
