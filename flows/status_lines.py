"""What `fluxline status` says, in lines for people."""

import sys
import time
from collections.abc import Iterator

from flows.agenda import PAUSED, PLANNED
from flows.status import RunSeen, StageSeen, Status, read_status
from fluxmodel.errors import InputError
from tasks.databases import shown_address
from tasks.pace import pace_said, seconds_said
from tasks.presence import WORKING

WATCH_SECONDS = 2.0
_MOST_PLANNED = 4
_INDENT = " " * 10


def watch_status() -> int:
    """Show the status on the terminal, again and again, until Ctrl-C; return the exit code.

    Raises:
        InputError: there is no terminal to show it on.
    """
    from rich.live import Live
    from rich.text import Text

    if not sys.stdout.isatty():
        raise InputError("--watch is for a terminal; leave it out where the output goes to a file or a pipe.")
    try:
        with Live(screen=True, auto_refresh=False) as live:
            while True:
                live.update(Text("\n".join(status_lines(read_status()))), refresh=True)
                time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        return 0


def status_lines(status: Status) -> list[str]:
    """Return the whole status."""
    return [
        *_servers(status),
        *_runs(status),
        *_row("devices", [f"{name}: {who or 'free'}" for name, who in sorted(status.devices.items())]),
        *_planned(status),
        *_approvals(status),
        *_row("mlflow", [_owed(status)] if status.owed else []),
        *_row("last", _last(status)),
        *_row("disk", [_disk(status)]),
        *_row("caches", [_caches(status)] if status.caches else []),
    ]


def _row(name: str, lines: list[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield f"{name if number == 0 else '':<{len(_INDENT)}}{line}"


def _servers(status: Status) -> Iterator[str]:
    servers = status.servers
    if servers.trouble:
        yield from _row("servers", [f"not up: {servers.trouble}."])
        return
    if not (servers.prefect or servers.mlflow):
        yield from _row(
            "servers", ["none up; `fluxline up` starts them, and `fluxline run` does without them"]
        )
        return
    where = [f"Prefect {shown_address(servers.prefect)}"] if servers.prefect else []
    where += [f"MLflow {shown_address(servers.mlflow)}"] if servers.mlflow else []
    since = f"; up since {_clock(servers.since, status.time)} (process {servers.pid})" if servers.pid else ""
    lines = [", ".join(where) + since]
    if status.agenda.trouble:
        lines.append(f"Prefect does not answer ({status.agenda.trouble}); what it plans is not known.")
    yield from _row("servers", lines)


def _runs(status: Status) -> Iterator[str]:
    if not status.runs:
        yield from _row("runs", ["nothing; `fluxline run` starts the chain, or press Run in Prefect"])
    for run in status.runs:
        yield from _row("runs", [_run(run, status.time)])
        width = max((len(stage.stage) for stage in run.stages), default=0)
        for stage in run.stages:
            yield f"{_INDENT}  {stage.stage:<{width}}  {_stage(stage, status.time)}"
        if not run.stages and run.pid:
            yield f"{_INDENT}  between stages"


def _run(run: RunSeen, now: float) -> str:
    name = f"{run.flow} {run.flow_run!r}" if run.flow else run.what
    if run.flow and run.what and run.what != run.flow:
        name += f": {run.what}"
    state = "" if run.state == "Running" else f" [{run.state}]"
    by = f", by `{run.command}`" if run.command else ""
    process = f" (process {run.pid})" if run.pid else ""
    return f"{name}{state}, since {_clock(run.since, now)}{by}{process}"


def _stage(stage: StageSeen, now: float) -> str:
    since = seconds_said(now - stage.since)
    if stage.phase != WORKING:
        behind = f", behind {', '.join(stage.behind)}" if stage.behind else ""
        return f"waits for {stage.wants}{behind}, for {since}"
    where = f"on {', '.join(stage.devices)}: " if stage.devices else ""
    if stage.pace is None:
        return f"{where}at work for {since}, no report yet"
    return where + pace_said(stage.pace)


def _planned(status: Status) -> Iterator[str]:
    planned = status.agenda.of(PLANNED)
    lines = [
        f"{run.flow} {run.name!r} {_when(run.start, status.time)}"
        + (f" [{run.state}]" if run.state != "Scheduled" else "")
        for run in planned[:_MOST_PLANNED]
    ]
    if len(planned) > _MOST_PLANNED:
        lines.append("and more")
    if status.agenda.url and not status.agenda.trouble:
        lines = lines or ["nothing; `fluxline deploy --schedule` switches the schedules on"]
    yield from _row("next", lines)


def _approvals(status: Status) -> Iterator[str]:
    lines = [
        f"{each.name} version {each.version} waits for a person: "
        f"`fluxline promote {each.name} --version {each.version}`"
        for each in status.approvals
    ]
    lines += [
        f"{run.flow} {run.name!r} waits for an answer at {shown_address(run.url)}"
        for run in status.agenda.of(PAUSED)
    ]
    if status.approvals_trouble:
        lines.append(f"not known, MLflow did not answer ({status.approvals_trouble})")
    yield from _row("approval", lines)


def _owed(status: Status) -> str:
    names = ", ".join(status.owed[:5]) + (", ..." if len(status.owed) > 5 else "")
    each = "stage is" if len(status.owed) == 1 else "stages are"
    return f"{len(status.owed)} {each} still to be logged ({names}); the next run does it once MLflow answers"


def _last(status: Status) -> list[str]:
    if status.last is None:
        return []
    said = [f"{status.last.said}, {_clock(status.last.finished, status.time)}"]
    return [*said, f"gate: {status.last.verdict}"] if status.last.verdict else said


def _disk(status: Status) -> str:
    more = "" if status.disk.is_whole else "more than "
    return f"{more}{_size(status.disk.used)} in {status.home}, {_size(status.disk.free)} free"


def _caches(status: Status) -> str:
    held = ", ".join(f"{name} {_size(size)}" for name, size in sorted(status.caches.items()))
    if status.caches_limit < 0:
        return f"{held}; FLUXLINE_CACHE_LIMIT is no number of bytes"
    return f"{held}; at most {_size(status.caches_limit)} together"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


def _clock(then: float, now: float) -> str:
    """A moment of the past: by the clock today, else with its date."""
    shape = "%H:%M:%S" if now - then < 43_200 else "%Y-%m-%d %H:%M"
    return time.strftime(shape, time.localtime(then))


def _when(then: float, now: float) -> str:
    if then <= now:
        return f"due since {seconds_said(now - then)}"
    return f"at {time.strftime('%a %H:%M', time.localtime(then))}, in {seconds_said(then - now)}"
