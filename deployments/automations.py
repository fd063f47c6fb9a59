"""Automations of Prefect's server that keep runs alive, and how any automation gets there: once, by its name.

A run whose process died says nothing more: its heartbeats stop, and after `SILENT_SECONDS` it is marked Crashed. A
deployed run that crashed is scheduled again, at most `SECOND_CHANCES` times: its stages go on from their checkpoints,
into the same MLflow runs.
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

SILENT_SECONDS = 150
"""A heartbeat comes every 30 seconds (flows.environment): four may be lost, as while a server starts again, and a dead
run is still found within three minutes."""
SECOND_CHANCES = 2
_ALIVE = ("prefect.flow-run.heartbeat", "prefect.flow-run.Running", "prefect.flow-run.Cancelling")


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
                client.update_automation(found[0].id, AutomationCore.model_validate(switched.model_dump()))
            for double in found[1:]:
                client.delete_automation(double.id)
            names.append(core.name)
    return names


def automations() -> list[Automation]:
    """Return those that keep runs of our flows alive; whatever else the server runs is not touched."""
    flows = [each.name for each in CATALOGUE]
    return [_silent(flows), _crashed(flows)]


def _silent(flows: Sequence[str]) -> Automation:
    """A run that was alive, or was to be cancelled, and said nothing since, is crashed.

    Any other event of the run ends the watch: it ended, or it waits (paused, suspended, scheduled) without a process.
    """
    trigger = EventTrigger(
        after=set(_ALIVE),
        expect={"prefect.flow-run.*"},
        match={"prefect.resource.id": "prefect.flow-run.*"},  # pyright: ignore[reportArgumentType]
        match_related=_of(flows),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=SILENT_SECONDS),
    )
    said = f"No heartbeat for {SILENT_SECONDS} s: its process, or the whole machine, died."
    return Automation(
        name="fluxline: a silent run has crashed",
        description="Marks a run Crashed whose process died without a word.",
        trigger=trigger,
        actions=_to(StateType.CRASHED, "Crashed", said),
    )


def _crashed(flows: Sequence[str]) -> Automation:
    """A deployed run that crashed goes on; its runs are counted, so that what always crashes stays crashed."""
    trigger = EventTrigger(
        expect={"prefect.flow-run.Crashed"},
        match={  # pyright: ignore[reportArgumentType]
            "prefect.resource.id": "prefect.flow-run.*",
            "prefect.run-count": [str(count) for count in range(1, SECOND_CHANCES + 1)],
        },
        match_related=[_of(flows), {"prefect.resource.role": "deployment"}],  # pyright: ignore[reportArgumentType]
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )
    said = "It crashed, and goes on from its checkpoints."
    return Automation(
        name="fluxline: a crashed run goes on",
        description=f"Schedules a deployed run again that crashed, at most {SECOND_CHANCES} times.",
        trigger=trigger,
        actions=_to(StateType.SCHEDULED, "AwaitingRetry", said),
    )


def _to(kind: StateType, name: str, said: str) -> list[Any]:
    return [ChangeFlowRunState(state=kind, name=name, message=said, force=False)]


def _of(flows: Sequence[str]) -> Any:
    return {"prefect.resource.role": "flow", "prefect.resource.name": list(flows)}


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
