"""`fluxline status` in every condition a home can be in."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows.cli import run_command
from flows.servers import RunningServers
from flows.status import command_of, read_status
from flows.status_lines import status_lines
from tasks.home import Home
from tasks.leases import Holder, Waiting
from tasks.presence import ALIKE, QUEUED, RUN, WORKING, present
from tests.kit import ROOT, loaded_after


class _Prefect(BaseHTTPRequestHandler):
    runs: tuple[dict[str, Any], ...] = ()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        found: Any = self.runs if self.path == "/api/flow_runs/filter" else [{"id": "f", "name": "retrain"}]
        body = json.dumps(found).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Prefect]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Prefect)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
    yield _Prefect
    server.shutdown()
    server.server_close()


def said(home: Home) -> str:
    return "\n".join(status_lines(read_status(home)))


def spool(home: Home, run_key: str, num: int) -> Path:
    path = home.work(run_key) / "output" / "metrics.jsonl"
    path.parent.mkdir(parents=True)
    lines = [
        {"step": 10 * n, "total": 1000, "metrics": {"loss": 1 / n}, "seconds": float(n)}
        for n in range(1, num)
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 9')
    return path


def test_an_empty_home_says_so_and_what_to_do(fluxline_home, capfd):
    assert run_command(["status"]) == 0
    printed = capfd.readouterr().out
    assert "none up; `fluxline up` starts them" in printed
    assert "nothing; `fluxline run` starts the chain" in printed
    assert not fluxline_home.exists()


def test_it_needs_nothing_heavy():
    heavy = ("torch", "prefect", "mlflow", "pandas", "numpy", "httpx")
    assert loaded_after("import flows.cli\nflows.cli.run_command(['status'])", heavy) == []


def test_a_run_its_stages_their_pace_and_who_waits_behind_whom(fluxline_home):
    home, here = Home(fluxline_home).make(), {"flow": "retrain", "flow_run_id": "1", "flow_run": "weekly"}
    spool(home, "t" * 64, 50)
    with (
        present(home, "fluxline-demo, seed 0", RUN, pipeline_key="p", prefect=here),
        present(home, "train", WORKING, "t" * 64, "p", here),
        present(home, "prepare-detector", QUEUED, "d" * 64, "p", here),
        present(home, "train", ALIKE, "t" * 64, "q"),
        present(home, "encode", WORKING, "e" * 64, "p", here),
    ):
        text = said(home)
    mine = f"(process {os.getpid()})"
    assert "retrain 'weekly': fluxline-demo, seed 0, since " in text
    assert "490/1000 (49 %), 10/s, about 51 s left, loss 0.02041" in text
    assert f"waits for a core, behind train {mine}, encode {mine}" in text
    assert f"waits for the same stage of another run, behind train {mine}, for 0 s" in text
    assert "at work for 0 s, no report yet" in text


def test_who_waits_for_which_device_behind_whom(fluxline_home, monkeypatch):
    home, pid = Home(fluxline_home).make(), os.getpid()
    monkeypatch.setenv("FLUXLINE_DEVICES", "0,1")
    held = [Holder("gpu-0", "train", "t" * 64, pid, 0.0), Holder("cpu-0", "curate", "c" * 64, pid, 0.0)]
    queue = [Waiting("encode", "e" * 64, 1, 4711, 0.0), Waiting("rectify", "r" * 64, 2, pid, 0.0)]
    monkeypatch.setattr("flows.status.holders", lambda _: held)
    monkeypatch.setattr("flows.status.waiting", lambda: queue)
    with (
        present(home, "demo", RUN, pipeline_key="p"),
        present(home, "train", WORKING, "t" * 64, "p"),
        present(home, "rectify", QUEUED, "r" * 64, "p"),
    ):
        text = said(home)
    assert "train    on gpu-0: at work for 0 s" in text
    behind = f"behind train (gpu-0, process {pid}), encode (process 4711, in line)"
    assert f"rectify  waits for 2 GPUs, {behind}, for 0 s" in text
    assert f"devices   gpu-0: train (process {pid})\n          gpu-1: free" in text


def test_a_child_without_news_is_said(fluxline_home):
    home = Home(fluxline_home).make()
    path, then = spool(home, "t" * 64, 50), time.time() - 240
    os.utime(path, (then, then))
    with present(home, "train", WORKING, "t" * 64, "p"):
        assert "no news for 4 min" in said(home)


def test_half_written_files_change_nothing(fluxline_home):
    home = Home(fluxline_home).make()
    for name in (
        "servers.json",
        "present/1-x.json",
        "owed/abc.json",
        "runs/stages/register.jsonl",
        "mlflow.db",
    ):
        (home.root / name).parent.mkdir(parents=True, exist_ok=True)
        (home.root / name).write_text('{"pid": 1')
    text = said(home)
    assert "runs      nothing" in text
    assert "1 stage is still to be logged (abc)" in text
    assert "approval  not known, MLflow did not answer" in text


def test_servers_whose_command_died_are_not_believed(fluxline_home):
    home = Home(fluxline_home).make()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    up = RunningServers(pid=dead.pid, prefect_url="http://127.0.0.1:9", mlflow_url="http://127.0.0.1:9")
    home.servers.write_text(up.model_dump_json())
    assert f"not up: `fluxline up` (process {dead.pid}) ended without a word" in said(home)


def test_what_prefect_has_running_planned_and_paused(fluxline_home, prefect):
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1260))
    shape = {"flow_id": "f", "start_time": None, "expected_start_time": soon}
    prefect.runs = (
        {"id": "1", "name": "brave-cat", "state_name": "Pending", "state_type": "PENDING", **shape},
        {"id": "2", "name": "next-one", "state_name": "Scheduled", "state_type": "SCHEDULED", **shape},
        {"id": "3", "name": "asks", "state_name": "Paused", "state_type": "PAUSED", **shape},
    )
    text = said(Home(fluxline_home))
    assert "runs      retrain 'brave-cat' [Pending]" in text
    assert "next      retrain 'next-one' at " in text
    assert ", in 2" in text
    assert "approval  retrain 'asks' waits for an answer at http://127.0.0.1:" in text


def test_a_server_that_hangs_is_not_waited_for(fluxline_home, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/api")
        monkeypatch.setattr("flows.agenda.SECONDS", 0.3)
        text = said(Home(fluxline_home))
    assert "Prefect does not answer (timed out)" in text


def test_the_whole_of_it_as_json(fluxline_home, capfd):
    home = Home(fluxline_home).make()
    spool(home, "t" * 64, 5)
    with present(home, "train", WORKING, "t" * 64, "p"):
        assert run_command(["status", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["runs"][0]["stages"][0]["pace"]["step"] == 40
    assert {"servers", "agenda", "owed", "approvals", "last", "disk"} <= set(told)


def test_watching_wants_a_terminal(fluxline_home, capfd):
    assert run_command(["status", "--watch"]) == 2
    assert "--watch is for a terminal" in capfd.readouterr().err


@pytest.mark.slow
def test_watched_on_a_terminal_it_comes_again_until_stopped(fluxline_home):
    ours, theirs = os.openpty()
    watching = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "status", "--watch"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
    )
    os.close(theirs)
    shown = b""
    while shown.count(b"disk ") < 2:  # an empty home's page, drawn twice
        shown += os.read(ours, 4096)
    watching.send_signal(signal.SIGINT)
    with suppress(OSError):  # a pty whose other end closed
        while os.read(ours, 4096):
            pass
    assert watching.wait(60) == 0
    os.close(ours)


def test_a_command_is_told_as_it_was_typed():
    code = "import time; print(1, flush=True); time.sleep(60)"
    child = subprocess.Popen(
        [sys.executable, "-c", code, "fluxline", "run", "--seed", "3"], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    assert command_of(child.pid) == "fluxline run --seed 3"
    child.kill()
    child.wait()
    child.stdout.close()
    assert command_of(child.pid) == ""


def test_a_password_in_a_servers_address_is_not_shown(fluxline_home, prefect, monkeypatch):
    place = os.environ["PREFECT_API_URL"].removeprefix("http://")
    paused = {"id": "r", "flow_id": "f", "name": "asks", "state_name": "Paused", "state_type": "PAUSED"}
    monkeypatch.setattr(prefect, "runs", (paused,))
    monkeypatch.setenv("PREFECT_API_URL", f"http://ann:s3cret@{place}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:s3cret@127.0.0.1:9")
    told = said(Home(fluxline_home).make())
    assert f"Prefect http://ann@{place.removesuffix('/api')}" in told
    assert "waits for an answer at http://ann@127.0.0.1" in told
    assert "s3cret" not in told
