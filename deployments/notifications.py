"""Messages about runs, through a notification block of Prefect's that the user names: Slack, e-mail, a webhook, any.

Told are a run that failed or crashed, a promotion that waits for a person, and a champion that drifted; each message
says which run, which model, and where to look. `python -m deployments.notifications TYPE/NAME` applies them.
"""

import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from deployments.automations import ensure
from deployments.catalogue import CATALOGUE
from fluxmodel.errors import FluxlineError, InputError
from tasks import drift
from tasks.http_call import without_login

ASKS = "approve"
"""The flow that suspends itself with a question to a person."""
# A flow takes its settings as one form, or one by one; a name that is not given follows from the preset.
_MODEL = (
    "{% set given = flow_run.parameters.values() | select('mapping') | first | default(flow_run.parameters) %}"
    "{{ given.name or given.model or ('fluxline-' ~ given.preset if given.preset else 'not named') }}"
)
_ENDED = (
    "{{ flow.name }} '{{ flow_run.name }}': {{ flow_run.state_name }}. {{ flow_run.state.message or '' }}"
)
_LINE = "\n"


def automations(block: str) -> list[Automation]:
    """Return what sends messages through `block`, as `slack-webhook/team`: the block's type and its name.

    Raises:
        InputError: there is no such block, or it cannot notify.
    """
    number, where = block_id(block), _pages()
    run = f"{where}/runs/flow-run/{{{{ flow_run.id }}}}"
    flows = [each.name for each in CATALOGUE]
    return [
        _automation(
            "fluxline: tell of failed runs",
            f"Sends a message through {block} when a run fails or crashes.",
            _ended(flows, "Failed", "Crashed", "TimedOut"),
            number,
            "Fluxline: {{ flow.name }} {{ flow_run.state_name | lower }}, {{ flow_run.name }}",
            _LINE.join([_ENDED, f"model: {_MODEL}", f"run: {run}"]),
        ),
        _automation(
            "fluxline: tell of a promotion that waits",
            f"Sends a message through {block} when a version waits for a person's approval.",
            _ended([ASKS], "Suspended", "Paused"),
            number,
            "Fluxline: {{ flow_run.parameters.name or 'a model' }} waits for your approval",
            _LINE.join([
                "{{ flow_run.parameters.name or 'The newest model' }} version "
                "{{ flow_run.parameters.version or '(newest)' }} waits: the gate would promote it once you say yes.",
                f"answer here: {run}",
            ]),
        ),
        _automation(
            "fluxline: tell of a drifted champion",
            f"Sends a message through {block} when the champion is worse than its interval.",
            EventTrigger(
                expect={drift.EVENT}, posture=Posture.Reactive, threshold=1, within=timedelta(0), match={}
            ),
            number,
            "Fluxline: the champion drifted, {{ event.resource['prefect.resource.name'] }}",
            _LINE.join([
                "{{ event.resource['prefect.resource.name'] }}: {{ event.payload.said or 'outside its interval' }}",
                f"event: {where}/events/event/{{{{ event.occurred.strftime('%Y-%m-%d') }}}}/{{{{ event.id }}}}",
            ]),
        ),
    ]  # fmt: skip


def block_id(block: str) -> UUID:
    """Return the id of a notification block.

    Raises:
        InputError: there is no such block, or it cannot notify.
    """
    kind, _, name = block.partition("/")
    if not (kind and name):
        raise InputError(
            f"notify is {block!r}; give a block as TYPE/NAME, such as slack-webhook/team or custom-webhook/ours."
        )
    with get_client(sync_client=True) as client:
        try:
            found = client.read_block_document_by_name(name, kind)
        except ObjectNotFound:
            raise InputError(
                f"notify is {block!r}, but Prefect has no such block; create it in the UI under Blocks, or by "
                "`prefect block create`, then run the same command again."
            ) from None
    schema = found.block_schema
    if schema is None or "notify" not in schema.capabilities:
        raise InputError(f"notify is {block!r}, but a block of type {kind} cannot send notifications.")
    return found.id


def _automation(
    name: str, said: str, trigger: EventTrigger, block: UUID, subject: str, body: str
) -> Automation:
    send = SendNotification(block_document_id=block, subject=subject, body=body)
    return Automation(name=name, description=said, trigger=trigger, actions=[send], tags=["fluxline"])


def _ended(flows: Sequence[str], *states: str) -> EventTrigger:
    related: Any = {"prefect.resource.role": "flow", "prefect.resource.name": list(flows)}
    return EventTrigger(
        expect={f"prefect.flow-run.{state}" for state in states},
        match={"prefect.resource.id": "prefect.flow-run.*"},  # pyright: ignore[reportArgumentType]
        match_related=related,
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )


def _pages() -> str:
    """Address of Prefect's pages, as its users know it, without a user and password of ours."""
    settings = get_current_settings()
    return without_login((settings.ui_url or str(settings.api.url or "").removesuffix("/api")).rstrip("/"))


def main(arguments: list[str]) -> int:
    """Apply the automations of one block to PREFECT_API_URL's server; return the exit code."""
    try:
        for name in ensure(automations(arguments[0])):
            print(name)
    except FluxlineError as error:
        print(f"fluxline: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
