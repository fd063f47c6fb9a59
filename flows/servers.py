"""The servers behind a run: a real Prefect server, and for `fluxline up` MLflow's too, on 127.0.0.1.

Each has its SQLite file under FLUXLINE_HOME, steps over a busy port, writes to a log file, and ends with us.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException

from pydantic import BaseModel, ConfigDict

from flows.ports import PortClaim, claim_port, listens
from fluxmodel.errors import StageError
from fluxmodel.stop_request import StopRequest
from tasks.databases import mlflow_artifact_root, mlflow_database, prefect_database, require_database
from tasks.home import Home
from tasks.launch import end_group, start_child, stop_group
from tasks.presence import is_process

PREFECT_PORT = 4200
MLFLOW_PORT = 5000
READY_SECONDS = 300.0
_QUIET_SERVER = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "ERROR",  # into its log file: a run's own silence is not the server's
}
_SHORT_LIVED = {  # a server for one run schedules nothing
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
}


class RunningServers(BaseModel):
    """What `fluxline up` is running, kept in FLUXLINE_HOME; `born` is when its process began, Unix time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    born: float = 0.0
    prefect_url: str
    mlflow_url: str

    @property
    def prefect_api(self) -> str:
        """Prefect's API address."""
        return f"{self.prefect_url}/api"


class Server:
    """One server process with its address; started at once, waited for when needed.

    Args:
        name: of it and of its log.
        claim: the port it is told to listen at.
        health: path that answers once it is up.
        command: program and arguments.
        home: where its log goes.
        environment: variables it gets beside ours.
    """

    def __init__(
        self,
        name: str,
        claim: PortClaim,
        health: str,
        command: list[str],
        home: Home,
        environment: dict[str, str],
    ):
        self.name, self.title, self._claim = name, f"{name} server", claim
        self.url = f"http://127.0.0.1:{claim.port}"
        self.health = self.url + health
        self.log = home.logs / f"{name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._command = [sys.executable, "-m", "tasks.guard", *command]
        self._environment = os.environ | environment  # kept: ours will name it when it is started again
        self.process, self._pipe = self._start()

    def _start(self) -> tuple[subprocess.Popen, int]:
        with self.log.open("ab") as sink, _environment(self._environment):
            return start_child(self._command, sink, threads=1)

    def wait(self, stop: StopRequest | None = None) -> None:
        """Return when the server answers, or when `stop` is set.

        Raises:
            StageError: it ended, or did not answer in time.
        """
        deadline = time.monotonic() + READY_SECONDS
        while not self._is_up() and not (stop is not None and stop.is_set()):
            if self.process.poll() is not None:
                raise StageError(f"The {self.name} server ended at once; its log is {self.log}.")
            if time.monotonic() > deadline:
                raise StageError(
                    f"The {self.name} server did not answer within {READY_SECONDS:.0f} s; see {self.log}."
                )
            time.sleep(0.05)

    def _is_up(self) -> bool:
        return answers(self.health) and listens(self.process.pid, self._claim.port)

    def restart(self, stop: StopRequest) -> list[str]:
        """Start the server again at the same address, after it died, and wait until it answers; nothing is to be said.

        Raises:
            StageError: it ended again, or did not answer in time.
        """
        self._end_rest()
        self.process, self._pipe = self._start()
        self.wait(stop)
        return []

    def look(self) -> list[str]:
        """A server that is up needs nothing."""
        return []

    def _end_rest(self) -> None:
        end_group(self.process, grace=10.0)  # whatever of it still lives holds the port
        with suppress(OSError):
            os.close(self._pipe)

    def stop(self) -> None:
        """End the server and all it started."""
        stop_group(self.process, grace=10.0)
        with suppress(OSError):
            os.close(self._pipe)
        self._claim.give_up()


def start_prefect(home: Home, is_short_lived: bool = True) -> Server:
    """Start a Prefect server; for `is_short_lived` without the services that only schedules need."""
    claim = claim_port(PREFECT_PORT)
    url, port = f"http://127.0.0.1:{claim.port}", claim.port
    root = home.root / "prefect"
    root.mkdir(parents=True, exist_ok=True)
    database = prefect_database(home)
    require_database(database, home)
    environment = {
        "PREFECT_HOME": str(root),
        database.variable: database.url,
        "PREFECT_UI_API_URL": f"{url}/api",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        **_QUIET_SERVER,
        **(_SHORT_LIVED if is_short_lived else {}),
    }
    app = ["--factory", "prefect.server.api.server:create_app", "--timeout-keep-alive", "5"]
    where = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    command = [sys.executable, "-m", "uvicorn", *app, *where]
    return Server("prefect", claim, "/api/health", command, home, environment)


def start_mlflow(home: Home) -> Server:
    """Start an MLflow server over the database and the artifact folder of this home.

    Runs hold their artifacts' place as a file address, so a run begun here goes on without this server. The database's
    address may hold a password, so it goes by the environment: everyone can read a command line.
    """
    claim = claim_port(MLFLOW_PORT)
    database = mlflow_database(home)
    require_database(database, home)
    where = ["--host", "127.0.0.1", "--port", str(claim.port), "--workers", "1"]
    stores = ["--default-artifact-root", mlflow_artifact_root(home), "--no-serve-artifacts"]
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        database.variable: database.url,
    }
    command = [sys.executable, "-m", "mlflow", "server", *where, *stores]
    return Server("mlflow", claim, "/health", command, home, environment)


def running_servers(home: Home) -> RunningServers | None:
    """Return what `fluxline up` runs for this home, if it still does."""
    try:
        found = RunningServers.model_validate(json.loads(home.servers.read_text()))
    except (OSError, ValueError):
        return None
    if not is_process(found.pid, found.born):  # the number alone may be another's by now
        return None
    return found if answers(f"{found.prefect_api}/health") else None


def use_running(home: Home) -> RunningServers | None:
    """Point this process at what `fluxline up` runs, where the user named no other servers.

    Raises:
        InputError: MLflow is to be used without a server, and its database cannot be.
    """
    found = running_servers(home)
    if found is None:
        require_tracking(home)
    else:
        os.environ.setdefault("PREFECT_API_URL", found.prefect_api)
        os.environ.setdefault("MLFLOW_TRACKING_URI", found.mlflow_url)
    return found


def require_tracking(home: Home) -> None:
    """Check MLflow's database, where this process is to write to it without a server.

    Raises:
        InputError: it does not answer, or its schema is another version's.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        require_database(mlflow_database(home), home)


@contextmanager
def prefect_for_run(home: Home) -> Iterator[Server | None]:
    """Have a Prefect server for one run: PREFECT_API_URL's, else `fluxline up`'s, else one of its own.

    Raises:
        InputError: a database that is to be used cannot be.
    """
    if os.environ.get("PREFECT_API_URL"):
        require_tracking(home)
        yield None
    elif use_running(home):
        yield None
    else:
        server = start_prefect(home)
        os.environ["PREFECT_API_URL"] = f"{server.url}/api"
        try:
            yield server
        finally:
            server.stop()
            os.environ.pop("PREFECT_API_URL", None)


def answers(url: str) -> bool:
    """Return whether a local address answers with success."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as reply:
            return reply.status == 200
    except (OSError, HTTPException):
        return False


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
