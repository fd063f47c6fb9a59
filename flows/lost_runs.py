"""Runs whose runner died: Prefect is told at once what nobody else can say, and they go on. And those it missed.

Asked over HTTP: loading Prefect's client would double what an idle `fluxline up` holds in memory.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.http_call import ask, prefect_headers

TAG = "fluxline"
"""Each deployment of ours has it, and gives it to its runs: by it they are told from others that the server has."""
_NEVER_BEGUN = ("Scheduled", "Late")
MAX_CRASHES = 3
"""A run that crashed as often as that stays Crashed: it would crash again."""
_SECONDS = 30.0
_RECENT, _LAST_WORDS = timedelta(days=1), timedelta(minutes=1)
_OURS = {"tags": {"all_": [TAG]}}
_UNFINISHED = {"type": {"any_": ["RUNNING", "PENDING"]}}
_STATES = {
    "CANCELLING": ("CANCELLED", "Cancelled", "It was to be cancelled when its runner died."),
    "RUNNING": ("CRASHED", "Crashed", "Its runner died."),
    "PENDING": ("SCHEDULED", "AwaitingRetry", "Its runner died before it began."),
}


def take_up_lost_runs(prefect_api: str) -> list[str]:
    """Bring the runs of a dead runner to a state from which Prefect can go on; return a line about each.

    To be called while no runner serves: whatever a runner held has died with it. A run it was to cancel is Cancelled,
    one that had begun has Crashed, one about to begin waits again. Runs of workers, of commands and of flows that
    are not ours stay.

    Raises:
        OSError: Prefect did not answer.
    """
    asked: dict[str, Any] = {
        "flow_runs": {**_OURS, "state": {"type": {"any_": list(_STATES)}}},
        "limit": 200,
    }
    said = []
    for run in _ask(prefect_api, "flow_runs/filter", asked):
        if not _is_served(run):
            continue
        kind, name, message = _STATES[run["state_type"]]
        _set(prefect_api, f"flow_runs/{run['id']}", kind, name, message)
        said.append(f"Run {run['name']} was {run['state_name']}: {message} It is {name} now.")
    return said


def skip_missed_runs(prefect_api: str) -> list[str]:
    """Of the runs a schedule missed while nothing served, leave the newest to be made up for; return a line about each.

    To be called while no runner serves. Three nights' evaluations at once say nothing that the last one does not.

    Raises:
        OSError: Prefect did not answer.
    """
    late = {
        **_OURS,
        "state": {"type": {"any_": ["SCHEDULED"]}},
        "expected_start_time": {"before_": _now().isoformat()},
    }
    asked = {"flow_runs": late, "sort": "EXPECTED_START_TIME_DESC", "limit": 200}
    newest, said = set(), []
    for run in _ask(prefect_api, "flow_runs/filter", asked):
        if not _is_served(run) or not run["auto_scheduled"] or run["state_name"] not in _NEVER_BEGUN:
            continue
        schedule = run["deployment_id"], json.dumps(run["parameters"], sort_keys=True)
        if schedule not in newest:
            newest.add(schedule)
            continue
        message = "It was missed while nothing served it; the next one of its schedule runs in its place."
        _set(prefect_api, f"flow_runs/{run['id']}", "CANCELLED", "Missed", message)
        said.append(f"Run {run['name']} of {run['expected_start_time'][:16].replace('T', ' ')}: {message}")
    return said


def go_on_with_crashed_runs(prefect_api: str, flows: Sequence[str] = ()) -> list[str]:
    """Schedule the runs of our deployments again that crashed of late; return a line about each.

    Their stages go on from their checkpoints, into the same MLflow runs. Runs of workers and of commands stay. The
    tasks and sub-flows of a killed process, which Prefect would show as Running for ever, have Crashed with it.

    Args:
        prefect_api: address of the server.
        flows: names of our flows; a run of one that no deployment made is a command's, and its tasks end as well.

    Raises:
        OSError: Prefect did not answer.
    """
    since = (_now() - _RECENT).isoformat()
    asked: dict[str, Any] = {
        "flow_runs": {**_OURS, "state": {"type": {"any_": ["CRASHED"]}}, "end_time": {"after_": since}},
        "limit": 200,
    }
    ended = _ended_of_late()
    _end_rest(prefect_api, {"flow_runs": {**ended, **_OURS}})
    if flows:
        by_command = {**ended, "deployment_id": {"is_null_": True}}
        _end_rest(prefect_api, {"flow_runs": by_command, "flows": {"name": {"any_": list(flows)}}})
    said = []
    for run in _ask(prefect_api, "flow_runs/filter", asked):
        if _is_served(run) and _crashes(prefect_api, run) < MAX_CRASHES:
            message = "It crashed, and goes on from its checkpoints."
            _end_rest(prefect_api, {"flow_runs": {"id": {"any_": [run["id"]]}}})
            _set(prefect_api, f"flow_runs/{run['id']}", "SCHEDULED", "AwaitingRetry", message)
            said.append(f"Run {run['name']}: {message}")
    return said


def _is_served(run: dict[str, Any]) -> bool:
    """Of runs with our tag, whether `fluxline up` serves it."""
    return run["deployment_id"] is not None and run["work_pool_name"] is None


def _crashes(prefect_api: str, run: dict[str, Any]) -> int:
    """How often it crashed so far; some crash before they begin, so its beginnings do not tell."""
    states = _ask(prefect_api, f"flow_run_states/?flow_run_id={run['id']}")
    return sum(state["type"] == "CRASHED" for state in states)


def _now() -> datetime:
    return datetime.now(UTC)


def _ended_of_late() -> dict[str, Any]:
    """Flow runs whose tasks ended, too; what they said last is known by now."""
    now = _now()
    span = {"after_": (now - _RECENT).isoformat(), "before_": (now - _LAST_WORDS).isoformat()}
    return {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}, "end_time": span}


def _end_rest(prefect_api: str, whose: dict[str, Any]) -> None:
    """Have what these flow runs, whose processes are no more, left unfinished be Crashed: tasks, and sub-flows' too."""
    children = _unfinished_children(prefect_api, whose)
    for child in children:
        _set(prefect_api, f"flow_runs/{child}", "CRASHED", "Crashed", "Its process died.")
    for each in (whose, {"flow_runs": {"id": {"any_": children}}}) if children else (whose,):
        asked = {**each, "task_runs": {"state": _UNFINISHED}, "limit": 200}
        for task in _ask(prefect_api, "task_runs/filter", asked):
            _set(prefect_api, f"task_runs/{task['id']}", "CRASHED", "Crashed", "Its process died.")


def _unfinished_children(prefect_api: str, whose: dict[str, Any]) -> list[str]:
    """Ids of the unfinished sub-flows of these flow runs; there are hardly ever any sub-flows at all."""
    asked: dict[str, Any] = {"parent_task_run_id": {"is_null_": False}, "state": _UNFINISHED}
    found = _ask(prefect_api, "flow_runs/filter", {"flow_runs": asked, "limit": 200})
    children = {run["parent_task_run_id"]: run["id"] for run in found}
    if not children:
        return []
    of_these = {**whose, "task_runs": {"id": {"any_": list(children)}}, "limit": 200}
    return [children[task["id"]] for task in _ask(prefect_api, "task_runs/filter", of_these)]


def _set(prefect_api: str, run: str, kind: str, name: str, message: str) -> None:
    body = {"state": {"type": kind, "name": name, "message": message}, "force": True}
    _ask(prefect_api, f"{run}/set_state", body)


def _ask(prefect_api: str, path: str, body: dict[str, Any] | None = None) -> Any:
    return ask(f"{prefect_api}/{path}", body, prefect_headers(), _SECONDS)
