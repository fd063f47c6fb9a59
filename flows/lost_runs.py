"""Runs whose runner died: Prefect is told at once what nobody else can say, and they go on.

Asked over HTTP: loading Prefect's client would double what an idle `fluxline up` holds in memory.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.http_call import ask

MAX_CRASHES = 3
"""A run that crashed as often as that stays Crashed: it would crash again."""
_SECONDS = 30.0
_RECENT = timedelta(days=1)
_STATES = {
    "CANCELLING": ("CANCELLED", "Cancelled", "It was to be cancelled when its runner died."),
    "RUNNING": ("CRASHED", "Crashed", "Its runner died."),
    "PENDING": ("SCHEDULED", "AwaitingRetry", "Its runner died before it began."),
}


def take_up_lost_runs(prefect_api: str) -> list[str]:
    """Bring the runs of a dead runner to a state from which Prefect can go on; return a line about each.

    To be called while no runner serves: whatever a runner held has died with it. A run it was to cancel is Cancelled,
    one that had begun has Crashed, one about to begin waits again. Runs of
    workers and of commands are not its own and stay.

    Raises:
        OSError: Prefect did not answer.
    """
    asked: dict[str, Any] = {"flow_runs": {"state": {"type": {"any_": list(_STATES)}}}, "limit": 200}
    said = []
    for run in ask(f"{prefect_api}/flow_runs/filter", asked, seconds=_SECONDS):
        if run["deployment_id"] is None or run["work_pool_name"] is not None:
            continue
        kind, name, message = _STATES[run["state_type"]]
        state = {"type": kind, "name": name, "message": message}
        ask(
            f"{prefect_api}/flow_runs/{run['id']}/set_state",
            {"state": state, "force": True},
            seconds=_SECONDS,
        )
        said.append(f"Run {run['name']} was {run['state_name']}: {message} It is {name} now.")
    return said


def go_on_with_crashed_runs(prefect_api: str) -> list[str]:
    """Schedule the runs of our deployments again that crashed of late; return a line about each.

    Their stages go on from their checkpoints, into the same MLflow runs. Runs of workers and of commands stay.

    Raises:
        OSError: Prefect did not answer.
    """
    since = (datetime.now(UTC) - _RECENT).isoformat()
    asked: dict[str, Any] = {
        "flow_runs": {"state": {"type": {"any_": ["CRASHED"]}}, "end_time": {"after_": since}},
        "limit": 200,
    }
    said = []
    for run in ask(f"{prefect_api}/flow_runs/filter", asked, seconds=_SECONDS):
        is_ours = run["deployment_id"] is not None and run["work_pool_name"] is None
        if is_ours and _crashes(prefect_api, run) < MAX_CRASHES:
            message = "It crashed, and goes on from its checkpoints."
            _set(prefect_api, run, "SCHEDULED", "AwaitingRetry", message)
            said.append(f"Run {run['name']}: {message}")
    return said


def _crashes(prefect_api: str, run: dict[str, Any]) -> int:
    """How often it crashed so far; some crash before they begin, so its beginnings do not tell."""
    states = ask(f"{prefect_api}/flow_run_states/?flow_run_id={run['id']}", seconds=_SECONDS)
    return sum(state["type"] == "CRASHED" for state in states)


def _set(prefect_api: str, run: dict[str, Any], kind: str, name: str, message: str) -> None:
    body = {"state": {"type": kind, "name": name, "message": message}, "force": True}
    ask(f"{prefect_api}/flow_runs/{run['id']}/set_state", body, seconds=_SECONDS)
