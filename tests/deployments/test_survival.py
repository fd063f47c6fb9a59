"""What keeps a run alive reaches every run, wherever it is started."""

import json
import re

import yaml

from deployments.apply import job_variables
from deployments.automations import SILENT_SECONDS
from deployments.manifest import FILE
from flows.environment import SURVIVAL
from tests.kit import ROOT


def test_a_deployment_of_a_pool_carries_it_and_what_a_person_set_stays():
    assert job_variables("gpu", {}) == {"env": SURVIVAL}
    own = {"image": "ours", "env": {"PREFECT_CLIENT_MAX_RETRIES": "9", "COLOUR": "blue"}}
    assert job_variables("gpu", own) == {"image": "ours", "env": {**SURVIVAL, **own["env"]}}
    assert job_variables("gpu", job_variables("gpu", own)) == job_variables("gpu", own)


def test_what_fluxline_up_serves_is_left_as_it_is():
    assert job_variables("", {}) == {}
    assert job_variables("", {"env": {"COLOUR": "blue"}}) == {"env": {"COLOUR": "blue"}}


def test_the_files_say_the_same():
    for entry in yaml.safe_load(FILE.read_text())["deployments"]:
        assert entry["work_pool"]["job_variables"] == {"env": SURVIVAL}
    template = json.loads((ROOT / "deployments" / "kubernetes" / "work-pool.json").read_text())
    assert SURVIVAL.items() <= template["variables"]["properties"]["env"]["default"].items()
    image = dict(re.findall(r"(\w+)=(\S+)", (ROOT / "deployments" / "Dockerfile").read_text()))
    assert SURVIVAL.items() <= image.items()


def test_heartbeats_come_more_often_than_a_silent_run_is_given_up():
    assert 3 * int(SURVIVAL["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) < SILENT_SECONDS
