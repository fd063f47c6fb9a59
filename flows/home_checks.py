"""What `fluxline doctor` looks at of a home: what the dead left behind, databases, servers, ports, disk, clocks."""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress

from flows.check import Check
from flows.ports import free_port
from flows.servers import MLFLOW_PORT, PREFECT_PORT, RunningServers, answers, running_servers
from fluxmodel.errors import FluxlineError
from tasks.databases import Database, mlflow_database, prefect_database, require_database, shown_address
from tasks.home import Home, open_home
from tasks.http_call import server_time
from tasks.leases import holders
from tasks.presence import is_process, left_behind, who_is_present
from tasks.run_key import RunBook

FREE_GIGABYTES = 5.0
SKEW_NOTED, SKEW_BAD = 5.0, 60.0
"""Seconds between our clock and a server's: leases and heartbeats are counted in tens of seconds."""


def home_checks() -> tuple[Callable[[], Check], ...]:
    """Return the checks of the home this process works in."""
    return (_home, _disk, _servers, _clock, _ports, _leftovers, _devices, _prefect_database, _mlflow_database)


def _home() -> Check:
    try:
        return Check("FLUXLINE_HOME", "good", str(open_home().make().root))
    except FluxlineError as error:
        return Check("FLUXLINE_HOME", "bad", str(error), "set FLUXLINE_HOME to a folder you own.")


def _disk() -> Check:
    home = open_home()
    place = next(each for each in (home.root, *home.root.parents) if each.exists())
    free, last = shutil.disk_usage(place).free / 1e9, 2 * last_run_bytes(home) / 1e9
    found = f"{free:.0f} GB free" if free >= 10 else f"{free:.1f} GB free"
    wanted = max(FREE_GIGABYTES, last)
    if last:
        size = f"{last:.1f} GB" if last >= 1 else f"{1000 * last:.0f} MB"
        found += f"; a run like the last one takes up to {size}"
    if free < wanted:
        return Check(
            "disk",
            "bad",
            found,
            f"free some space: {wanted:.0f} GB are comfortable; `fluxline prune` says what may go.",
        )
    return Check("disk", "good", found)


def last_run_bytes(home: Home) -> int:
    """Return what the artifacts of each stage's last run hold, in bytes; MLflow's copies may take as much again."""
    book = RunBook(home)
    records = [book.read(history[-1].run_key) for name in book.stages() if (history := book.history(name))]
    return sum(record.artifact.num_bytes for record in records if record is not None)


def _servers() -> Check:
    home = open_home()
    given = {
        name: os.environ[name] for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI") if os.environ.get(name)
    }
    for name, url in given.items():
        health = f"{url.rstrip('/')}/health"
        if url.startswith("http") and not answers(health):
            cure = f"start that server, or `unset {name}`."
            return Check("servers", "bad", f"{name}={shown_address(url)} does not answer", cure)
    if found := running_servers(home):
        if not answers(f"{found.mlflow_url}/health"):
            cure = f"see {home.logs / 'mlflow.log'}; `fluxline up` starts it again by itself."
            return Check("servers", "bad", f"MLflow at {found.mlflow_url} does not answer", cure)
        return Check("servers", "good", f"up: {found.prefect_url} and {found.mlflow_url}")
    said = ", ".join(f"{name}={shown_address(url)}" for name, url in given.items())
    return Check("servers", "good", said or "none up; `fluxline run` starts what it needs")


def _clock() -> Check:
    found = running_servers(open_home())
    api = os.environ.get("PREFECT_API_URL") or (found.prefect_api if found else "")
    then = None
    with suppress(OSError, ValueError):
        then = server_time(f"{api.rstrip('/')}/health") if api else None
    if then is None:
        return Check("clock", "good", "no server to compare with")
    skew = abs(time.time() - then)
    said = f"{skew:.0f} s from Prefect's server"
    if skew < SKEW_NOTED:
        return Check("clock", "good", said)
    cure = "let both machines keep time by NTP: leases, heartbeats and schedules go by it."
    return Check("clock", "bad" if skew > SKEW_BAD else "note", said, cure)


def _ports() -> Check:
    try:
        ports = {usual: free_port(usual) for usual in (PREFECT_PORT, MLFLOW_PORT)}
    except FluxlineError as error:
        return Check("ports", "bad", str(error), "stop some local server.")
    taken = [
        f"{usual} is taken{_by_whom(usual)}, {found} will be used"
        for usual, found in ports.items()
        if usual != found
    ]
    said = "; ".join(taken) or f"{PREFECT_PORT} and {MLFLOW_PORT} are free"
    return Check("ports", "note" if taken else "good", said)


def _by_whom(port: int) -> str:
    """Who listens there, as far as we may know: best of all, the home of another `fluxline up`."""
    import psutil

    with suppress(psutil.Error, OSError):
        for each in psutil.net_connections("tcp"):
            if each.status != psutil.CONN_LISTEN or not each.laddr or each.laddr.port != port or not each.pid:
                continue
            process = psutil.Process(each.pid)
            home = ""
            with suppress(psutil.Error):
                home = process.environ().get("FLUXLINE_HOME", "")
            ours = home and os.path.realpath(home) == os.path.realpath(open_home().root)
            whose = "this home" if ours else home
            return f" by {process.name()} (process {each.pid}{f', of {whose}' if whose else ''})"
    return ""


def _leftovers() -> Check:
    home = open_home()
    dead = [str(path) for path in left_behind(home)]
    with suppress(OSError, ValueError):
        up = RunningServers.model_validate_json(home.servers.read_text())
        if not is_process(up.pid, up.born):
            dead.insert(0, str(home.servers))
    if not dead:
        return Check("leftovers", "good", "none")
    more = f" and {len(dead) - 2} more" if len(dead) > 2 else ""
    found = f"of processes that were killed: {', '.join(dead[:2])}{more}"
    return Check(
        "leftovers", "note", found, "they harm nobody, and the next `fluxline up` or run removes them."
    )


def _devices() -> Check:
    """A device whose holder's run is gone: a child that outlived it, and keeps the others waiting."""
    home = open_home()
    at_work = {each.run_key for each in who_is_present(home)}
    orphans = [
        each
        for each in holders(home)
        if each.home == str(home.root) and each.run_key and each.run_key not in at_work
    ]
    if not orphans:
        return Check("devices", "good", "nobody holds one without a run")
    said = ", ".join(f"{each.resource} by process {each.pid} ({each.stage})" for each in orphans)
    pids = " ".join(sorted({str(each.pid) for each in orphans if each.pid}))
    cure = f"it ends by itself within a minute; if it does not: `kill {pids}`." if pids else "wait a minute."
    return Check("devices", "bad", f"held by a child whose run is gone: {said}", cure)


def _prefect_database() -> Check:
    return _database("prefect database", prefect_database(open_home()))


def _mlflow_database() -> Check:
    return _database("mlflow database", mlflow_database(open_home()))


def _database(name: str, database: Database) -> Check:
    try:
        revision = require_database(database, open_home())
    except FluxlineError as error:
        found, _, cure = str(error).partition("; ")
        return Check(name, "bad", found, cure or "restore it from a backup (`fluxline restore`).")
    if database.is_sqlite and database.file.is_file() and (why := _locked(database)):
        cure = f"`fuser {database.file}` names who holds it; end that process, if it is none of a run's."
        return Check(name, "bad", f"{database.file} cannot be written to ({why})", cure)
    return Check(name, "good", f"{database.shown}, schema {revision or 'not made yet'}")


def _locked(database: Database, seconds: float = 2.0) -> str:
    """Why SQLite would not let us write, asked without writing; empty if it would."""
    try:
        with closing(sqlite3.connect(database.file, timeout=seconds, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        return str(error)
    return ""
