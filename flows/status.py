"""`fluxline status`: what runs, what waits for what, how long yet, what comes next; read from outside in a second.

All of it is read from files and by short questions, so it answers while a run is killed, on half-written files and on
an empty home; and what cannot be known is said instead of guessed.
"""

import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from flows.agenda import ACTIVE, Agenda, read_agenda
from flows.servers import RunningServers
from fluxmodel.data.cache_quota import cache_limit, holdings
from fluxmodel.errors import FluxlineError
from tasks.awaited import Awaited, versions_awaited
from tasks.devices import devices
from tasks.home import Home, open_home
from tasks.leases import Holder, Waiting, holders, waiting
from tasks.pace import Pace, read_pace
from tasks.presence import ALIKE, QUEUED, RUN, WORKING, Presence, born, who_is_present
from tasks.run_key import RunBook

DISK_SECONDS = 0.3
"""The home's size is added up for so long at most; a larger home is said to hold more than what was seen."""


@dataclass(frozen=True)
class Servers:
    """Prefect's and MLflow's servers; `since` is the Unix time `fluxline up` began, 0 where it does not run."""

    prefect: str = ""
    mlflow: str = ""
    since: float = 0.0
    pid: int = 0
    trouble: str = ""


@dataclass(frozen=True)
class StageSeen:
    """A stage in progress.

    Attributes:
        stage: its name.
        phase: working, queued or alike (another command does the same).
        run_key: its.
        pid: process of its run.
        since: Unix time the phase began.
        wants: what it waits for; empty while it works.
        behind: who holds that, or is before it in line.
        devices: GPUs it holds.
        pace: how far and how fast its child is; None before the first report.
    """

    stage: str
    phase: str
    run_key: str
    pid: int
    since: float
    wants: str = ""
    behind: list[str] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    pace: Pace | None = None


@dataclass(frozen=True)
class RunSeen:
    """A run in progress: of a command, of a deployment, or one only Prefect's server knows."""

    what: str
    command: str
    pid: int
    since: float
    state: str = "Running"
    flow: str = ""
    flow_run: str = ""
    url: str = ""
    stages: list[StageSeen] = field(default_factory=list)


@dataclass(frozen=True)
class LastRun:
    """The run that ended last with a registered version."""

    said: str
    verdict: str
    finished: float


@dataclass(frozen=True)
class Disk:
    """Bytes of the home, of which at least `used` were seen, and free ones."""

    used: int
    is_whole: bool
    free: int


@dataclass(frozen=True)
class Status:
    """All that `fluxline status` tells.

    `devices` says of each GPU who holds it, empty for nobody; `caches` what each kind of cache holds, in bytes;
    `caches_limit` is their quota, -1 where its setting is no number.
    """

    home: str
    time: float
    servers: Servers
    runs: list[RunSeen]
    devices: dict[str, str]
    agenda: Agenda
    owed: list[str]
    approvals: list[Awaited]
    approvals_trouble: str
    last: LastRun | None
    disk: Disk
    caches: dict[str, int]
    caches_limit: int


def read_status(home: Home | None = None) -> Status:
    """Return what can be seen now. Never raises for what is missing, half written or away."""
    home = home or open_home()
    servers = _servers(home)
    agenda = read_agenda(f"{servers.prefect}/api" if servers.prefect and not servers.trouble else "")
    approvals, trouble = _approvals(home, servers)
    seats = _seats(home)
    return Status(
        home=str(home.root),
        time=time.time(),
        servers=servers,
        runs=_runs(home, agenda, seats),
        devices=_devices(seats),
        agenda=agenda,
        owed=_owed(home),
        approvals=approvals,
        approvals_trouble=trouble,
        last=_last(home),
        disk=_disk(home.root),
        caches=_caches(home),
        caches_limit=_caches_limit(home),
    )


def _servers(home: Home) -> Servers:
    """The user's own by name, else what `fluxline up` runs here."""
    prefect = os.environ.get("PREFECT_API_URL", "").rstrip("/").removesuffix("/api")
    named = os.environ.get("MLFLOW_TRACKING_URI", "")
    mlflow = named if named.startswith("http") else ""  # a database is no server, and may hold a password
    try:
        up = RunningServers.model_validate(json.loads(home.servers.read_text()))
        written = home.servers.stat().st_mtime
    except (OSError, ValueError):
        return Servers(prefect, mlflow)
    since = born(up.pid)
    if not since or since > written + 1:  # dead, or its number is another's by now
        said = f"`fluxline up` (process {up.pid}) ended without a word; start it again"
        return Servers(prefect, mlflow, trouble="" if prefect else said)
    return Servers(prefect or up.prefect_url, mlflow or up.mlflow_url, since, up.pid)


@dataclass(frozen=True)
class _Seats:
    """Who holds devices and cores, and who waits for devices, the next one first."""

    held: list[Holder]
    queue: list[Waiting]

    def before(self, own: Waiting) -> list[str]:
        """Who keeps a stage from its devices: who holds one, and who comes before it."""
        ahead = self.queue[: self.queue.index(own)]
        return [_holder(each) for each in self.held if each.resource.startswith("gpu")] + [
            f"{each.stage} (process {each.pid}, in line)" for each in ahead
        ]


def _seats(home: Home) -> _Seats:
    try:
        return _Seats(holders(home), waiting())
    except (OSError, ValueError, TypeError):  # a file that is being written
        return _Seats([], [])


def _devices(seats: _Seats) -> dict[str, str]:
    """Who holds each GPU; empty text for a free one."""
    try:
        found = {f"gpu-{each.name}": "" for each in devices()}
    except FluxlineError:  # the environment is wrong, which a run will say
        found = {}
    held = [each for each in seats.held if each.resource.startswith("gpu")]
    return found | {each.resource: f"{each.stage or 'another program'} (process {each.pid})" for each in held}


def _holder(each: Holder) -> str:
    return f"{each.stage or 'another program'} ({each.resource}, process {each.pid})"


def _runs(home: Home, agenda: Agenda, seats: _Seats) -> list[RunSeen]:
    here = who_is_present(home)
    runs = [each for each in here if each.phase == RUN]
    stages = [each for each in here if each.phase != RUN]
    found = []
    for run in runs:
        own = [_stage(home, each, stages, seats) for each in stages if each.pipeline_key == run.pipeline_key]
        found.append(_run(run, own, agenda))
    keys = {run.pipeline_key for run in runs}
    for stage in stages:
        if stage.pipeline_key not in keys:
            found.append(_run(stage, [_stage(home, stage, stages, seats)], agenda))
    known = {each.flow_run_id for each in here}
    for other in agenda.of(*ACTIVE):
        if other.id not in known:
            found.append(
                RunSeen("", "", 0, other.start, other.state, other.flow, other.name, other.url, stages=[])
            )
    return found


def _run(run: Presence, stages: list[StageSeen], agenda: Agenda) -> RunSeen:
    seen = next((each for each in agenda.runs if each.id == run.flow_run_id), None)
    return RunSeen(
        what=run.what,
        command=command_of(run.pid),
        pid=run.pid,
        since=run.began,
        state=seen.state if seen else "Running",
        flow=run.flow,
        flow_run=run.flow_run,
        url=seen.url if seen else "",
        stages=stages,
    )


def _stage(home: Home, own: Presence, all_stages: list[Presence], seats: _Seats) -> StageSeen:
    wants, behind = "", []
    mine = next((each for each in seats.queue if (each.run_key, each.pid) == (own.run_key, own.pid)), None)
    if mine is not None:  # with its cores in hand or not
        wants, behind = f"{mine.wanted} GPU{'s' if mine.wanted > 1 else ''}", seats.before(mine)
    elif own.phase == ALIKE:
        wants = "the same stage of another run"
        behind = [_told(each) for each in all_stages if each.run_key == own.run_key and each.phase != ALIKE]
    elif own.phase == QUEUED:
        wants = "a core"
        behind = [_told(each) for each in all_stages if each.phase == WORKING]
    return StageSeen(
        stage=own.what,
        phase=QUEUED if mine else own.phase,
        run_key=own.run_key,
        pid=own.pid,
        since=own.since,
        wants=wants,
        behind=behind,
        devices=[
            each.resource
            for each in seats.held
            if each.run_key == own.run_key and each.resource.startswith("gpu")
        ],
        pace=read_pace(home.work(own.run_key)) if own.phase == WORKING and mine is None else None,
    )


def _told(other: Presence) -> str:
    return f"{other.what} (process {other.pid})"


def command_of(pid: int) -> str:
    """Return a process's command as a person would type it; empty where it is gone or another's."""
    import psutil

    try:
        words = psutil.Process(pid).cmdline()
    except psutil.Error:
        return ""
    names = [Path(word).name for word in words]
    if "fluxline" in names:
        return " ".join(["fluxline", *words[names.index("fluxline") + 1 :]])
    if "-m" in words:
        module, *rest = words[words.index("-m") + 1 :] or [""]
        return " ".join(["fluxline" if module == "flows.cli" else module, *rest])
    return " ".join(names[:1] + words[1:])


def _owed(home: Home) -> list[str]:
    """Names of stages that MLflow is to be told of yet."""
    found = []
    for place in sorted((home.root / "owed").glob("*.json")):
        try:
            found.append(str(json.loads(place.read_text())["identity"]["stage"]))
        except (OSError, ValueError, KeyError, TypeError):
            found.append(place.stem[:12])
    return found


def _approvals(home: Home, servers: Servers) -> tuple[list[Awaited], str]:
    try:
        return versions_awaited(home, servers.mlflow), ""
    except (OSError, ValueError, KeyError) as error:
        return [], str(getattr(error, "reason", "") or error)


def _last(home: Home) -> LastRun | None:
    book = RunBook(home)
    for decision in reversed(book.history("register")):
        record = book.read(decision.run_key)
        if record is None:
            continue
        asked, verdict = record.identity.upstream.get("decision", ""), ""
        for other in reversed(book.history("gate")):
            made = book.read(other.run_key)
            if made is not None and made.artifact.digest == asked:
                verdict = made.gave
                break
        return LastRun(record.gave, verdict, max(record.finished, decision.time))
    return None


def _disk(root: Path) -> Disk:
    place = next((each for each in (root, *root.parents) if each.exists()), Path("/"))
    used, is_whole, seen = 0, True, set()
    deadline, waiting = time.monotonic() + DISK_SECONDS, [root]
    while waiting and is_whole:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:  # gone meanwhile, or not there yet
            continue
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                    continue
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if (
                found.st_nlink == 1 or found.st_ino not in seen
            ):  # the store and MLflow share files by hard links
                seen.add(found.st_ino)
                used += found.st_blocks * 512
        is_whole = time.monotonic() < deadline or not waiting
    return Disk(used, is_whole, shutil.disk_usage(place).free)


def _caches(home: Home) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for each in holdings(home.cache):
        sizes[each.name] = sizes.get(each.name, 0) + each.num_bytes
    return sizes


def _caches_limit(home: Home) -> int:
    try:
        return cache_limit(home.root)
    except FluxlineError:
        return -1
