"""What people see of runs, against a real Prefect server: messages, live logs, pages with pictures in a browser."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr

from flows.servers import start_prefect
from fluxmodel.errors import InputError
from tasks import drift
from tasks.announce import announce
from tasks.home import Home
from tests.kit import ROOT, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Prefect and SQLAlchemy warn of their own deprecations
]
CHILD = """
import json, sys, time
from pathlib import Path
job = json.loads(Path(sys.argv[1]).read_text())
output = Path(job["output"])
print("the data are loaded", flush=True)
with (output / "metrics.jsonl").open("a") as spool:
    for step in range(1, 41):
        line = {"step": step, "total": 40, "metrics": {"loss": 1 / step}, "seconds": step / 10, "time": time.time()}
        spool.write(json.dumps(line) + "\\n")
        spool.flush()
        time.sleep(0.05)
print("the last words", flush=True)
(output / "final").mkdir()
(output / "final" / "card.json").write_text("{}")
"""

FLOW = """
import os
from types import SimpleNamespace
from prefect import flow, task
from prefect.logging.handlers import APILogWorker
from pydantic import BaseModel
import tasks.live_log, tasks.stage_run, tasks.tracking
from tasks.links import wait_until_sent
from tasks.stage import Stage
from tasks.stage_run import Outcome, RunContext

def away(home):
    raise ConnectionError

tasks.live_log.EVERY_SECONDS = tasks.stage_run.PROGRESS_SECONDS = 0.3
tasks.tracking.client = away
stage, ids = Stage("train", kind="model", modules=("tasks.spool",)), []

class Job(BaseModel):
    steps: int = 40
    seed: int = 3

def work(run, job):
    ids.extend(run.links.tags()[f"prefect.{kind}_run_id"] for kind in ("flow", "task"))
    return Outcome(run.launch("printing_child", {"output": str(run.output)}), "a model")

@task(**stage.options())
def train(context: RunContext, job: Job) -> None:
    stage.run(context, work, job=job)

@flow(name="shown")
def chain() -> None:
    train(RunContext(home=os.environ["FLUXLINE_HOME"]), Job())

chain()
wait_until_sent(60)
APILogWorker.drain_all(timeout=60)
print(*ids)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server with all its services, and this process pointed to it."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    started = start_prefect(Home(tmp_path_factory.mktemp("seeing")).make(), is_short_lived=False)
    try:
        started.wait()
        with temporary_settings({PREFECT_API_URL: f"{started.url}/api"}):
            yield started.url
    finally:
        started.stop()
        assert started.process.poll() is not None


@pytest.fixture
def inbox() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The address of a webhook, and what came there."""
    came: list[dict[str, str]] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    stub = ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=stub.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{stub.server_port}/hook", came
    stub.shutdown()
    stub.server_close()


def end_run(flow: Any, parameters: dict[str, Any], name: str, state: Any) -> UUID:
    """Have the server know a run of a flow that came to this state."""
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    async def call() -> UUID:
        async with get_client() as client:
            run = await client.create_flow_run(flow, parameters=parameters, name=name)
            await client.set_flow_run_state(run.id, Running(), force=True)
            await client.set_flow_run_state(run.id, state, force=True)
            return run.id

    return asyncio.run(call())


def test_messages_arrive_and_say_which_run_which_model_and_where(server, inbox):
    from prefect import flow
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.states import Failed, State, StateType

    from deployments.automations import ensure
    from deployments.notifications import automations

    @flow(name="retrain")
    def retrain(config: dict) -> None: ...

    @flow(name="approve")
    def approve(name: str, version: str) -> None: ...

    url, came = inbox
    block = CustomWebhookNotificationBlock(
        name="ours",
        url=url,
        json_data={"subject": "{{subject}}", "body": "{{body}}"},
        headers=None,
        cookies=None,
    )
    block.save("ours", overwrite=True)
    names = ensure(automations("custom-webhook/ours"))
    assert ensure(automations("custom-webhook/ours")) == names
    wait_until(lambda: end_run(retrain, {}, "probe", Failed()) and came, seconds=120)  # it listens soon after

    asked = {"config": {"preset": "demo", "name": ""}}
    failed = end_run(retrain, asked, "weekly", Failed(message="CUDA out of memory"))
    told = message(came, "Fluxline: retrain failed, weekly")
    assert told.splitlines() == [
        "retrain 'weekly': Failed. CUDA out of memory",
        "model: fluxline-demo",
        f"run: {server}/runs/flow-run/{failed}",
    ]

    waits = State(type=StateType.PAUSED, name="Suspended")
    paused = end_run(approve, {"name": "shapes", "version": "4"}, "approve shapes 4", waits)
    told = message(came, "Fluxline: shapes waits for your approval")
    assert told.startswith("shapes version 4 waits")
    assert f"answer here: {server}/runs/flow-run/{paused}" in told

    announce(
        drift.EVENT,
        "shapes 4",
        {"prefect.resource.id": "fluxline.champion.shapes.4", "prefect.resource.name": "shapes version 4"},
        {"said": "attributes right fell to 81 %, below 85 %."},
    )
    told = message(came, "Fluxline: the champion drifted, shapes version 4")
    assert told.startswith("shapes version 4: attributes right fell to 81 %, below 85 %.")
    assert f"{server}/events/event/" in told


def message(came: list[dict[str, str]], subject: str) -> str:
    """The text of the message with this subject, once it came."""
    wait_until(lambda: subject in [each["subject"] for each in came], seconds=120)
    return next(each["body"] for each in came if each["subject"] == subject)


def test_a_block_that_is_not_there_or_cannot_notify_is_one_sentence(server):
    from prefect.blocks.system import Secret

    from deployments.notifications import automations

    with pytest.raises(InputError, match="give a block as TYPE/NAME"):
        automations("slack")
    with pytest.raises(InputError, match="Prefect has no such block"):
        automations("slack-webhook/nowhere")
    Secret(value=SecretStr("x")).save("mute", overwrite=True)
    with pytest.raises(InputError, match="cannot send notifications"):
        automations("secret/mute")


@pytest.fixture
def shown(server, fluxline_home, tmp_path) -> list[str]:
    """The ids of a flow run and its task run: a stage whose child trained, as Prefect saw it from another process."""
    (tmp_path / "printing_child.py").write_text(CHILD)
    environment = {"PREFECT_API_URL": f"{server}/api", "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-c", FLOW],
        env=os.environ | environment | {"FLUXLINE_HOME": str(fluxline_home)},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def test_a_child_is_seen_in_its_task_runs_log_and_its_page_in_a_browser(server, shown, chromium):
    flow_run, task_run = shown
    with httpx.Client(base_url=f"{server}/api", trust_env=False, timeout=60) as prefect:
        asked = {"logs": {"task_run_id": {"any_": [task_run]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
        lines = [line["message"] for line in prefect.post("/logs/filter", json=asked).json()]
        asked = {"artifacts": {"flow_run_id": {"any_": [flow_run]}}}
        artifacts = {each["key"]: each for each in prefect.post("/artifacts/filter", json=asked).json()}
        wait_until(
            lambda: prefect.get(f"/task_runs/{task_run}").status_code == 200, seconds=120
        )  # recorded by and by
        assert prefect.get(f"/task_runs/{task_run}").json()["name"] == "train 40 steps, seed 3"
    assert [line for line in lines if line.startswith("the ")] == ["the data are loaded", "the last words"]
    assert any(line.startswith("40/40 (100 %), 10/s, loss 0.025") for line in lines)
    assert 2 <= sum("/40 (" in line for line in lines) < 12
    assert set(artifacts) == {"train-progress", "train-result"}
    see_picture(chromium, f"{server}/artifacts/artifact/{artifacts['train-result']['id']}")


def see_picture(chromium: Path, url: str) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(url)
        page.wait_for_selector("img[alt=Loss]")
        page.wait_for_function("document.querySelector('img[alt=Loss]').naturalWidth > 0")
        browser.close()
