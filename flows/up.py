"""`fluxline up`: Prefect's and MLflow's servers and the served pipeline, until one Ctrl-C stops them all."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from flows.environment import set_environment
from flows.servers import (
    MLFLOW_PORT,
    PREFECT_PORT,
    RunningServers,
    Server,
    running_servers,
    start_mlflow,
    start_prefect,
)
from fluxmodel.errors import InputError, StageError
from tasks.home import Home, open_home
from tasks.launch import start_child, stop_group


def serve_until_stopped() -> int:
    """Start everything, say where it is, and stop it all at SIGINT or SIGTERM; return the exit code.

    Raises:
        InputError: it is up already.
        StageError: a server ended by itself.
    """
    home = open_home().make()
    if found := running_servers(home):
        raise InputError(
            f"It is up already (process {found.pid}): {found.prefect_url} and {found.mlflow_url}."
        )
    set_environment(home)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    servers: list[Server] = []
    try:
        servers = [start_prefect(home, is_short_lived=False), start_mlflow(home)]
        for server in servers:
            server.wait(stop)
        if not stop.is_set():
            _serve(home, servers, stop)
    finally:
        home.servers.unlink(missing_ok=True)
        for server in servers:
            server.stop()
    print("All stopped.")
    return 0


def _serve(home: Home, servers: list[Server], stop: threading.Event) -> None:
    prefect, mlflow = servers
    os.environ |= {
        "PREFECT_API_URL": f"{prefect.url}/api",
        "MLFLOW_TRACKING_URI": mlflow.url,
        "PREFECT_LOGGING_EXTRA_LOGGERS": "fluxline",
    }
    runner, pipe = _start_runner(home)
    home.servers.write_text(
        RunningServers(pid=os.getpid(), prefect_url=prefect.url, mlflow_url=mlflow.url).model_dump_json()
    )
    for server, usual in ((prefect, PREFECT_PORT), (mlflow, MLFLOW_PORT)):
        stepped = "" if server.url.endswith(f":{usual}") else f"  (port {usual} was taken)"
        print(f"{server.name:<8}{server.url}{stepped}")
    print(
        "Deployments pipeline/pipeline and compare/compare are served: press Run in Prefect, or use `fluxline run` and "
        "`fluxline compare`. Ctrl-C stops all.",
        flush=True,
    )
    try:
        while not stop.wait(0.5):
            for name, process in [*((s.name, s.process) for s in servers), ("runner", runner)]:
                if process.poll() is not None:
                    raise StageError(f"The {name} ended by itself; its log is {home.logs / name}.log.")
    finally:
        print("Stopping ...", flush=True)
        stop_group(runner, grace=40.0)
        with suppress(OSError):
            os.close(pipe)


def _start_runner(home: Home) -> tuple[subprocess.Popen, int]:
    log: Path = home.logs / "runner.log"
    with log.open("ab") as sink:
        return start_child(
            [sys.executable, "-m", "tasks.guard", sys.executable, "-m", "deployments.serve"], sink, threads=1
        )
