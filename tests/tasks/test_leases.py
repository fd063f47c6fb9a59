import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from fluxmodel.errors import InputError, InterruptedRun
from tasks import device_locks, prefect_limit
from tasks.device_locks import is_locked, locks_folder
from tasks.launch import start_child, stop_group
from tasks.leases import KINDS, Asker, Need, holders, lease, lease_kind, limit_name, refuse_beyond, waiting
from tests.kit import wait_until

ROOT = Path(__file__).parents[2]
ONE, TWO = Need(1), Need(2)


@pytest.fixture(autouse=True)
def two_devices(monkeypatch, tmp_path):
    monkeypatch.setenv("FLUXLINE_DEVICES", "0,1")
    monkeypatch.delenv("FLUXLINE_LEASE", raising=False)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{Path(__file__).parent}")
    monkeypatch.setattr(device_locks, "POLL_SECONDS", 0.02)
    monkeypatch.chdir(tmp_path)


def take(stage: str = "train", need: Need = ONE, priority: int = 1, **more):
    return lease(need, Asker(stage, "key", "home", priority), **more)


def locked() -> list[str]:
    return [path.name for path in sorted(locks_folder().glob("gpu-*")) if is_locked(path)]


def queue() -> list[str]:
    return [each["stage"] for each in device_locks.read_queue(locks_folder())]


class Waiter:
    """A thread that waits for devices, notes when it has them, and keeps them until it is told."""

    def __init__(self, order: list[str], stage: str, need: Need = ONE, priority: int = 1):
        self.let_go, self.stop, self.error = threading.Event(), threading.Event(), None
        self.thread = threading.Thread(target=self._run, args=(order, stage, need, priority))
        before = len(queue())
        self.thread.start()
        wait_until(lambda: len(queue()) > before or stage in order)

    def _run(self, order, stage, need, priority):
        try:
            with take(stage, need, priority, stop=self.stop.is_set):
                order.append(stage)
                self.let_go.wait(60)
        except InterruptedRun as error:
            self.error = error

    def end(self):
        self.let_go.set()
        self.thread.join(60)


@contextmanager
def process(mode: str, stage: str = "train", gpus: int = 1) -> Iterator[subprocess.Popen[str]]:
    """Another process with a lease; what is left of it is ended."""
    command = [sys.executable, str(Path(__file__).parent / "lease_holder.py"), mode, stage, str(gpus)]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    family = []
    try:
        yield started
    finally:
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(started.pid).children(recursive=True)
        for member in family:
            member.kill()
        started.kill()
        started.communicate()
        psutil.wait_procs(family, timeout=30)


def said(started: subprocess.Popen[str]) -> tuple[str, int]:
    """Wait until a process holds its lease; return its devices and its child."""
    assert started.stdout is not None
    words = started.stdout.readline().split()
    assert words[0] == "holds"
    return words[1], int(words[2])


# One contract, four kinds


@pytest.fixture(params=KINDS)
def kind(request, monkeypatch) -> str:
    monkeypatch.setenv("FLUXLINE_LEASE", request.param)
    if request.param == "external":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    taken: list[str] = []

    def slot(name: str, num: int):
        @contextmanager
        def one():
            taken.append(name)
            yield
            taken.remove(name)

        entered = one()
        entered.__enter__()
        return entered

    monkeypatch.setattr(prefect_limit, "_ensure", lambda *_: None)
    monkeypatch.setattr(prefect_limit, "_free_slot", slot)
    return request.param


def test_every_kind_keeps_the_contract(kind):
    def outer() -> str | None:
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    with take("curate", Need()) as cpu:
        assert cpu.environment()["CUDA_VISIBLE_DEVICES"] == ""
        assert (cpu.descriptors, locked()) == ((), [])
    with take(need=TWO) as held:
        visible = held.environment().get("CUDA_VISIBLE_DEVICES", outer())
        assert visible == {"none": "", "local": "0,1", "prefect": "0,1", "external": "4,5"}[kind]
        assert locked() == (["gpu-0", "gpu-1"] if kind in ("local", "prefect") else [])
        assert len(held.descriptors) == (0 if kind == "none" else 2)
    assert locked() == []
    with ExitStack() as stack:
        if kind != "none":
            stack.enter_context(pytest.raises(InputError, match=r"^Stage train asks for 3 GPUs, but .*2"))
        stack.enter_context(take(need=Need(3)))
    with take(need=TWO):  # whatever was refused holds nothing
        pass


def test_without_a_device_nothing_is_said_and_nothing_written(kind, monkeypatch):
    monkeypatch.setenv("FLUXLINE_DEVICES", "none")
    if kind == "external":
        return
    assert lease_kind() == "none"
    with take(need=Need(8, memory_gb=80)) as held:
        assert held.environment() == {}
    assert not locks_folder().exists()


def test_a_kind_nobody_knows_is_refused(monkeypatch):
    monkeypatch.setenv("FLUXLINE_LEASE", "slurm")
    with pytest.raises(InputError, match=r"^FLUXLINE_LEASE is 'slurm'; choose one of none, local, prefect"):
        lease_kind()


def test_more_than_there_is_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setenv("FLUXLINE_DEVICES", "0:24,1:80")
    refuse_beyond({"train": TWO, "evaluate": Need(1, 80)})
    with pytest.raises(
        InputError, match=r"^Stage train asks for 2 GPUs of 80 GB, but .*0 \(24 GB\), 1 \(80 GB\)"
    ):
        refuse_beyond({"evaluate": ONE, "train": Need(2, 80)})


def test_a_scheduler_that_placed_us_with_too_few_is_told(monkeypatch):
    monkeypatch.setenv("FLUXLINE_LEASE", "external")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with (
        pytest.raises(InputError, match=r"was placed with 1 \(CUDA_VISIBLE_DEVICES is '3'\)"),
        take(need=TWO),
    ):
        pass


def test_stages_placed_together_divide_what_they_were_given(monkeypatch):
    monkeypatch.setenv("FLUXLINE_LEASE", "external")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa,MIG-bb/1/0")
    with take() as one, take() as other:
        assert (one.visible, other.visible) == ("GPU-aa", "MIG-bb/1/0")
        with pytest.raises(InterruptedRun), take(stop=lambda: True):
            pass
    assert not locks_folder().exists()


def test_who_needs_little_memory_leaves_the_large_device(monkeypatch):
    monkeypatch.setenv("FLUXLINE_DEVICES", "0:80,1:24")
    with take() as small, take(need=Need(1, 80)) as large:
        assert (small.visible, large.visible) == ("1", "0")


# Life and death, with real processes


@pytest.mark.parametrize("mode", ["child", "guarded"])
def test_a_device_is_taken_while_a_child_lives_even_when_its_parent_was_killed(mode, home):
    with process(mode) as parent:
        device, child = said(parent)
        program = psutil.Process(child).children()[0] if mode == "guarded" else psutil.Process(child)
        try:
            assert [(h.resource, h.stage, h.pid) for h in holders(home)] == [("gpu-0", "train", parent.pid)]
            parent.kill()
            parent.wait()
            if mode == "guarded":
                psutil.Process(child).kill()
            assert locked() == [f"gpu-{device}"]
            wait_until(lambda: [(h.resource, h.pid) for h in holders(home)] == [("gpu-0", program.pid)])
            with pytest.raises(InterruptedRun), take(need=TWO, stop=lambda: True):
                pass
        finally:
            program.kill()
        wait_until(lambda: locked() == [])
    with take(need=TWO):
        pass


def test_devices_of_a_killed_process_are_free_at_once():
    with process("alone", gpus=2) as holder:
        said(holder)
        assert locked() == ["gpu-0", "gpu-1"]
        holder.kill()
        holder.wait()
        with take(need=TWO):
            pass


def test_no_other_stages_child_inherits_a_lock(tmp_path):
    with (tmp_path / "log").open("ab") as sink, take("train") as held:
        child, pipe = start_child([sys.executable, "-c", "import time; time.sleep(600)"], sink, 1)
        mine, pipe_of_mine = start_child(
            [sys.executable, "-c", "import time; time.sleep(600)"], sink, 1, held
        )
        inode = (locks_folder() / "gpu-0").stat().st_ino

        def has_lock(pid: int) -> bool:
            links = Path(f"/proc/{pid}/fd").iterdir()
            return any(link.stat().st_ino == inode for link in links if link.exists())

        try:
            assert (has_lock(child.pid), has_lock(mine.pid)) == (False, True)
        finally:
            for each, end in ((child, pipe), (mine, pipe_of_mine)):
                stop_group(each, grace=0)
                os.close(end)


# Order


def test_first_come_is_first_served_across_processes():
    order: list[str] = []
    with ExitStack() as stack:
        with take(need=TWO):
            others = []
            for n in range(3):
                others.append(stack.enter_context(process("brief", f"stage-{n}", 2)))
                wait_until(lambda n=n: len(queue()) == n + 1)
            mine = Waiter(order, "mine", TWO)
            assert queue() == ["stage-0", "stage-1", "stage-2", "mine"]
        for n, other in enumerate(others):
            said(other)
            assert queue() == [f"stage-{m}" for m in range(n + 1, 3)] + ["mine"]
            other.communicate("")
        wait_until(lambda: order == ["mine"])
        mine.end()


def test_who_wants_two_is_not_passed_by_for_ever():
    order: list[str] = []
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(take())
        second.enter_context(take())
        both, one = Waiter(order, "both", TWO), Waiter(order, "one")
        first.close()
        time.sleep(0.2)  # ten looks: the free device is kept for who came first
        assert (order, queue()) == ([], ["both", "one"])
        second.close()
        wait_until(lambda: order == ["both"])
        both.end()
        wait_until(lambda: order == ["both", "one"])
        one.end()


def test_what_the_first_in_the_queue_cannot_use_is_not_kept_for_it(monkeypatch):
    monkeypatch.setenv("FLUXLINE_DEVICES", "0:80,1:24")
    order: list[str] = []
    with take(need=Need(1, 80)):
        large, small = Waiter(order, "large", Need(1, 80)), Waiter(order, "small")
        wait_until(lambda: order == ["small"])
        small.end()
    large.end()
    assert order == ["small", "large"]


def test_the_longest_chain_goes_first_and_patience_before_it(monkeypatch):
    order: list[str] = []
    with take(need=TWO):
        waiters = [Waiter(order, f"p{n}", TWO, priority=n) for n in (7, 2, 5)]
        assert queue() == ["p2", "p5", "p7"]
        monkeypatch.setattr(device_locks, "PATIENCE_SECONDS", 0.0)
        waiters.append(Waiter(order, "p0", TWO, priority=0))
        monkeypatch.setattr(device_locks, "PATIENCE_SECONDS", 3600.0)
        assert queue() == ["p0", "p2", "p5", "p7"]
        said = [each["since"] for each in device_locks.read_queue(locks_folder())]
        monkeypatch.setattr(device_locks, "PATIENCE_SECONDS", time.time() - (said[0] + max(said[1:])) / 2)
        assert queue() == ["p2", "p5", "p7", "p0"]
        for waiter in waiters:
            waiter.stop.set()
            waiter.end()


def test_the_dead_and_the_suspended_hold_nobody_up(monkeypatch):
    monkeypatch.setattr(device_locks, "ASLEEP_SECONDS", 0.5)
    order: list[str] = []
    with process("brief", "killed", 2) as killed, process("brief", "suspended", 2) as suspended:
        with take(need=TWO):
            wait_until(lambda: {"killed", "suspended"} == set(queue()))
            suspended.send_signal(signal.SIGSTOP)
            killed.kill()
            killed.wait()
            mine = Waiter(order, "mine", TWO)
        wait_until(lambda: order == ["mine"])
        assert queue() == ["suspended"]  # it keeps its place
        mine.end()
        suspended.send_signal(signal.SIGCONT)
        assert said(suspended)[0] == "0,1"
        assert list((locks_folder() / "queue").iterdir()) == []


def test_a_stop_ends_the_waiting_and_leaves_no_ticket():
    order, told = [], []
    with take(need=TWO):
        waiter = Waiter(order, "later", TWO)
        with pytest.raises(InterruptedRun, match="waiting for a GPU"):
            take("mine", stop=lambda: bool(told), waits=told.append).__enter__()
        waiter.stop.set()
        waiter.end()
        assert isinstance(waiter.error, InterruptedRun)
        assert list((locks_folder() / "queue").iterdir()) == []
    assert told == ["waits for 1 GPU, 1 before it"]
    assert order == []


# Seen from outside


def test_anybody_sees_who_has_what_and_who_is_next(home):
    order: list[str] = []
    assert (holders(home), waiting()) == ([], [])
    with take("train", TWO):
        waiter = Waiter(order, "evaluate", TWO, priority=7)
        found = holders(home)
        assert [(h.resource, h.stage, h.run_key, h.pid, h.home) for h in found] == [
            (f"gpu-{n}", "train", "key", os.getpid(), "home") for n in (0, 1)
        ]
        assert 0 <= time.time() - found[0].since < 600
        assert [(w.stage, w.wanted, w.pid) for w in waiting()] == [("evaluate", 2, os.getpid())]
        assert [path.name for path in (locks_folder() / "queue").iterdir()] == ["07-000001"]
        assert '"stage": "train"' in (locks_folder() / "gpu-0").read_text()
        waiter.stop.set()
        waiter.end()
    assert (holders(home), waiting()) == ([], [])
    assert (locks_folder() / "gpu-0").read_text() == ""


def test_a_folder_that_cannot_be_used_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLUXLINE_LOCKS", str(tmp_path / "file"))
    with (
        pytest.raises(InputError, match=r"file cannot be used \(.*\); set FLUXLINE_LOCKS to a folder"),
        take(),
    ):
        pass


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    with take():
        pass
    (locks_folder() / "gpu-0").unlink()
    (locks_folder() / "gpu-0").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="gpu-0 cannot be opened"), take():
        pass
    assert (tmp_path / "precious").read_text() == "mine"


# Prefect's slots beside the lock


def test_prefect_may_be_away_and_says_so_once(monkeypatch):
    monkeypatch.setenv("FLUXLINE_LEASE", "prefect")
    monkeypatch.setattr(
        prefect_limit, "_free_slot", lambda *_: (_ for _ in ()).throw(ConnectionError("refused"))
    )
    told: list[str] = []
    with take(waits=told.append) as held:
        assert (held.visible, locked()) == ("0", ["gpu-0"])
    assert len(told) == 1
    assert f"goes on without a slot of {limit_name()}" in told[0]


def test_a_slot_that_is_not_free_is_waited_for_and_a_stop_is_heard(monkeypatch):
    monkeypatch.setenv("FLUXLINE_LEASE", "prefect")
    monkeypatch.setattr(prefect_limit, "_ensure", lambda *_: None)
    monkeypatch.setattr(prefect_limit, "_free_slot", lambda *_: None)
    told: list[str] = []
    with pytest.raises(InterruptedRun), take(stop=lambda: bool(told), waits=told.append):
        pass
    assert told == [f"waits for 1 of Prefect's limit {limit_name()}"]
    assert locked() == []


def test_a_server_that_dies_meanwhile_costs_no_work(monkeypatch):
    monkeypatch.setenv("FLUXLINE_LEASE", "prefect")
    monkeypatch.setattr(prefect_limit, "_ensure", lambda *_: None)

    def leave(*_):
        raise ConnectionError("refused")

    monkeypatch.setattr(prefect_limit, "_free_slot", lambda *_: SimpleNamespace(__exit__=leave))
    with take():
        pass
    assert locked() == []
