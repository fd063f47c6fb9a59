"""The verbs of operations, on the same command as those of `flows.cli`, which imports this module."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.command import Json, app


@app.command
def deploy(
    *,
    schedule: Annotated[
        bool, Parameter(negative="", help="Switch the schedules on; without it they stay as they are.")
    ] = False,
    notify: Annotated[
        str,
        Parameter(
            help="Prefect block that is told of failed runs, questions and drift: slack-webhook/NAME, ..."
        ),
    ] = "",
) -> int:
    """Apply deployments, work pool, limits and automations to the Prefect server; a second time changes nothing."""
    from flows.deploy import apply_deployments

    return apply_deployments(schedule, notify)


@app.command
def status(
    *,
    watch: Annotated[
        bool, Parameter(negative="", help="Show it again every two seconds, until Ctrl-C.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Say what runs, what waits for what, how long yet, what comes next and what waits for a person."""
    from flows.status import read_status
    from flows.status_lines import status_lines, watch_status
    from tasks.databases import shown_address

    if watch:
        return watch_status()
    found = read_status()
    print(shown_address(json.dumps(asdict(found))) if as_json else "\n".join(status_lines(found)))
    return 0


@app.command
def backup(
    folder: Annotated[
        Path, Parameter(help="Folder of backups, best on another disk; files they share lie there once.")
    ],
    /,
    *,
    keep: Annotated[int, Parameter(help="Backups to keep, the newest ones; 0 keeps all.")] = 0,
    as_json: Json = False,
) -> int:
    """Save FLUXLINE_HOME and both databases while servers and runs go on."""
    from flows.backup import back_up_home, print_backup

    done = back_up_home(folder, keep)
    if as_json:
        print(json.dumps(done))
    else:
        print_backup(done)
    return 0


@app.command
def restore(
    source: Annotated[Path, Parameter(help="Folder of backups (its newest is taken) or one backup's file.")],
    /,
    *,
    home: Annotated[Path | None, Parameter(help="Where to; default FLUXLINE_HOME.")] = None,
    force: Annotated[bool, Parameter(negative="", help="Move aside what is there.")] = False,
    as_json: Json = False,
) -> int:
    """Bring a home back from a backup, checked, at its old place or another."""
    from flows.backup import print_restored, restore_into

    done = restore_into(home, source, force)
    if as_json:
        print(json.dumps(done))
    else:
        print_restored(done)
    return 0
