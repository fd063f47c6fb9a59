import subprocess
import sys
import threading
import time

import pytest

from fluxmodel.errors import ArtifactError, InputError, InterruptedRun, StageError
from tasks import resources
from tasks.resources import RESOURCES, Resources, slots, worth_retrying


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(resources, "num_slots", lambda: 2)


def test_stages_side_by_side_never_take_more_than_the_machine_has(tmp_path):
    running, most = [0], [0]
    lock = threading.Lock()

    def stage(cpus: int) -> None:
        with slots(tmp_path, cpus, Resources(), lambda: False) as held:
            with lock:
                running[0] += held
                most[0] = max(most[0], running[0])
            time.sleep(0.02)
            with lock:
                running[0] -= held

    threads = [threading.Thread(target=stage, args=(cpus,)) for cpus in (1, 2, 1, 1, 2, 16, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most[0] == 2


def test_the_longest_chain_goes_first_when_cores_are_short(tmp_path):
    order: list[int] = []

    def stage(priority: int) -> None:
        with slots(tmp_path, 2, Resources(priority=priority), lambda: False):
            order.append(priority)

    with slots(tmp_path, 2, Resources(), lambda: False):
        threads = [threading.Thread(target=stage, args=(n,)) for n in (3, 1, 2, 0)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
    for thread in threads:
        thread.join(5)
    assert order == [0, 1, 2, 3]


def test_a_side_branch_leaves_a_freed_slot_to_what_follows_in_the_longest_chain(tmp_path):
    order: list[str] = []

    def stage(name: str, needs: Resources) -> None:
        with slots(tmp_path, 2, needs, lambda: False):
            order.append(name)

    side = threading.Thread(target=stage, args=("side", Resources(priority=5, yields_seconds=1.0)))
    chain = threading.Thread(target=stage, args=("chain", Resources(priority=1)))
    with slots(tmp_path, 2, Resources(), lambda: False):
        side.start()  # waits long before the slot is free
        time.sleep(1.2)
    time.sleep(0.3)
    chain.start()  # submitted only after what it follows has ended
    for thread in (side, chain):
        thread.join(5)
    assert order == ["chain", "side"]


def test_a_waiting_stage_can_be_stopped(tmp_path):
    waiting = slots(tmp_path, 1, Resources(), lambda: True)
    with slots(tmp_path, 2, Resources(), lambda: False), pytest.raises(InterruptedRun), waiting:
        pass


def test_slots_of_a_killed_process_are_free_at_once(tmp_path):
    code = (
        "import time; from pathlib import Path; from tasks.resources import Resources, slots\n"
        f"with slots(Path({str(tmp_path)!r}), 99, Resources(), lambda: False):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env=None,
        cwd=resources.__file__.rsplit("/", 2)[0],
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    assert resources._take(tmp_path, 2) == []
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with slots(tmp_path, 2, Resources(), lambda: False) as held:
        assert held == 2


def test_bad_input_and_stops_are_not_tried_again():
    assert worth_retrying(StageError("killed"))
    assert worth_retrying(OSError("disk"))
    for error in (InputError("x"), InterruptedRun("x"), ArtifactError("x"), ValueError("x")):
        assert not worth_retrying(error)


def test_every_stage_declares_what_it_needs():
    parts = {
        "prepare-{part}",
        "prepare-autoencoder",
        "prepare-captioner",
        "prepare-detector",
        "prepare-dual_encoder",
    }
    stages = {"curate", "caption", "encode", "train", "evaluate", "register"}
    assert set(RESOURCES) >= parts | stages
