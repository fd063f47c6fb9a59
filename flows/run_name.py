"""Names of flow runs that say what they are, from the parameters of the run."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID


def named(
    template: str, words: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> Callable[[], str]:
    """Return what Prefect asks for a flow run's name.

    Args:
        template: the name with the flow's parameters in braces; data that were named follow.
        words: further words for the template, from the parameters.
    """

    def name() -> str:
        from prefect.runtime import flow_run

        given = dict(flow_run.parameters)
        text = template.format(**given | (words(given) if words else {}))
        return f"{text}, {given['data']}" if given.get("data") else text

    return name


def this_run_id() -> str:
    """Return the id of the flow run we are in; empty outside of one."""
    from prefect.runtime import flow_run

    return flow_run.id or ""


def rename(name: str) -> None:
    """Name the flow run we are in, now that it is known what it does."""
    from prefect.client.orchestration import get_client

    if run_id := this_run_id():
        with suppress(Exception), get_client(sync_client=True) as client:  # a name is not worth a run
            client.set_flow_run_name(UUID(run_id), name)
