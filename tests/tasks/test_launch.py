import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from fluxmodel.errors import InputError, InterruptedRun, StageError
from tasks.launch import STOP, child_environment, run_child

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
    assert _wait_for(lambda: not _runs(orphan))


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
    _wait_for((tmp_path / "output" / "checkpoint.json").exists)
    child = psutil.Process(parent.pid).children()[0]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert _wait_for(lambda: not _runs(child.pid))


def test_children_are_quiet_and_have_their_threads():
    environment = child_environment(3)
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["PYTHONWARNINGS"] == "ignore"


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait_for(condition, seconds: float = 15.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    pytest.fail("it did not come to pass")
