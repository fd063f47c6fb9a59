"""The verbs of operations, on the same command as those of `flows.cli`, which imports this module."""

import json
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from flows.command import Json, app


@app.command
def deploy(
    *,
    schedule: Annotated[
        bool, Parameter(negative="", help="Switch the schedules on; without it they stay as they are.")
    ] = False,
) -> int:
    """Apply deployments, work pool, limits and automations to the Prefect server; a second time changes nothing."""
    from flows.deploy import apply_deployments

    return apply_deployments(schedule)


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

    if watch:
        return watch_status()
    found = read_status()
    print(json.dumps(asdict(found)) if as_json else "\n".join(status_lines(found)))
    return 0
