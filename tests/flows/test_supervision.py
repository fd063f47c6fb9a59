import json
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from flows.lost_runs import MAX_CRASHES, go_on_with_crashed_runs, skip_missed_runs, take_up_lost_runs
from flows.supervision import MAX_RESTARTS, Supervisor
from fluxmodel.errors import StageError
from fluxmodel.stop_request import StopRequest


class Fragile:
    """A part that runs for a moment each time."""

    def __init__(self, code: str):
        self.title, self.log, self.code, self.starts = "fragile server", Path("fragile.log"), code, 0
        self.restart(StopRequest())

    def restart(self, stop: StopRequest) -> list[str]:
        self.process = subprocess.Popen([sys.executable, "-c", self.code], start_new_session=True)
        self.starts += 1
        return [] if self.starts == 1 else [f"start {self.starts}"]

    def look(self) -> list[str]:
        return []


def test_what_ends_by_itself_is_started_again_and_said():
    said: list[str] = []
    part = Fragile("import time; time.sleep(60)")
    supervisor = Supervisor([part], said.append, StopRequest())
    supervisor.look()
    assert (part.starts, said) == (1, [])
    part.process.kill()
    part.process.wait()
    supervisor.look()
    supervisor.look()
    part.process.kill()
    part.process.wait()
    assert part.starts == 2
    assert "The fragile server was ended by SIGKILL; starting it again" in said[0]
    assert [line.split("  ")[1] for line in said[1:]] == [
        "The fragile server is up again after 0 s.",
        "start 2",
    ]


def test_what_ends_again_and_again_ends_loudly():
    said: list[str] = []
    part = Fragile("raise SystemExit(3)")
    supervisor = Supervisor([part], said.append, StopRequest())
    for _ in range(MAX_RESTARTS):
        part.process.wait()
        supervisor.look()
    part.process.wait()
    with pytest.raises(
        StageError, match=r"The fragile server ended by itself 6 times in 10 minutes; its log is"
    ):
        supervisor.look()
    assert part.starts == MAX_RESTARTS + 1
    assert "ended by itself (exit code 3)" in said[0]


def test_one_start_that_fails_does_not_stop_the_rest():
    class Slow(Fragile):
        def restart(self, stop: StopRequest) -> list[str]:
            super().restart(stop)
            if self.starts == 2:
                raise StageError("The fragile server did not answer within 300 s.")
            return []

    said: list[str] = []
    part = Slow("import time; time.sleep(60)")
    supervisor = Supervisor([part], said.append, StopRequest())
    part.process.kill()
    part.process.wait()
    supervisor.look()
    assert said[-1].endswith("The fragile server did not answer within 300 s.")
    supervisor.look()
    assert part.starts == 3
    assert "is up again" in said[-1]
    part.process.kill()
    part.process.wait()


def test_a_guard_tells_its_programs_signal():
    part = Fragile(f"raise SystemExit({128 + signal.SIGTERM})")
    said: list[str] = []
    part.process.wait()
    Supervisor([part], said.append, StopRequest()).look()
    part.process.wait()
    assert "was ended by SIGTERM" in said[0]


@pytest.fixture
def prefect():
    """Prefect's API as far as lost runs ask it: `runs` to be found, `states` that were set, `credentials` sent."""

    class Answer(BaseHTTPRequestHandler):
        runs: list = []  # noqa: RUF012
        states: dict = {}  # noqa: RUF012
        credentials: set = set()  # noqa: RUF012

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.credentials.add(self.headers["Authorization"])
            if self.path == "/api/flow_runs/filter":
                told = self.found(body)
            elif self.path == "/api/task_runs/filter":
                told = [{"id": name} for name in self.tasks(body)]
            else:
                self.states[self.path.split("/")[-2]] = body["state"]["name"]
                told = {}
            self.answer(told)

        def found(self, body):
            asked, flows = body["flow_runs"], body.get("flows", {}).get("name", {}).get("any_")
            told = [run for run in self.runs if flows is None or run["flow"] in flows]
            if "id" in asked:
                told = [run for run in told if run["id"] in asked["id"]["any_"]]
            if "state" in asked:
                told = [run for run in told if run["state_type"] in asked["state"]["type"]["any_"]]
            if "tags" in asked:
                told = [run for run in told if set(asked["tags"]["all_"]) <= set(run["tags"])]
            if "deployment_id" in asked:
                told = [run for run in told if run["deployment_id"] is None]
            if "parent_task_run_id" in asked:
                told = [run for run in told if run["parent_task_run_id"]]
            return told

        def tasks(self, body):
            """Each run has one unfinished task, named after it."""
            names, asked = [f"task-of-{run['id']}" for run in self.found(body)], body["task_runs"]
            return [name for name in names if "id" not in asked or name in asked["id"]["any_"]]

        def do_GET(self):
            name = self.path.split("flow_run_id=")[1]
            crashes = next(run["crashes"] for run in self.runs if run["id"] == name)
            self.answer([{"type": "RUNNING"}, *[{"type": "CRASHED"}] * crashes])

        def answer(self, told):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        Answer.runs, Answer.states, Answer.credentials = [], {}, set()
        yield Answer, f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()
        thread.join()


def run(
    name: str,
    kind: str,
    *,
    deployment: str | None = "served",
    pool: str | None = None,
    crashes: int = 1,
    **about,
) -> dict:
    return {"id": name, "name": name, "state_type": kind, "state_name": kind.title(), "deployment_id": deployment,
            "work_pool_name": pool, "crashes": crashes, "flow": "retrain", "parent_task_run_id": None,
            "tags": ["fluxline", "model"] if deployment else []} | about  # fmt: skip


def test_the_runs_of_a_dead_runner_and_no_others_are_taken_up(prefect):
    answer, api = prefect
    answer.runs = [
        run("worked", "RUNNING"),
        run("began", "PENDING"),
        run("was-stopped", "CANCELLING"),
        run("command", "RUNNING", deployment=None),
        run("worker", "RUNNING", pool="gpu"),
        run("anothers", "RUNNING", tags=["theirs"]),
        run("crashed", "CRASHED"),
    ]
    said = take_up_lost_runs(api)
    assert answer.states == {"worked": "Crashed", "began": "AwaitingRetry", "was-stopped": "Cancelled"}
    assert said[0] == "Run worked was Running: Its runner died. It is Crashed now."


def test_a_crashed_run_goes_on_until_it_crashes_too_often(prefect):
    answer, api = prefect
    answer.runs = [
        run("first", "CRASHED"),
        run("often", "CRASHED", crashes=MAX_CRASHES),
        run("command", "CRASHED", deployment=None),
        run("works", "RUNNING"),
        run("anothers", "CRASHED", tags=[], flow="theirs"),
        run("anothers-script", "FAILED", deployment=None, flow="theirs"),
    ]
    assert go_on_with_crashed_runs(api, ["retrain"]) == [
        "Run first: It crashed, and goes on from its checkpoints."
    ]
    assert answer.states["first"] == "AwaitingRetry"
    tasks = {name: state for name, state in answer.states.items() if name.startswith("task-of-")}
    assert tasks == {f"task-of-{name}": "Crashed" for name in ("first", "often", "command")}


def test_what_a_dead_run_left_unfinished_crashes_with_it(prefect):
    answer, api = prefect

    def shards(name: str, of: str) -> dict:
        return run(name, "RUNNING", deployment=None, flow="shards", parent_task_run_id=f"task-of-{of}")

    answer.runs = [
        run("goes-on", "CRASHED"),
        run("command", "FAILED", deployment=None),
        run("works", "RUNNING"),
        run("anothers", "CRASHED", tags=[], flow="theirs"),
        *(shards(f"shards-of-{each}", each) for each in ("goes-on", "command", "works", "anothers")),
    ]
    go_on_with_crashed_runs(api, ["retrain"])
    ended = {name for name, state in answer.states.items() if state == "Crashed"}
    left = {f"shards-of-{each}" for each in ("goes-on", "command")}
    assert ended == left | {f"task-of-{each}" for each in (*left, "goes-on", "command")}
    assert answer.states["goes-on"] == "AwaitingRetry"


def test_a_server_that_wants_credentials_is_sent_them(prefect, monkeypatch):
    answer, api = prefect
    monkeypatch.setenv("PREFECT_API_KEY", "secret")
    take_up_lost_runs(api)
    assert answer.credentials == {"Bearer secret"}


def test_of_the_runs_a_schedule_missed_the_newest_is_made_up_for(prefect):
    answer, api = prefect

    def missed(name: str, day: int, **about) -> dict:
        known = {
            "auto_scheduled": True,
            "parameters": {},
            "expected_start_time": f"2026-01-{day:02d}T02:00:00Z",
        }
        return run(name, "SCHEDULED") | known | about

    answer.runs = [  # as Prefect gives them: the newest first
        missed("newest", 9, state_name="Late"),
        missed("other-data", 8, parameters={"data": "photos"}),
        missed("older", 8, state_name="Late"),
        missed("by-hand", 7, auto_scheduled=False),
        missed("worker", 7, work_pool_name="gpu"),
        missed("anothers", 7, tags=[]),
        missed("goes-on", 7, state_name="AwaitingRetry"),
        missed("oldest", 6),
    ]
    said = skip_missed_runs(api)
    assert answer.states == {"older": "Missed", "oldest": "Missed"}
    assert said[0].startswith("Run older of 2026-01-08 02:00: It was missed")
