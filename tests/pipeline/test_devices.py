"""Four GPU stages over two faked devices, as real processes, watched from outside: by /proc alone, not by our code."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from tasks.leases import limit_name
from tests.kit import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the watcher reads Linux's /proc"),
]

HERE = Path(__file__).parent
DEVICES = ("0", "1")


@dataclass(frozen=True)
class Look:
    """What was to be seen at one moment.

    Attributes:
        users: pids of the children that see each device.
        locked: devices whose file the kernel knows a lock of.
        waiting: run keys of the tickets, in the order of their names.
    """

    moment: float
    users: dict[str, list[int]]
    locked: set[str]
    waiting: list[str]


class Watcher(threading.Thread):
    """Looks again and again, from outside."""

    def __init__(self, locks: Path):
        super().__init__(daemon=True)
        self.locks, self.looks, self.over = locks, [], threading.Event()
        self.parents: list[int] = []

    def run(self) -> None:
        while not self.over.wait(0.03):
            before, users = self._locked(), self._users()
            locked = before | self._locked()
            self.looks.append(Look(time.monotonic(), users, locked, self._waiting()))

    def _locked(self) -> set[str]:
        inodes = {}
        for name in DEVICES:
            with suppress(OSError):
                inodes[(self.locks / f"gpu-{name}").stat().st_ino] = name
        found = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        held = [
            int(words[-3].split(":")[-1]) for words in found if words[1] == "FLOCK" and words[3] == "WRITE"
        ]
        return {inodes[inode] for inode in held if inode in inodes}

    def _users(self) -> dict[str, list[int]]:
        users: dict[str, list[int]] = {name: [] for name in DEVICES}
        for parent in self.parents:
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                with suppress(OSError):  # gone meanwhile
                    for pid in map(int, children.read_text().split()):
                        for name in self._visible(Path(f"/proc/{pid}")):
                            users[name].append(pid)
        return users

    def _visible(self, place: Path) -> list[str]:
        """The devices that a child sees; none of one that is not yet, or no more, the program it is to be."""
        with suppress(OSError):
            if b"fake_child" in (place / "cmdline").read_bytes():
                environment = (place / "environ").read_bytes().decode(errors="replace").split("\0")
                visible = [each for each in environment if each.startswith("CUDA_VISIBLE_DEVICES=")]
                return visible[0].partition("=")[2].split(",") if visible else []
        return []

    def _waiting(self) -> list[str]:
        keys = []
        for path in sorted((self.locks / "queue").glob("*")):
            with suppress(OSError, ValueError):
                keys.append(json.loads(path.read_text())["run_key"])
        return keys

    def busy(self) -> int:
        """Return how many children compute right now."""
        return sum(len(pids) for pids in self.looks[-1].users.values())


@contextmanager
def stages(home: Path, mode: str, until: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    path = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent / "tasks")))
    given = {
        "PYTHONPATH": path,
        "FLUXLINE_DEVICES": ",".join(DEVICES),
        "FLUXLINE_HOME": str(home),
        **environment,
    }
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(HERE / "device_stages.py"), str(home), mode, str(until)],
        env=os.environ | given,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        family = []
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate()
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=30)


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    watching = Watcher(Path(os.environ["FLUXLINE_LOCKS"]))
    watching.start()
    wait_until(lambda: bool(watching.looks), seconds=300)
    yield watching
    watching.over.set()
    watching.join()


def tell(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()


def finish(process: subprocess.Popen[str]) -> None:
    out, _ = process.communicate(timeout=300)
    assert out.splitlines()[-1:] == ["done"]


def turns(watcher: Watcher) -> list[list[int]]:
    """Return who used each device, in turn; never were there two, and never one without the device's lock."""
    found: list[list[int]] = [[] for _ in DEVICES]
    for look in watcher.looks:
        for turn, name in zip(found, DEVICES, strict=True):
            pids = look.users[name]
            assert len(pids) <= 1, f"two children on device {name}"
            assert not pids or name in look.locked, f"a child on device {name} without its lock"
            turn += [pid for pid in pids if pid not in turn]
    return found


def mean_taken(watcher: Watcher) -> float:
    """Return how many devices were taken while work waited, from when all were for the first time."""
    first = next(n for n, look in enumerate(watcher.looks) if all(look.users.values()))
    pressed = [look for look in watcher.looks[first:] if look.waiting]
    assert len(pressed) >= 5
    return sum(len(look.locked) for look in pressed) / len(pressed)


def keys_in_turn(watcher: Watcher) -> list[str]:
    """Return the run keys in the order in which they left the queue."""
    left, last = [], []
    for look in watcher.looks:
        left += [key for key in last if key not in look.waiting]
        last = look.waiting
    return left


def test_four_stages_of_two_projects_share_two_devices(tmp_path, watcher):
    all_came = tmp_path / "all came"
    with stages(tmp_path / "a", "plain", all_came) as one, stages(tmp_path / "b", "plain", all_came) as other:
        watcher.parents += [one.pid, other.pid]
        for seed, process in enumerate((one, other, other, one)):
            tell(process, str(seed))
            wait_until(
                lambda seed=seed: watcher.busy() + len(watcher.looks[-1].waiting) == seed + 1, seconds=300
            )
        came = watcher.looks[-1].waiting
        assert (watcher.busy(), len(came)) == (2, 2)
        all_came.touch()
        finish(one)
        finish(other)
    wait_until(lambda: not watcher.looks[-1].locked, seconds=300)
    assert [len(turn) for turn in turns(watcher)] == [2, 2]
    assert (
        mean_taken(watcher) > 1.7
    )  # one device after the other is 1.0; from one to the next it takes a moment
    assert keys_in_turn(watcher)[-2:] == came


def test_prefects_limit_shows_what_the_locks_decide(tmp_path, watcher, prefect_url):
    api = httpx.Client(base_url=f"{prefect_url}/api/v2/concurrency_limits", trust_env=False)
    all_came, shown = tmp_path / "all came", []

    def active() -> int:
        reply = api.get(f"/{limit_name()}")
        return reply.json()["active_slots"] if reply.status_code == 200 else 0

    given = {"FLUXLINE_LEASE": "prefect", "PREFECT_API_URL": f"{prefect_url}/api"}
    with api, stages(tmp_path / "home", "flow", all_came, **given) as process:
        watcher.parents.append(process.pid)
        tell(process, "0 1 2 3")
        wait_until(lambda: (watcher.busy(), len(watcher.looks[-1].waiting)) == (2, 2), seconds=300)
        assert active() == 2
        all_came.touch()
        while process.poll() is None:
            shown.append(active())
            time.sleep(0.1)
        finish(process)
        assert active() == 0
        assert api.get(f"/{limit_name()}").json()["limit"] == 2
    assert sum(map(len, turns(watcher))) == 4
    assert max(shown) == 2
