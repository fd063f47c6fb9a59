"""`fluxline up`: Prefect's and MLflow's servers and the served deployments, until one Ctrl-C stops them all."""

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from flows.environment import set_environment
from flows.runner import SERVED, Runner, served
from flows.servers import (
    MLFLOW_PORT,
    PREFECT_PORT,
    RunningServers,
    Server,
    running_servers,
    start_mlflow,
    start_prefect,
)
from flows.supervision import Supervisor
from fluxmodel.errors import InputError
from fluxmodel.stop_request import StopRequest
from tasks.home import Home, open_home
from tasks.presence import born


def serve_until_stopped() -> int:
    """Start everything, say where it is, and stop it all at SIGINT or SIGTERM; return the exit code.

    Raises:
        InputError: it is up already.
        StageError: a part of it ended again and again.
    """
    home = open_home().make()
    with only_one_up(home):
        return _start_and_serve(home)


@contextmanager
def only_one_up(home: Home) -> Iterator[None]:
    """Keep every other `fluxline up` out of the home while the body runs, from before its first server starts.

    Raises:
        InputError: it is up already.
    """
    place = home.root / "locks" / "up"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            found = running_servers(home)
            where = (
                f" (process {found.pid}): {found.prefect_url} and {found.mlflow_url}"
                if found
                else ", or starting"
            )
            raise InputError(f"It is up already{where}.") from None
        yield


def _set_aside() -> None:
    """Say which variables name servers that are not used here."""
    named = [name for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI") if os.environ.pop(name, "")]
    if named:
        are = "is" if len(named) == 1 else "are"
        print(
            f"{' and '.join(named)} {are} set and not used: `fluxline up` runs servers of its own.",
            flush=True,
        )


def _start_and_serve(home: Home) -> int:
    _set_aside()
    set_environment(home)
    stop = StopRequest()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup does
            signal.signal(number, lambda *_: stop.set())
    servers: list[Server] = []
    try:
        for start in (partial(start_prefect, is_short_lived=False), start_mlflow):
            servers.append(start(home))  # one by one: where the second does not start, the first is stopped
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


def _serve(home: Home, servers: list[Server], stop: StopRequest) -> None:
    prefect, mlflow = servers
    os.environ |= {
        "PREFECT_API_URL": f"{prefect.url}/api",
        "MLFLOW_TRACKING_URI": mlflow.url,
        "PREFECT_LOGGING_EXTRA_LOGGERS": "fluxline",
    }
    (home.root / SERVED).unlink(missing_ok=True)
    runner = Runner(home, f"{prefect.url}/api")
    pid = os.getpid()
    found = RunningServers(pid=pid, born=born(pid), prefect_url=prefect.url, mlflow_url=mlflow.url)
    home.servers.write_text(found.model_dump_json())
    for server, usual in ((prefect, PREFECT_PORT), (mlflow, MLFLOW_PORT)):
        stepped = "" if server.url.endswith(f":{usual}") else f"  (port {usual} was taken)"
        print(f"{server.name:<8}{server.url}{stepped}")
    print("Ctrl-C stops all.", *runner.lost, sep="\n", flush=True)
    supervisor = Supervisor([*servers, runner], partial(print, flush=True), stop)
    is_told = False
    try:
        while not stop.wait(0.5):
            supervisor.look()
            if not is_told and (names := served(home)):
                is_told = True
                where = f"press Run at {prefect.url}/deployments"
                print(f"Served, {where}: {', '.join(names)}.", flush=True)
    finally:
        print("Stopping ...", flush=True)
        runner.stop()
