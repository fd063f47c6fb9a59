"""The real chain, as a user runs it: `fluxline run --preset smoke` under a real Prefect server."""

import json
import os
import signal
import time
from pathlib import Path

import httpx
import psutil
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # MLflow, SQLAlchemy and Prefect warn of their own deprecations
]

PREPARED = ["prepare-autoencoder", "prepare-detector", "prepare-dual_encoder"]
STAGES = [*PREPARED, "curate", "encode", "train", "evaluate", "register"]


def ran(stages: dict[str, dict]) -> list[str]:
    return [name for name, stage in stages.items() if not stage["reused"]]


def test_the_chain_ends_with_a_registered_model(finished):
    command, stages, outcome, err = finished
    assert list(stages) == ran(stages) == STAGES
    assert outcome["model_version"] == "1"
    assert Path(outcome["evaluation"]).is_file()
    assert all(stage["digest"] and stage["seconds"] > 0 and stage["gave"] for stage in stages.values())
    assert "what it gave" in err
    assert not list((command.home / "owed").glob("*"))


def test_mlflow_and_prefect_know_the_run_and_each_other(finished, prefect_url):
    command, stages, outcome, _ = finished
    from tasks import registry, tracking
    from tasks.home import Home

    home = Home(command.home)
    train = tracking.find_run(home, stages["train"]["run_key"])
    assert train is not None
    assert train.data.tags["mlflow.parentRunId"] == outcome["mlflow_run_id"]
    assert train.data.tags["artifact_digest"] == stages["train"]["digest"]
    assert train.info.status == "FINISHED"
    points = tracking.client(home).get_metric_history(train.info.run_id, "loss")
    assert [p.step for p in points] == sorted({p.step for p in points}) != []
    parent = tracking.client(home).get_run(outcome["mlflow_run_id"])
    flow_run_id = parent.data.tags["prefect.flow_run_id"]
    with httpx.Client(base_url=f"{prefect_url}/api", trust_env=False) as prefect:
        assert prefect.get(f"/flow_runs/{flow_run_id}").json()["state_name"] == "Completed"
        chosen = {"flow_runs": {"id": {"any_": [flow_run_id]}}}
        states = {
            run["name"]: run["state_name"] for run in prefect.post("/task_runs/filter", json=chosen).json()
        }
    assert states == dict.fromkeys(STAGES, "Completed")
    version = registry.find_version(home, outcome["model_name"])
    assert version.tags["artifact_digest"] == stages["train"]["digest"]
    for name in STAGES[:-1]:
        assert version.tags[f"{name}.run_key"] == stages[name]["run_key"]
    assert version.tags["dataset"].startswith("procedural:shapes")


def test_a_second_run_reuses_every_stage_and_says_why(again, finished):
    stages, outcome, err = again.pipeline()
    assert ran(stages) == []
    assert {stage["reason"] for stage in stages.values()} == {
        "reused: same parameters, inputs, seed and code"
    }
    assert {n: s["digest"] for n, s in stages.items()} == {n: s["digest"] for n, s in finished[1].items()}
    assert outcome["model_version"] == "1"
    assert err.count("reused: same parameters, inputs, seed and code") >= len(STAGES)


def test_a_changed_evaluation_setting_runs_only_evaluation_and_after(again):
    stages, outcome, _ = again.pipeline("--num-images", "32")
    assert ran(stages) == ["evaluate", "register"]
    assert stages["evaluate"]["reason"] == "re-ran because settings.num_images changed 64 -> 32"
    assert stages["register"]["reason"] == "re-ran because input evaluation changed"
    assert outcome["model_version"] == "2"


def test_a_damaged_artifact_is_made_again_and_what_follows_is_reused(again, finished):
    digest = finished[1]["encode"]["digest"]
    place = again.home / "artifacts" / "latents" / digest[:16] / "config.json"
    place.write_text(place.read_text() + " ")
    stages, _, err = again.pipeline()
    assert ran(stages) == ["encode"]
    assert stages["encode"]["digest"] == digest
    assert "is damaged (config.json differs from its digest)" in err


def test_killed_in_mid_training_it_goes_on_to_the_same_weights(again, finished, forget):
    stages = finished[1]
    forget(again, stages, "train")
    work = again.home / "work" / stages["train"]["run_key"][:32] / "output"
    process = again.start("run", "--preset", "smoke")
    spool = work / "metrics.jsonl"
    _wait_for(lambda: spool.exists() and spool.read_text().count("\n") >= 2)
    family = psutil.Process(process.pid).children(recursive=True)
    for member in [*family, psutil.Process(process.pid)]:
        os.kill(member.pid, signal.SIGKILL)
    process.communicate()
    psutil.wait_procs(family, timeout=10)
    assert list((work / "checkpoints").iterdir())
    assert not (work / "final").exists()
    resumed, _, _ = again.pipeline()
    assert resumed["train"]["digest"] == stages["train"]["digest"]
    assert ran(resumed) == ["train"]
    steps = [
        json.loads(line)["step"] for line in spool.read_text().splitlines() if line.startswith('{"step"')
    ]
    assert steps[-1] == 40


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_saves_a_checkpoint_and_goes_on(again, finished, forget, ending):
    stages = finished[1]
    forget(again, stages, "train")
    work = again.home / "work" / stages["train"]["run_key"][:32] / "output"
    process = again.start("run", "--preset", "smoke")
    _wait_for(lambda: (work / "metrics.jsonl").exists())
    process.send_signal(ending)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "Traceback" not in err
    assert "the same command goes on" in err.splitlines()[-1]
    resumed, _, _ = again.pipeline()
    assert resumed["train"]["digest"] == stages["train"]["digest"]


def test_while_mlflow_is_away_the_run_goes_on_and_is_logged_later(again, finished):
    again.environment = {**again.environment, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    _, err = again.run("run", "--preset", "smoke", "--num-images", "32", code=1)
    assert "MLflow" in err.splitlines()[-1]  # to register, MLflow has to answer: but nothing else is lost
    again.environment = finished[0].environment
    stages, _, _ = again.pipeline("--num-images", "32")
    assert ran(stages) == ["register"]
    from tasks import tracking
    from tasks.home import Home

    run = tracking.find_run(Home(again.home), stages["evaluate"]["run_key"])
    assert run is not None
    assert run.info.status == "FINISHED"


def test_generate_draws_with_the_registered_model(finished, tmp_path):
    command = finished[0]
    drawn, _ = command.run("generate", "a red circle top left", "--out", str(tmp_path), "--json")
    assert Path(drawn["images"][0]["path"]).read_bytes().startswith(b"\x89PNG")
    _, err = command.run("generate", "a red circle", "--model", "nobody", code=2)
    assert err == "fluxline: There is no registered model 'nobody'; `fluxline run` makes one.\n"


def _wait_for(condition, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)
