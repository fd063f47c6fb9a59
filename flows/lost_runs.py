"""Runs whose runner died: Prefect is told at once what nobody else can say, and they go on.

Asked over HTTP: loading Prefect's client would double what an idle `fluxline up` holds in memory.
"""

from typing import Any

from tasks.http_call import ask

_SECONDS = 30.0
_STATES = {
    "CANCELLING": ("CANCELLED", "Cancelled", "It was to be cancelled when its runner died."),
    "RUNNING": ("CRASHED", "Crashed", "Its runner died."),
    "PENDING": ("SCHEDULED", "AwaitingRetry", "Its runner died before it began."),
}


def take_up_lost_runs(prefect_api: str) -> list[str]:
    """Bring the runs of a dead runner to a state from which Prefect can go on; return a line about each.

    To be called while no runner serves: whatever a runner held has died with it. A run it was to cancel is Cancelled,
    one that had begun has Crashed (and goes on, see `deployments.automations`), one about to begin waits again. Runs of
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
