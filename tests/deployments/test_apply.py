"""`fluxline deploy` against a real Prefect server: all is there after it, and a second time nothing changes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import automations
from deployments.apply import apply_automations, apply_catalogue
from deployments.catalogue import CATALOGUE, POOL
from flows.environment import SURVIVAL
from flows.servers import start_prefect
from tasks.home import Home

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # SQLAlchemy and Prefect warn of their own deprecations
]
SLUGS = {timetable.slug for deployed in CATALOGUE for timetable in deployed.timetables}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    server = start_prefect(Home(tmp_path_factory.mktemp("prefect")).make(), is_short_lived=False)
    try:
        server.wait()
        with (
            temporary_settings({PREFECT_API_URL: f"{server.url}/api"}),
            httpx.Client(base_url=f"{server.url}/api/", trust_env=False, timeout=60) as client,
        ):
            yield client
    finally:
        server.stop()


@pytest.fixture(scope="module")
def first(api: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the first `fluxline deploy` said."""
    return deploy(api, tmp_path_factory.mktemp("home"))


def deploy(api: httpx.Client, home: Path, *arguments: str) -> str:
    environment = os.environ | {
        "PREFECT_API_URL": str(api.base_url).rstrip("/"),
        "FLUXLINE_HOME": str(home),
    }
    command = [sys.executable, "-m", "flows.cli", "deploy", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def standing(api: httpx.Client) -> dict[str, dict[str, Any]]:
    found = api.post("deployments/filter", json={}).json()
    return {each["name"]: each for each in found}


def schedules(api: httpx.Client, name: str) -> dict[str | None, dict[str, Any]]:
    found = api.get(f"deployments/{standing(api)[name]['id']}/schedules").json()
    return {each["slug"]: each for each in found}


def automations_of(api: httpx.Client) -> list[dict[str, Any]]:
    return api.post("automations/filter", json={}).json()


def test_the_first_time_makes_everything(api, first):
    now = standing(api)
    assert sorted(now) == sorted(each.name for each in CATALOGUE)
    for deployed in CATALOGUE:
        made = now[deployed.name]
        assert f"{deployed.name}: created" in first
        assert made["work_pool_name"] == POOL
        assert made["job_variables"] == {"env": SURVIVAL}
        assert made["description"] == deployed.said
        assert made["entrypoint"] == deployed.place
        assert made["enforce_parameter_schema"]
        limit, options = made["global_concurrency_limit"], made["concurrency_options"]
        assert (limit or {"limit": 0})["limit"] == deployed.limit
        assert (options or {"collision_strategy": "ENQUEUE"})["collision_strategy"] == "ENQUEUE"
        assert {each["slug"] for each in made["schedules"]} == {each.slug for each in deployed.timetables}
        assert not any(each["active"] for each in made["schedules"])  # no burn that nobody asked for
    assert api.get(f"work_pools/{POOL}").json()["type"] == "process"
    assert automations_of(api)


def test_the_second_time_changes_nothing(api, first, tmp_path):
    before, known = standing(api), automations_of(api)
    assert deploy(api, tmp_path) == f"{len(CATALOGUE)} deployments stand; nothing changed.\n"
    assert standing(api) == before
    assert automations_of(api) == known


def test_what_a_person_scheduled_stays_when_the_catalogue_changes(api, first):
    retrain = standing(api)["retrain"]
    place = f"deployments/{retrain['id']}"
    own = {"schedule": {"cron": "5 5 * * *", "timezone": "UTC"}, "active": True}
    assert api.post(f"{place}/schedules", json=[own]).status_code == 201
    weekly = schedules(api, "retrain")["weekly-from-champion"]
    later = {"active": True, "schedule": {"cron": "0 6 * * 0", "timezone": "UTC"}}
    assert api.patch(f"{place}/schedules/{weekly['id']}", json=later).status_code == 204
    assert api.patch(place, json={"description": "older words", "tags": []}).status_code == 204
    kept = schedules(api, "retrain")
    changed = {each.name: each.changes for each in apply_catalogue(POOL) if each.changes}
    assert changed == {"retrain": ("description changed", "tags changed")}
    assert schedules(api, "retrain") == kept
    assert kept["weekly-from-champion"]["active"]
    assert kept[None]["schedule"]["cron"] == "5 5 * * *"
    assert {each.name: each.changes for each in apply_catalogue(POOL) if each.changes} == {}
    api.delete(f"{place}/schedules/{kept[None]['id']}")


def test_job_variables_that_a_person_set_stay(api, first):
    place = f"deployments/{standing(api)['retrain']['id']}"
    own = {"env": {"PREFECT_CLIENT_MAX_RETRIES": "9", "COLOUR": "blue"}, "working_dir": "/srv"}
    assert api.patch(place, json={"job_variables": own}).status_code == 204
    changed = {each.name: each.changes for each in apply_catalogue(POOL) if each.changes}
    assert changed == {"retrain": ("job variables changed",)}
    assert standing(api)["retrain"]["job_variables"] == {**own, "env": {**SURVIVAL, **own["env"]}}
    assert api.patch(place, json={"job_variables": {"env": SURVIVAL}}).status_code == 204


def test_schedules_are_switched_on_when_asked_for(api, first):
    apply_catalogue(POOL, switch_on=True)
    active = {each["slug"]: each["active"] for made in standing(api).values() for each in made["schedules"]}
    assert {slug for slug, is_active in active.items() if is_active} == SLUGS
    assert not any(each.changes for each in apply_catalogue(POOL, switch_on=True))
    assert not any(each.changes for each in apply_catalogue(POOL))  # and are left on


def test_from_a_pool_to_being_served_and_back_keeps_the_deployments(api, first):
    ids = {name: made["id"] for name, made in standing(api).items()}
    assert {each.changes for each in apply_catalogue("")} == {("work pool changed",)}
    assert {made["work_pool_name"] for made in standing(api).values()} == {None}
    assert not any(each.changes for each in apply_catalogue(""))
    apply_catalogue(POOL)
    assert {made["work_pool_name"] for made in standing(api).values()} == {POOL}
    assert {name: made["id"] for name, made in standing(api).items()} == ids


def test_an_automation_that_differs_is_put_right_and_stays_switched_off(api, first):
    assert apply_automations() == []
    wanted = automations.automations()[0]
    older = wanted.model_copy(update={"description": "older words"})
    automations.ensure([older])
    (found,) = [each for each in automations_of(api) if each["name"] == wanted.name]
    assert found["description"] == "older words"
    assert api.patch(f"automations/{found['id']}", json={"enabled": False}).is_success
    assert apply_automations() == [f"automation {wanted.name}: changed"]
    (found,) = [each for each in automations_of(api) if each["name"] == wanted.name]
    assert (found["description"], found["enabled"]) == (wanted.description, False)
    assert apply_automations() == []


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("retrain", {"preset": "huge"}, "preset"),
        ("retrain", {"seed": -1}, "less than the minimum of 0"),
        ("retrain", {"start": "nowhere"}, "start"),
        ("pipeline", {"gate": {"yearly_alpha": 2}}, "yearly_alpha"),
        ("finetune-lora", {"rank": 1000}, "rank"),
    ],
)
def test_a_wrong_value_is_refused_before_there_is_a_run(api, first, name, wrong, said):
    answer = api.post(f"deployments/{standing(api)[name]['id']}/create_flow_run", json={"parameters": wrong})
    assert answer.status_code in (409, 422)
    assert said in json.dumps(answer.json())


def test_without_a_server_it_says_what_to_start(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "deploy"],
        env=environment | {"FLUXLINE_HOME": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "fluxline: There is no Prefect server to deploy to; start `fluxline up`, or set PREFECT_API_URL to yours.\n"
    )


def test_a_server_that_does_not_answer_is_one_sentence(tmp_path):
    environment = os.environ | {"FLUXLINE_HOME": str(tmp_path), "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "deploy"],
        env=environment | {"PREFECT_CLIENT_MAX_RETRIES": "0"},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("fluxline: Prefect at http://127.0.0.1:9/api did not do as it was asked")
    assert "Traceback" not in done.stderr
