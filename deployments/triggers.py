"""Automations that start a retraining: data that changed, and a champion that drifted.

Both listen to events of ours and run the deployment `retrain`, told what the flow that announced the event was told:
the fields of its form, with their types (`tojson`). A drifted champion only retrains where a person has switched that
automation on: whether another training mends what drifted is for a person to say.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.events.actions import RunDeployment
from prefect.events.schemas.automations import EventTrigger, Posture

from flows.retrain import RetrainConfig
from tasks import dataset_watch, drift

DEPLOYMENT = "retrain/retrain"
DATA_CHANGED = "fluxline: data changed, retrain"
CHAMPION_DRIFTED = "fluxline: champion drifted, retrain"


def automations() -> list[Automation]:
    """Return the automations of triggers, for the deployment `retrain` as it stands on the server."""
    with get_client(sync_client=True) as client:
        retrain = client.read_deployment_by_name(DEPLOYMENT).id
    return [
        _retraining(
            DATA_CHANGED,
            "Starts `retrain` when `watch-data` finds that a folder has changed and come to rest.",
            dataset_watch.EVENT,
            retrain,
        ),
        _retraining(
            CHAMPION_DRIFTED,
            "Starts `retrain` when `evaluate-champion` finds the champion below its interval. Off until switched on.",
            drift.EVENT,
            retrain,
            enabled=False,
        ),
    ]


def _retraining(name: str, said: str, event: str, retrain: UUID, enabled: bool = True) -> Automation:
    trigger = EventTrigger(
        expect={event},
        match={"prefect.resource.id": "fluxline.*"},  # pyright: ignore[reportArgumentType]
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )
    parameters = {field: _payload(field) for field in RetrainConfig.model_fields}
    action = RunDeployment(
        source="selected", deployment_id=retrain, parameters=parameters, job_variables=None
    )
    return Automation(name=name, description=said, enabled=enabled, trigger=trigger, actions=[action])


def _payload(field: str) -> dict[str, Any]:
    """A field of the event's payload as a parameter, of the type it has there."""
    template = f"{{{{ event.payload.{field} | tojson }}}}"
    return {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": template}}
