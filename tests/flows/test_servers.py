import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from flows.servers import RunningServers, free_port, running_servers, start_mlflow
from tasks import registry, tracking
from tasks.artifacts import ArtifactStore
from tasks.home import Home

ROOT = Path(__file__).parents[2]


def test_a_busy_port_is_stepped_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) > port


def test_servers_that_are_gone_are_not_believed(fluxline_home):
    home = Home(fluxline_home).make()
    assert running_servers(home) is None
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    home.servers.write_text(
        RunningServers(
            pid=dead.pid, prefect_url="http://127.0.0.1:9", mlflow_url="http://127.0.0.1:9"
        ).model_dump_json()
    )
    assert running_servers(home) is None
    home.servers.write_text("{")
    assert running_servers(home) is None


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_no_server_outlives_the_command_that_started_it(ending, tmp_path):
    program = [sys.executable, "-c", "import time; time.sleep(300)"]
    code = (
        "import sys, time; from tasks.launch import start_child\n"
        f"log = open({str(tmp_path / 'log')!r}, 'ab')\n"
        f"p, pipe = start_child([sys.executable, '-m', 'tasks.guard', *{program!r}], log, 1)\n"
        "print(p.pid, flush=True); time.sleep(300)"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert command.stdout is not None
    guard = psutil.Process(int(command.stdout.readline()))
    deadline = time.monotonic() + 10
    while not guard.children() and time.monotonic() < deadline:
        time.sleep(0.05)
    family = [guard, *guard.children()]
    assert len(family) == 2
    command.send_signal(ending)
    command.wait()
    command.stdout.close()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_run_begun_on_our_mlflow_server_is_shown_there_and_goes_on_without_it(
    fluxline_home, tmp_path, monkeypatch
):
    home = Home(fluxline_home).make()
    made = tmp_path / "made"
    made.mkdir()
    (made / "model_index.json").write_text("{}")
    ref = ArtifactStore(home).put(made, "model")
    server = start_mlflow(home)
    try:
        server.wait()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        run = tracking.open_run(home, "key", "register", {})
        tracking.log_artifact(home, run, made, ref)
        first = registry.register_version(home, "shapes", run, made, ref, {}, "# card")
        listed = _get(f"{server.url}/ajax-api/2.0/mlflow/artifacts/list?run_id={run}&path=model")
        assert b"model/model_index.json" in listed
        assert _get(f"{server.url}/get-artifact?run_id={run}&path=model/model_index.json") == b"{}"
    finally:
        server.stop()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tracking.log_artifact(home, run, made, ref)
    again = registry.register_version(home, "shapes", run, made, ref, {}, "# card")
    assert (first.version, again.version) == ("1", "2")
    ArtifactStore(home).discard(ref)
    found = registry.find_version(home, "shapes")
    assert (registry.model_directory(home, found) / "model_index.json").read_text() == "{}"


def _get(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=20) as reply:
        return reply.read()
