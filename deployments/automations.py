"""The automation of Prefect's server that finds dead runs, and how any automation gets there: once, by its name.

A run whose process died says nothing more: its heartbeats stop, and after `SILENT_SECONDS` it is marked Crashed. What
crashed goes on where `fluxline up` serves it (`flows.lost_runs`); an automation that schedules it again would not do:
it does not look at the state it changes, and Prefect delivers an event now and then a quarter of an hour late.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.states import StateType

from deployments.catalogue import CATALOGUE
from tasks.cluster import FLOW

SILENT_SECONDS = 150
"""A heartbeat comes every 30 seconds (flows.environment): four may be lost, as while a server starts again, and a dead
run is still found within three minutes."""
_ENDS = ("Completed", "Failed", "TimedOut", "Cancelled", "Crashed")
_WAITS = ("Paused", "Suspended", "Scheduled", "AwaitingRetry", "AwaitingConcurrencySlot", "Resuming", "Late")
_SUSPENDED = ("approve",)
"""Their runs wait for a person, without a process: a late event must not make them crash."""


def ensure(automations: Iterable[AutomationCore]) -> list[str]:
    """Make the server have each automation as given, found by its name; return the names.

    What stands as given is left untouched, and so is whether a person has switched it off. Doubles of a name go.
    """
    names = []
    with get_client(sync_client=True) as client:
        for wanted in automations:
            core = AutomationCore.model_validate(wanted.model_dump(exclude={"id"}))
            found = client.read_automations_by_name(name=core.name)
            if not found:
                client.create_automation(core)
            elif _told(found[0]) != _told(core):
                switched = core.model_copy(update={"enabled": found[0].enabled})
                plain = switched.model_dump(
                    exclude={"owner_resource"}
                )  # which the server refuses in a change
                client.update_automation(found[0].id, AutomationCore.model_validate(plain))
            for double in found[1:]:
                client.delete_automation(double.id)
            names.append(core.name)
    return names


def automations() -> list[Automation]:
    """Return those that find dead runs of our flows; whatever else the server runs is not touched."""
    ours = [each.name for each in CATALOGUE if each.name not in _SUSPENDED]
    return [_silent([*ours, FLOW])]


def _silent(flows: Sequence[str]) -> Automation:
    """A run that was alive, and neither ended nor waits, nor gave a sign of life since, has crashed."""
    of_ours: Any = {"prefect.resource.role": "flow", "prefect.resource.name": list(flows)}
    any_run: Any = {"prefect.resource.id": "prefect.flow-run.*"}
    trigger = EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={f"prefect.flow-run.{each}" for each in ("heartbeat", *_ENDS, *_WAITS)},
        match=any_run,
        match_related=of_ours,
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=SILENT_SECONDS),
    )
    said = f"No heartbeat for {SILENT_SECONDS} s: its process, or the whole machine, died."
    mark: list[Any] = [ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=said, force=False)]
    return Automation(
        name="fluxline: a silent run has crashed",
        description="Marks a run Crashed whose process died without a word.",
        trigger=trigger,
        actions=mark,
    )


def _told(automation: AutomationCore) -> dict[str, Any]:
    """What an automation says, without what the server adds and whether it is switched on."""
    text = automation.model_dump(mode="json", exclude={"id", "enabled", "owner_resource"})
    return _sorted(text)


def _sorted(value: Any) -> Any:
    """Sets become lists in any order."""
    if isinstance(value, dict):
        return {key: _sorted(inner) for key, inner in value.items() if key != "id"}
    if isinstance(value, list):
        return sorted((_sorted(inner) for inner in value), key=repr)
    return value
