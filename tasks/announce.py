"""Announcing something to Prefect as an event, once: an automation that listens starts what should follow.

An event's id is made of what it says, so one that is sent again after a crash is the same event: the server knows it.
"""

import datetime
import uuid
from typing import Any

from fluxmodel.errors import StageError

NAMESPACE = uuid.UUID("5b1f3c0e-7a6d-4f1c-9c55-8d2f6b0a4e11")


def announce(event: str, key: str, resource: dict[str, str], payload: dict[str, Any]) -> bool:
    """Send an event to Prefect's server and wait until it is taken; return whether it was new there.

    Args:
        event: its name, such as `fluxline.dataset.changed`.
        key: what makes it the same event; the same key again is not sent twice.
        resource: what it is about, `prefect.resource.id` first.
        payload: what an automation may pass on as parameters.

    Raises:
        StageError: Prefect did not take it; nothing was announced, and announcing it again is right.
    """
    from prefect.client.orchestration import get_client
    from prefect.events import Event
    from prefect.events.schemas.events import Resource

    identity = uuid.uuid5(NAMESPACE, f"{event} {key}")
    made = Event(event=event, resource=Resource(resource), payload=payload, id=identity)
    try:
        with get_client(sync_client=True) as client:
            if _is_known(client, identity):
                return False
            client.request("POST", "/events", json=[made.model_dump(mode="json")]).raise_for_status()
    except Exception as error:
        raise StageError(
            f"Prefect did not take the event {event} ({type(error).__name__}); nothing was announced, and the next run "
            "of the same deployment tries again."
        ) from error
    return True


def _is_known(client: Any, identity: uuid.UUID) -> bool:
    """Whether the server has the event already, from a run that was cut off after sending it."""
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=30)
    asked = {"id": {"id": [str(identity)]}, "occurred": {"since": since.isoformat()}}
    reply = client.request("POST", "/events/filter", json={"filter": asked, "limit": 1})
    return bool(reply.raise_for_status().json()["events"])
