"""What starts a retraining, and who is asked about a promotion: on a real Prefect server, with runs of their own."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psutil
import pytest

from evaluation.drift import Night
from flows.servers import start_prefect
from tasks import approval, promotion, registry, tracking
from tasks.announce import announce
from tasks.dataset_watch import announce_change, look
from tasks.drift import announce_drift
from tasks.home import Home
from tests.kit import ROOT, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]  # warnings of Prefect's, MLflow's and SQLAlchemy's
NAME = "shapes"
CHANGED, DRIFTED = "fluxline: data changed, retrain", "fluxline: champion drifted, retrain"
PATIENCE = 240.0
SERVE = """
from prefect import serve
from flows.approve import approve
serve(approve.to_deployment("approve", concurrency_limit=3), print_starting_message=False, limit=3)
"""


@dataclass
class Operations:
    """A server with schedules and triggers, a runner, and the registry they act on."""

    home: Home
    url: str
    runner: psutil.Process

    @property
    def api(self) -> str:
        return f"{self.url}/api"

    def ask(self, method: str, path: str, **json: Any) -> Any:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            reply = client._client.request(method, path, json=json or None).raise_for_status()
            return reply.json() if reply.content else None

    def run(self, run_id: UUID | str) -> dict[str, Any]:
        return self.ask("GET", f"/flow_runs/{run_id}")

    def runs_of(self, deployment: str) -> list[dict[str, Any]]:
        found = {"deployments": {"name": {"any_": [deployment]}}}
        return self.ask("POST", "/flow_runs/filter", **found)

    def wait(self, run_id: str, states: tuple[str, ...]) -> dict[str, Any]:
        wait_until(
            lambda: self.run(run_id)["state_name"] in (*states, "Crashed", "Failed"),
            f"{run_id} {states}",
            seconds=PATIENCE,
        )
        found = self.run(run_id)
        assert found["state_name"] in states, found["state"]
        return found

    def resume(self, run_id: str, **given: Any) -> dict[str, Any]:
        return self.ask("POST", f"/flow_runs/{run_id}/resume", run_input=given)


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    home = Home(tmp_path_factory.mktemp("operations")).make()
    server = start_prefect(home, is_short_lived=False)
    environment = {
        "PREFECT_API_URL": f"{server.url}/api",
        "FLUXLINE_HOME": str(home.root),
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_HOME": str(home.root / "prefect"),
    }
    runner = None
    try:
        server.wait()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            log = (home.logs / "runner.log").open("wb")
            runner = subprocess.Popen([sys.executable, "-c", SERVE], cwd=ROOT, stdout=log, stderr=log)
            with temporary_settings({PREFECT_API_URL: f"{server.url}/api"}):  # whatever was set at its import
                yield Operations(home, server.url, psutil.Process(runner.pid))
    finally:
        if runner is not None:
            family = psutil.Process(runner.pid).children(recursive=True)
            runner.terminate()
            runner.wait(60)
            _, alive = psutil.wait_procs(family, timeout=30)
            assert alive == []
        server.stop()


# Approval


@pytest.fixture(scope="module")
def waiting(operations: Operations) -> dict[str, str]:
    """Versions 2 to 4 wait, each compared with version 1, the champion; the run that asks for each, by version."""
    home, client = operations.home, tracking.client(operations.home)
    client.create_registered_model(NAME)
    for number in range(1, 5):
        client.create_model_version(NAME, "file:///nowhere", tags={"artifact_digest": str(number)})
    client.set_registered_model_alias(NAME, "champion", "1")
    tags = {"gate.champion": "1", "gate.verdict": "promote", "gate.reasons": "all_correct: shown better."}
    for number in range(2, 5):
        version = registry.find_version(home, NAME, str(number))
        registry.set_tags(home, version, tags)
        promotion.ask_approval(home, version, ["Shown better."])
    wait_until(lambda: is_deployed(operations, approval.DEPLOYMENT), "approve is deployed", seconds=PATIENCE)
    said = [approval.request(home, NAME, version) for version in ("2", "3", "4", "2")]
    runs = dict(zip("234", (each.rsplit("/", 1)[1] for each in said), strict=False))
    assert said[3] == said[0]  # asked again: the same run
    assert len(operations.runs_of("approve")) == 3
    for run_id in runs.values():
        operations.wait(run_id, ("Suspended",))
    return runs


def is_deployed(operations: Operations, name: str) -> bool:
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        return bool(operations.ask("GET", f"/deployments/name/{name}"))
    except PrefectHTTPStatusError:
        return False


def test_while_a_person_is_waited_for_nothing_is_held(operations, waiting):
    wait_until(
        lambda: not operations.runner.children(recursive=True),
        "the runs' processes are gone",
        seconds=PATIENCE,
    )
    limit = operations.ask("GET", f"/deployments/name/{approval.DEPLOYMENT}")["global_concurrency_limit"]
    assert (limit["limit"], limit["active_slots"]) == (3, 0)
    asked = operations.run(waiting["2"])
    assert asked["name"] == f"approve {NAME} 2"
    keys = asked["state"]["state_details"]["run_input_keyset"]
    told = operations.ask("GET", f"/flow_runs/{waiting['2']}/input/{keys['description']}")
    assert told.startswith("**Make version 2 of shapes the champion, in place of version 1?**")
    form = operations.ask("GET", f"/flow_runs/{waiting['2']}/input/{keys['schema']}")["properties"]
    assert set(form) == {"approve", "reason", "by"}
    assert all(field["description"] for field in form.values())


def test_an_answer_without_a_yes_or_no_is_not_taken(operations, waiting):
    for given in ({}, {"approve": "perhaps"}, {"approve": True, "why": "typo"}):
        assert operations.resume(waiting["4"], **given)["status"] == "REJECT"
        assert operations.run(waiting["4"])["state_name"] == "Suspended"


def test_no_then_yes_then_a_yes_that_comes_too_late(operations, waiting):
    home = operations.home
    assert operations.resume(waiting["2"], approve=False, reason="square circles")["status"] == "ACCEPT"
    declined = operations.wait(waiting["2"], ("Declined",))
    assert declined["state"]["message"] == "shapes version 2 was declined; the champion stays."
    assert registry.aliases(home, NAME) == {"champion": "1"}
    assert registry.find_version(home, NAME, "2").tags["approval.reason"] == "square circles"

    operations.resume(waiting["3"], approve=True, reason="round circles", by="the night shift")
    promoted = operations.wait(waiting["3"], ("Promoted",))
    assert promoted["state"]["type"] == "COMPLETED"
    assert registry.aliases(home, NAME) == {"champion": "3", "previous": "1"}
    tags = registry.find_version(home, NAME, "3").tags
    assert (tags["promotion.by"], tags["promotion.reason"]) == ("the night shift", "round circles")
    assert "approval" not in tags

    operations.resume(waiting["4"], approve=True, reason="", by="Bo")
    refused = operations.wait(waiting["4"], ("Refused",))
    assert refused["state"]["type"] == "FAILED"
    assert refused["state"]["message"].startswith(
        "shapes version 4 was not promoted: the champion moved from version 1 to version 3 since the gate "
    )
    assert registry.aliases(home, NAME) == {"champion": "3", "previous": "1"}


# Data, drift and a program


@pytest.fixture(scope="module")
def deployed(operations: Operations) -> list[str]:
    """Deployments of the catalogue and the automations of triggers; nobody runs what they start."""
    from prefect.client.orchestration import get_client

    from deployments import triggers
    from deployments.apply import apply_one
    from deployments.automations import ensure
    from deployments.catalogue import CATALOGUE

    with get_client(sync_client=True) as client:
        for each in CATALOGUE:
            if each.name in ("retrain", "watch-data", "evaluate-champion"):
                apply_one(client, each, pool="", switch_on=False)
    names = ensure(triggers.automations())
    assert ensure(triggers.automations()) == names
    return names


def test_automations_of_triggers_stand_once_and_that_of_a_drift_is_off(operations, deployed):
    found = [(each["name"], each["enabled"]) for each in operations.ask("POST", "/automations/filter")]
    assert sorted(found) == [(DRIFTED, False), (CHANGED, True)]
    assert sorted(deployed) == [DRIFTED, CHANGED]


def test_a_folder_that_changed_starts_one_retraining_with_what_was_asked(operations, deployed, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_text("a")
    asked = {
        "preset": "smoke",
        "start": "champion",
        "seed": 0,
        "train_steps": 40,
        "needs_approval": True,
        "name": "x",
    }
    home = Home(tmp_path / "home").make()
    told = []

    def tell(change):
        told.append(announce_change(change, asked | {"data": change.data}))

    assert look(home, str(folder), 0, tell).state == "first"
    (folder / 'b "quoted" ü.png').write_text("b")
    shutil.copytree(home.watches, tmp_path / "before")
    assert look(home, str(folder), 0, tell).state == "changed"
    assert look(home, str(folder), 0, tell).state == "same"
    wait_until(lambda: operations.runs_of("retrain"), "the automation started retrain", seconds=PATIENCE)
    (started,) = operations.runs_of("retrain")
    assert started["parameters"] == asked | {"data": str(folder)}
    assert [type(started["parameters"][name]) for name in ("train_steps", "needs_approval")] == [int, bool]

    shutil.rmtree(home.watches)  # cut off between telling and noting: the server knows the event already
    shutil.copytree(tmp_path / "before", home.watches)
    wait_until(lambda: look(home, str(folder), 0, tell).state == "changed", "looked again", seconds=PATIENCE)
    assert told in (
        [True, False],
        [True, True],
    )  # True: not stored yet, but the server drops the double itself
    drifted = {"prefect.resource.id": "fluxline.champion.x.1"}
    announce("fluxline.champion.drifted", "x 1", drifted, asked | {"data": ""})  # its automation is off
    (folder / "c.png").write_text("c")
    look(home, str(folder), 0, tell)
    wait_until(
        lambda: len(operations.runs_of("retrain")) > 1, "the second change started retrain", seconds=PATIENCE
    )
    assert (
        len(operations.runs_of("retrain")) == 2
    )  # neither the double nor the drift did, although they came earlier


def test_a_drift_starts_a_retraining_where_a_person_switched_it_on(operations, deployed, monkeypatch):
    before = len(operations.runs_of("retrain"))
    (found,) = operations.ask("POST", "/automations/filter", automations={"name": {"any_": [DRIFTED]}})
    operations.ask("PATCH", f"/automations/{found['id']}", enabled=True)
    asked = {
        "preset": "smoke",
        "start": "scratch",
        "seed": 0,
        "train_steps": 0,
        "needs_approval": False,
        "name": NAME,
    }
    version = registry.RegisteredVersion(NAME, "1", {})
    night = Night(night=1, verdict="drifted", said="It fell.", metric="all_correct", value=0.5, ci_low=0.4,
                  ci_high=0.6, n=9, promoted=0.8, promoted_low=0.7, promoted_high=0.9)  # fmt: skip
    monkeypatch.setattr(tracking, "client", lambda _: FakeRegistry())
    assert announce_drift(operations.home, version, night, asked | {"data": ""})
    wait_until(
        lambda: len(operations.runs_of("retrain")) == before + 1,
        "the automation started retrain",
        seconds=PATIENCE,
    )
    newest = max(operations.runs_of("retrain"), key=lambda run: run["created"])
    assert newest["parameters"] == asked | {"data": ""}


class FakeRegistry:
    """What announcing a drift asks MLflow: when a version was made."""

    def get_model_version(self, name, version):
        return self

    creation_timestamp = 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_curl_of_the_page_starts_a_retraining(operations, deployed):
    page = (ROOT / "docs" / "triggers.md").read_text()
    command = next(block for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if "retrain" in block)

    def curl(text: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PREFECT_API_URL": operations.api, "no_proxy": "127.0.0.1"}
        return subprocess.run(
            ["bash", "-c", text], env=environment, capture_output=True, text=True, check=False
        )

    done = curl(command)
    assert done.returncode == 0, done.stdout + done.stderr
    made = json.loads(done.stdout)
    asked = {"preset": "smoke", "start": "scratch", "train_steps": 100}
    assert {name: made["parameters"][name] for name in asked} == asked
    assert made["state"]["type"] == "SCHEDULED"
    before = len(operations.runs_of("retrain"))
    wrong = curl(command.replace('"smoke"', '"huge"'))
    assert wrong.returncode == 22
    assert "huge" in wrong.stdout
    assert len(operations.runs_of("retrain")) == before
