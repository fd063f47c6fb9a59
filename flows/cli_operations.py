"""The verbs of operations, on the same command as those of `flows.cli`, which imports this module."""

from typing import Annotated

from cyclopts import Parameter

from flows.command import app


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
