"""What Prefect's server has running and planned, asked by two short calls and without loading Prefect (a second)."""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tasks.http_call import SECONDS, ask, prefect_headers

ACTIVE, PLANNED, PAUSED = ("RUNNING", "PENDING", "CANCELLING"), "SCHEDULED", "PAUSED"
MOST = 50


@dataclass(frozen=True)
class FlowRun:
    """A flow run that is not over.

    Attributes:
        flow: name of its flow, which is that of its deployment.
        name: its own.
        state: in Prefect's words: Running, Pending, Scheduled, Late, Paused, ...
        kind: Prefect's type of that state.
        start: Unix time it began at, or is to begin at.
        id: Prefect's.
        url: its page.
    """

    flow: str
    name: str
    state: str
    kind: str
    start: float
    id: str
    url: str


@dataclass(frozen=True)
class Agenda:
    """What the server told, or why it did not.

    Attributes:
        url: address of its API; empty where there is none to ask.
        trouble: why it did not answer; empty where it did.
        runs: soonest first.
    """

    url: str = ""
    trouble: str = ""
    runs: tuple[FlowRun, ...] = ()

    def of(self, *kinds: str) -> list[FlowRun]:
        """Return the runs in a state of one of these types."""
        return [run for run in self.runs if run.kind in kinds]


def read_agenda(api: str) -> Agenda:
    """Ask the server at `api` (an address ending in /api). Never raises and never waits long."""
    if not api:
        return Agenda()
    wanted = {"flow_runs": {"state": {"type": {"any_": [*ACTIVE, PLANNED, PAUSED]}}}}
    try:
        deadline = time.monotonic() + 2 * SECONDS
        found = _post(api, "flow_runs/filter", {**wanted, "sort": "EXPECTED_START_TIME_ASC", "limit": MOST})
        ids = sorted({run["flow_id"] for run in found})
        flows = {}
        if ids and time.monotonic() < deadline:
            asked = {"flows": {"id": {"any_": ids}}, "limit": MOST}
            flows = {flow["id"]: flow["name"] for flow in _post(api, "flows/filter", asked)}
        page = api.removesuffix("/api")
        runs = [_run(each, flows, page) for each in found]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Agenda(api, str(getattr(error, "reason", "") or error) or type(error).__name__)
    return Agenda(api, "", tuple(sorted(runs, key=lambda run: run.start)))


def _post(api: str, path: str, body: dict[str, Any]) -> Any:
    return ask(f"{api.rstrip('/')}/{path}", body, prefect_headers())


def _run(found: dict[str, Any], flows: dict[str, str], page: str) -> FlowRun:
    when = found.get("start_time") or found.get("expected_start_time") or ""
    return FlowRun(
        flow=flows.get(found["flow_id"], ""),
        name=found["name"],
        state=found["state_name"],
        kind=found["state_type"],
        start=datetime.fromisoformat(when.replace("Z", "+00:00")).timestamp() if when else 0.0,
        id=found["id"],
        url=f"{page}/runs/flow-run/{found['id']}",
    )
