import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from flows.ports import PortClaim, claim_port, free_port, listens
from flows.servers import RunningServers, Server, answers, running_servers, start_mlflow
from fluxmodel.errors import StageError
from tasks import registry, tracking
from tasks.artifacts import ArtifactStore
from tasks.home import Home
from tasks.presence import born

ROOT = Path(__file__).parents[2]


def test_a_busy_port_is_stepped_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) > port


def test_of_two_commands_at_once_each_has_its_own_port():
    one = claim_port(4200)  # neither listens yet
    other = claim_port(4200)
    try:
        assert one.port != other.port
    finally:
        one.give_up()
        other.give_up()


def test_anothers_server_at_our_port_is_not_taken_for_ours(fluxline_home):
    """Ours ends because the port is taken, and whoever took it answers in its stead."""
    with socket.socket() as another:
        another.bind(("127.0.0.1", 0))
        another.listen()
        threading.Thread(target=_say_ok, args=(another,), daemon=True).start()
        port = another.getsockname()[1]
        assert listens(os.getpid(), port)
        assert answers(f"http://127.0.0.1:{port}/health")
        command = [sys.executable, "-c", "raise SystemExit(3)"]
        server = Server("prefect", PortClaim(port, -1), "/health", command, Home(fluxline_home).make(), {})
        with pytest.raises(StageError, match="The prefect server ended at once"):
            server.wait()
        server.stop()


def _say_ok(listener: socket.socket) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client:
            client.recv(1000)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def test_a_process_number_that_is_anothers_by_now_is_not_taken_for_fluxline_up(fluxline_home):
    home = Home(fluxline_home).make()
    with socket.socket() as another:
        another.bind(("127.0.0.1", 0))
        another.listen()
        threading.Thread(target=_say_ok, args=(another,), daemon=True).start()
        url = f"http://127.0.0.1:{another.getsockname()[1]}"
        known = RunningServers(pid=os.getpid(), born=born(os.getpid()), prefect_url=url, mlflow_url=url)
        home.servers.write_text(known.model_dump_json())
        assert running_servers(home) == known
        stale = known.model_copy(update={"born": known.born - 3600})
        home.servers.write_text(stale.model_dump_json())
        assert running_servers(home) is None


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
