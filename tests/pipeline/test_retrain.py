"""Retraining from the champion, a LoRA for it, and a single stage: as Prefect runs them, on a finished home."""

import json
import os
import subprocess
import sys
from typing import Any

import httpx
import pytest

from tasks import registry, tracking
from tasks.home import Home

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # MLflow, SQLAlchemy and Prefect warn of their own deprecations
]


def call(command: Any, place: str, **parameters: Any) -> dict[str, Any]:
    """Run a flow with the parameters of its form, in a process of its own; return what it gave."""
    module, _, name = place.rpartition(".")
    code = (
        "import json, sys\nfrom flows.environment import set_environment\nfrom tasks.home import open_home\n"
        f"set_environment(open_home())\nfrom {module} import {name} as flow\n"
        "print(json.dumps(flow(**json.loads(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(parameters)],
        env=os.environ | command.environment | {"FLUXLINE_HOME": str(command.home)},
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def name_of_run(prefect_url: str, outcome: dict[str, Any]) -> str:
    number = outcome["prefect_url"].rsplit("/", 1)[-1]
    with httpx.Client(base_url=f"{prefect_url}/api", trust_env=False) as prefect:
        return prefect.get(f"/flow_runs/{number}").json()["name"]


def test_the_next_version_goes_on_from_the_champion(again, finished, prefect_url):
    outcome = call(again, "flows.retrain.retrain", preset="smoke", start="champion", train_steps=20)
    assert outcome["model_version"] == "2"
    assert name_of_run(prefect_url, outcome) == "retrain smoke, seed 1, from version 1"
    stages = {stage["name"]: stage for stage in outcome["stages"]}
    assert "prepare-autoencoder" not in stages  # it is the champion's
    assert all(stages[name]["reused"] for name in ("curate", "caption", "encode"))
    home = Home(again.home)
    version = registry.find_version(home, outcome["model_name"], "2")
    assert version.tags["start"] == "version 1"
    assert version.tags["start.digest"] == finished[1]["train"]["digest"]
    assert version.tags["prepare-autoencoder.digest"] == finished[1]["prepare-autoencoder"]["digest"]

    def first_loss(run_id: str) -> float:
        return tracking.client(home).get_metric_history(run_id, "loss")[0].value

    scratch = first_loss(finished[1]["train"]["mlflow_run_id"])
    assert (
        first_loss(stages["train"]["mlflow_run_id"]) < 0.8 * scratch
    )  # 0.74 against 1.48 when it was written


def test_a_lora_is_made_of_the_champions_own_parts_and_no_version_of_it(again, prefect_url):
    asked = {"style": "style:glow?n=8&seed=0", "rank": 2, "steps": 5}
    outcome = call(again, "flows.finetune_lora.finetune_lora", preset="smoke", **asked)
    assert [stage["name"] for stage in outcome["stages"]] == [
        "prepare-style_classifier", "finetune", "evaluate",
    ]  # fmt: skip
    about = json.loads((again.home / outcome["lora"] / "lora.json").read_text())
    assert (about["rank"], about["steps"], about["trigger"]) == (2, 5, outcome["trigger"])
    assert outcome["lora"] in outcome["try"]
    assert any(name.startswith("style on") for name in outcome["figures"])
    assert [each.version for each in registry.all_versions(Home(again.home))] == ["1"]
    assert name_of_run(prefect_url, outcome).startswith("LoRA of style:glow")


def test_a_single_stage_reuses_what_stands_and_registers_nothing(again):
    outcome, _ = again.run("curate", "--preset", "smoke", "--json")
    assert [(stage["name"], stage["reused"]) for stage in outcome["stages"]] == [("curate", True)]
    assert outcome["seen"] == 400
    assert outcome["kept"] + sum(outcome["dropped"].values()) <= outcome["seen"]
    assert (again.home / outcome["report"]).is_file()
    assert outcome["model_version"] == outcome["evaluation"] == ""
