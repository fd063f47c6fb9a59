"""Each check of `fluxline doctor`, provoked: what it finds, and that it names a cure."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from contextlib import closing
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest

from flows import home_checks, machine_checks
from flows.check import Check
from flows.servers import RunningServers
from tasks.artifacts import ArtifactRef
from tasks.devices import Device
from tasks.home import Home
from tasks.leases import Holder
from tasks.presence import WORKING, present
from tasks.run_key import RunBook, RunRecord, StageIdentity

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def home(fluxline_home: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return Home(fluxline_home).make()


@pytest.fixture
def late_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """A server whose clock is as many seconds late as the list says."""
    late = [0.0]

    class Late(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            self.send_header("Date", formatdate(time.time() - late[0], usegmt=True))
            self.end_headers()
            self.wfile.write(b"true")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Late)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
    yield late
    server.shutdown()
    server.server_close()


def checked(name: str) -> Check:
    """Run the check of this name."""
    for check in (*home_checks.home_checks(), *machine_checks.machine_checks()):
        if check.__name__ == f"_{name}":
            return check()
    raise AssertionError(f"there is no check {name}")


def dead_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


GPUS = (Device("0", 24.0), Device("1", 80.0))


@pytest.mark.parametrize(
    ("driver", "used", "cuda", "is_available", "state", "said"),
    [
        ((), (), "", False, "good", "the CPU computes"),
        (GPUS, GPUS, "12.8", True, "good", "24 GB"),
        (GPUS, GPUS, "", False, "bad", "built for the CPU"),
        (GPUS, GPUS, "12.8", False, "bad", "cannot use it"),
        ((), (), "12.8", False, "note", "no driver shows a GPU"),
        (GPUS, (), "12.8", True, "good", "FLUXLINE_DEVICES"),
        ((Device("0", 4.0),), (Device("0", 4.0),), "12.8", True, "note", "less than 8 GB on 0"),
    ],
)
def test_driver_and_torch_are_held_against_each_other(driver, used, cuda, is_available, state, said):
    found = machine_checks.judge_gpu(driver, used, cuda, is_available)
    assert (found.state, bool(found.cure)) == (state, state != "good")
    assert said in found.found


@pytest.mark.parametrize(("num_bytes", "gpus", "state"), [
    (64 << 20, "0,1", "bad"), (64 << 20, "none", "note"), (512 << 20, "0,1", "note"), (8 << 30, "0,1", "good"),
])  # fmt: skip
def test_little_shared_memory_is_bad_between_gpus_and_a_note_elsewhere(monkeypatch, num_bytes, gpus, state):
    monkeypatch.setenv("FLUXLINE_DEVICES", gpus)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(num_bytes, 0, num_bytes))
    found = checked("shared_memory")
    assert (found.state, "--shm-size" in found.cure) == (state, state != "good")


@pytest.mark.parametrize(("limit", "state"), [(256, "bad"), (1024, "note"), (65_536, "good")])
def test_a_low_limit_of_open_files_is_found(monkeypatch, limit, state):
    monkeypatch.setattr("resource.getrlimit", lambda _: (limit, 1 << 20))
    found = checked("open_files")
    assert (found.state, "ulimit" in found.cure) == (state, state != "good")


def test_absent_misfitting_and_half_installed_packages_are_named(monkeypatch):
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.0" if name == "ghost" else real(name))
    wanted = ["ghost>=1", "prefect>=99", "no-such-thing", "pillow>=1", "ray; extra == 'ray'"]
    assert list(machine_checks.package_troubles(wanted)) == [
        "ghost is half installed (it cannot be found for import)",
        f"prefect is {real('prefect')}, wanted is >=99",
        "no-such-thing is absent",
    ]
    assert checked("packages").state == "good"


def test_what_the_killed_left_behind_is_named(home):
    assert checked("leftovers").state == "good"
    up = RunningServers(
        pid=dead_process(), born=1.0, prefect_url="http://127.0.0.1:9", mlflow_url="http://127.0.0.1:9"
    )
    home.servers.write_text(up.model_dump_json())
    with present(home, "train", WORKING, "key") as note:
        told = json.loads(note.path.read_text())
        (home.root / "present" / "0-dead.json").write_text(json.dumps(told | {"born": 1.0}))
        found = checked("leftovers")
    assert found.state == "note"
    assert "servers.json" in found.found
    assert "0-dead.json" in found.found


def test_a_device_held_by_a_child_without_its_run_is_bad(home, monkeypatch):
    held = [Holder("gpu-0", "train", "k" * 64, os.getpid(), time.time(), str(home.root))]
    monkeypatch.setattr(home_checks, "holders", lambda _: held)
    found = checked("devices")
    assert (found.state, "gpu-0 by process" in found.found) == ("bad", True)
    assert f"kill {os.getpid()}" in found.cure
    with present(home, "train", WORKING, "k" * 64):
        assert checked("devices").state == "good"


def test_a_locked_database_and_one_that_is_none_are_bad(home, monkeypatch):
    monkeypatch.setattr(home_checks._locked, "__defaults__", (0.1,))
    place = home.root / "mlflow.db"
    with closing(sqlite3.connect(place, isolation_level=None)) as other:
        other.execute("create table t (x)")
        assert checked("mlflow_database").state == "good"
        other.execute("BEGIN IMMEDIATE")
        found = checked("mlflow_database")
    assert (found.state, "database is locked" in found.found, "fuser" in found.cure) == ("bad", True, True)
    place.write_bytes(b"not a database at all, but long enough to be looked at" * 99)
    found = checked("mlflow_database")
    assert (found.state, "restore" in found.cure) == ("bad", True)


def test_a_schema_of_another_version_is_bad(home):
    with closing(sqlite3.connect(home.root / "mlflow.db", isolation_level=None)) as store:
        store.execute("create table alembic_version (version_num)")
        store.execute("insert into alembic_version values ('deadbeef')")
    found = checked("mlflow_database")
    assert (found.state, "newer MLflow" in found.found) == ("bad", True)
    assert found.cure


@pytest.mark.parametrize("variable", ["PREFECT_API_URL", "MLFLOW_TRACKING_URI"])
def test_a_named_server_that_is_dead_is_bad(home, monkeypatch, variable):
    monkeypatch.setenv(variable, "http://127.0.0.1:9/api")
    found = checked("servers")
    assert (found.state, f"unset {variable}" in found.cure) == ("bad", True)


@pytest.mark.parametrize(("late", "state"), [(0, "good"), (20, "note"), (300, "bad")])
def test_a_clock_that_differs_from_the_servers_is_found(home, late_server, late, state):
    late_server[0] = late
    found = checked("clock")
    assert (found.state, "NTP" in found.cure) == (state, state != "good")


def test_a_disk_too_small_for_a_run_like_the_last_is_bad(home, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**12, 0, 40 * 10**9))
    assert checked("disk").state == "good"
    book = RunBook(home)
    made = StageIdentity(stage="train", parameters={}, upstream={}, seed=0, code={})
    artifact = ArtifactRef(kind="model", uri="", digest="d", num_bytes=30 * 10**9)
    book.write(RunRecord(run_key=made.run_key, identity=made, artifact=artifact, seconds=1.0))
    book.decide(made, reused=False)
    found = checked("disk")
    assert (found.state, "takes up to 60.0 GB" in found.found, "fluxline prune" in found.cure) == (
        "bad",
        True,
        True,
    )


def test_a_port_held_by_the_servers_of_another_home_names_it(home, monkeypatch, tmp_path):
    code = (
        "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); "
        "time.sleep(300)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"FLUXLINE_HOME": str(tmp_path / "other")},
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    port = int(other.stdout.readline())
    monkeypatch.setattr(home_checks, "PREFECT_PORT", port)
    found = checked("ports")
    other.kill()
    other.wait()
    other.stdout.close()
    assert found.state == "note"
    assert f"{port} is taken by python" in found.found
    assert f"(process {other.pid}, of {tmp_path / 'other'})" in found.found


def test_all_ports_free_is_good(home, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    monkeypatch.setattr(home_checks, "PREFECT_PORT", free)
    monkeypatch.setattr(home_checks, "MLFLOW_PORT", free)
    assert checked("ports").state == "good"
