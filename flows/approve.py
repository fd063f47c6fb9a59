"""Approve: a person's yes or no to a promotion, typed in Prefect; while it is waited for, nothing is held.

The run suspends: its process ends, its slot is free, and a server that is started anew still knows the question. An
answer schedules the run again, which reads it and acts. `Resume` in Prefect shows the form below.
"""

from typing import Annotated, Any

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.input.actions import read_flow_run_input
from prefect.input.run_input import keyset_from_base_key
from prefect.states import Completed, Failed
from pydantic import Field

from fluxmodel.errors import FluxlineError
from tasks import registry
from tasks.approval import Answered, answer, find_waiting, question
from tasks.home import Home, open_home
from tasks.promotion import MAX_REASON

DAY = 24 * 3600


class Approval(RunInput):
    """A person's answer."""

    approve: bool = Field(
        title="Promote it?",
        description="Yes makes this version the champion; no keeps the champion and tags this version as declined.",
    )
    reason: str = Field(
        default="", max_length=MAX_REASON, title="Reason", description="Why; kept with the version."
    )
    by: str = Field(
        default="",
        max_length=100,
        title="Your name",
        description="Kept with the version; empty for the user Fluxline runs as.",
    )


@flow(name="approve", flow_run_name="approve {name} {version}", persist_result=False)
def approve(
    name: str = "",
    version: str = "",
    wait_days: Annotated[float, Field(gt=0, le=365)] = 30.0,
) -> State:
    """Ask a person whether a version that the gate would promote shall be the champion.

    The run shows what the gate found and then waits, holding nothing: press Resume and fill in the form.

    Args:
        name: Registered model; empty for the newest.
        version: Its number; empty for the newest that waits for approval.
        wait_days: How long to wait for an answer, days; after that the version still waits for `fluxline promote`.
    """
    home = open_home().make()
    try:
        key, is_answered = _pause_key()
        with registry.answering(home):
            find = registry.find_version if is_answered else find_waiting
            asked = find(home, name, version)
            text = question(home, asked)
        if not is_answered:
            _show(asked, text)
        form = Approval.with_initial_data(description=text)
        given: Any = suspend_flow_run(wait_for_input=form, timeout=int(wait_days * DAY), key=key)
        done = _act(home, asked, given)
    except FluxlineError as error:
        return Failed(message=str(error))
    made = Failed if done.outcome == "refused" else Completed
    return made(message=done.said, name=done.outcome.capitalize())


def _act(home: Home, asked: registry.RegisteredVersion, given: Approval) -> Answered:
    with registry.answering(home):
        return answer(home, asked, given.approve, given.reason.strip(), given.by.strip())


def _pause_key() -> tuple[str, bool]:
    """Return the name of this wait, and whether it was answered: a run retried after its time was up asks anew."""
    fired, number = _this_run().empirical_policy.pause_keys or set(), 1
    while f"answer-{number}" in fired:
        response = keyset_from_base_key(f"suspended-answer-{number}")["response"]
        if read_flow_run_input(response) is not None:
            return f"answer-{number}", True
        number += 1
    return f"answer-{number}", False


def _show(asked: registry.RegisteredVersion, text: str) -> None:
    """Put the question on the run's page, and fix which version it is about: `newest` may be another when answered."""
    from prefect.artifacts import create_markdown_artifact

    create_markdown_artifact(text, key="approval", description=f"{asked.name} version {asked.version}")
    run = _this_run()
    known = {**run.parameters, "name": asked.name, "version": asked.version}
    with get_client(sync_client=True) as client:
        client.update_flow_run(run.id, name=f"approve {asked.name} {asked.version}", parameters=known)


def _this_run() -> FlowRun:
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    return context.flow_run
