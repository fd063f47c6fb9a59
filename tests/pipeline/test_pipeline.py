"""The real chain, as a user runs it: `fluxline run --preset smoke` under a real Prefect server."""

import signal
from pathlib import Path

import httpx
import pytest

from tests.kit import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # MLflow, SQLAlchemy and Prefect warn of their own deprecations
]

PARTS = ("autoencoder", "detector", "dual_encoder", "captioner", "style_classifier")
STAGES = [
    *(f"prepare-{part}" for part in PARTS),
    *("curate", "caption", "encode", "train", "rectify", "finetune", "evaluate", "gate", "register"),
]


def test_the_chain_ends_with_a_registered_model(finished, ran):
    command, stages, outcome, err = finished
    assert list(stages) == ran(stages) == STAGES
    assert outcome["model_version"] == "1"
    assert Path(outcome["evaluation"]).read_text().startswith("<!doctype html>")
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
    assert len(states) == len(STAGES)
    assert set(states.values()) == {"Completed"}
    said = {
        "prepare autoencoder 30 steps",
        "train 40 steps, seed 0",
        "evaluate 64 images",
        "gate fluxline-smoke",
    }
    assert said < set(states)
    version = registry.find_version(home, outcome["model_name"])
    for name in STAGES[:-1]:
        assert version.tags[f"{name}.run_key"] == stages[name]["run_key"]
        assert version.tags[f"{name}.digest"] == stages[name]["digest"]
    assert version.tags["model.digest"] == stages["rectify"]["digest"]
    assert version.tags["lora.digest"] == stages["finetune"]["digest"]
    whole = registry.model_directory(home, version)
    assert whole.name == version.tags["artifact_digest"][:16]
    _same_files(whole / "loras" / version.tags["lora.name"], command.artifact(stages["finetune"]))
    for place in ("transformer", "transformer_base", "text_encoder", "autoencoder", "model_index.json"):
        _same_files(whole / place, command.artifact(stages["rectify"]) / place)
    assert version.tags["dataset"].startswith("procedural:shapes")


def test_a_second_run_reuses_every_stage_and_says_why(again, finished, ran):
    stages, outcome, err = again.pipeline()
    assert ran(stages) == []
    assert {stage["reason"] for stage in stages.values()} == {
        "reused: same parameters, inputs, seed and code"
    }
    assert {n: s["digest"] for n, s in stages.items()} == {n: s["digest"] for n, s in finished[1].items()}
    assert outcome["model_version"] == "1"
    assert err.count("reused: same parameters, inputs, seed and code") >= len(STAGES)


def test_a_changed_evaluation_setting_runs_only_evaluation_and_after(again, ran):
    stages, outcome, _ = again.pipeline("--num-images", "32")
    assert ran(stages) == ["evaluate", "gate", "register"]
    assert stages["evaluate"]["reason"] == "re-ran because settings.num_images changed 64 -> 32"
    reason = stages["gate"]["reason"]  # version 1 is the champion by now
    assert reason.startswith("re-ran because champion changed none -> version 1")
    assert reason.endswith(", input evaluation changed")
    assert stages["register"]["reason"].startswith("re-ran because input decision changed, input evaluation")
    assert outcome["model_version"] == "2"


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_saves_a_checkpoint_and_goes_on(again, finished, forget, ending):
    stages = finished[1]
    forget(again, stages, "train")
    process = again.start("run", "--preset", "smoke")
    wait_until((again.work(stages["train"]) / "output" / "metrics.jsonl").exists, seconds=300)
    process.send_signal(ending)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "Traceback" not in err
    assert "the same command goes on" in err.splitlines()[-1]
    resumed, _, _ = again.pipeline()
    assert resumed["train"]["digest"] == stages["train"]["digest"]


def test_while_mlflow_is_away_the_run_goes_on_and_is_logged_later(again, finished, ran):
    again.environment = {**again.environment, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    _, err = again.run("run", "--preset", "smoke", "--num-images", "32", code=1)
    assert "MLflow" in err.splitlines()[-1]  # gate and register need its answer: but nothing else is lost
    again.environment = finished[0].environment
    stages, _, _ = again.pipeline("--num-images", "32")
    assert ran(stages) == ["gate", "register"]
    from tasks import tracking
    from tasks.home import Home

    run = tracking.find_run(Home(again.home), stages["evaluate"]["run_key"])
    assert run is not None
    assert run.info.status == "FINISHED"


def _same_files(one: Path, other: Path) -> None:
    names = sorted(path.relative_to(other) for path in other.rglob("*") if path.name != "manifest.json")
    assert sorted(path.relative_to(one) for path in one.rglob("*") if path.name != "manifest.json") == names
    for name in names:
        assert (one / name).is_dir() or (one / name).read_bytes() == (other / name).read_bytes(), name
