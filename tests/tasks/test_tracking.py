import json
import threading
import time
from pathlib import Path

import pytest

from tasks import owed, registry, tracking
from tasks.artifacts import ArtifactRef, ArtifactStore
from tasks.home import Home
from tasks.metrics_tail import MetricsTail
from tasks.run_key import RunRecord, StageIdentity

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and SQLAlchemy warn of their own deprecations


class Mlflow:
    """Stands before MLflow and can go away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.is_away = False
        self.num_refused = 0
        real = tracking.client

        def client(home):
            if self.is_away:
                self.num_refused += 1
                raise ConnectionError("connection refused")
            return real(home)

        monkeypatch.setattr(tracking, "client", client)


def write(spool: Path, *steps: int) -> None:
    with spool.open("a") as stream:
        for step in steps:
            stream.write(
                json.dumps({"step": step, "total": 9, "metrics": {"loss": float(step)}, "seconds": 1}) + "\n"
            )


def steps_logged(home: Home, run_id: str) -> list[int]:
    return [point.step for point in tracking.client(home).get_metric_history(run_id, "loss")]


def test_a_run_is_found_again_by_its_key_and_hangs_below_its_parent(tracked):
    parent = tracking.open_run(tracked, "pipeline-key", "demo", {})
    run = tracking.open_run(tracked, "stage-key", "train", {"stage": "train"}, "pipeline-key")
    tracking.log_run(tracked, run, params={"job": {"steps": 3}})
    tracking.close_run(tracked, run, "FAILED")
    assert tracking.open_run(tracked, "stage-key", "train", {}) == run
    tracking.log_run(tracked, run, params={"job": {"steps": 4}})  # what MLflow has already is left as it is
    found = tracking.client(tracked).get_run(run)
    assert found.info.status == "RUNNING"
    assert found.data.tags["mlflow.parentRunId"] == parent
    assert found.data.params == {"job.steps": "3"}


def test_no_point_is_lost_or_sent_twice_while_mlflow_comes_and_goes(tracked, tmp_path, monkeypatch):
    mlflow = Mlflow(monkeypatch)
    spool, state, said = tmp_path / "metrics.jsonl", tmp_path / "state.json", []

    def tail() -> MetricsTail:
        return MetricsTail(
            tracked, spool, state, lambda: tracking.open_run(tracked, "key", "train", {}), said.append
        )

    mlflow.is_away = True
    first = tail()
    write(spool, 1, 2)
    assert not first.pump()
    assert not first.pump()
    mlflow.is_away = False
    write(spool, 3)
    assert first.pump()
    mlflow.is_away = True
    write(spool, 4)
    assert not first.pump()
    mlflow.is_away = False
    write(spool, 3, 4, 5)  # killed and resumed: steps come again, and the sender is a new one
    second = tail()
    assert second.pump()
    assert steps_logged(tracked, second.run_id) == [1, 2, 3, 4, 5]
    assert len(said) == 3
    assert "MLflow is away (ConnectionError)" in said[0]
    assert "back" in said[1]


def test_two_threads_that_need_the_run_open_it_once(home, tmp_path):
    opened, both = [], threading.Barrier(2)

    def open_run() -> str:
        time.sleep(0.05)
        opened.append("id")
        return "id"

    def ask() -> None:
        both.wait()
        tail.require()

    tail = MetricsTail(home, tmp_path / "metrics.jsonl", tmp_path / "state.json", open_run, print)
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == ["id"]


def test_a_stage_finished_while_mlflow_is_away_is_logged_later(tracked, tmp_path, monkeypatch):
    mlflow = Mlflow(monkeypatch)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "weights.bin").write_bytes(b"1")
    ref = ArtifactStore(tracked).put(tmp_path / "made", "model")
    identity = StageIdentity(stage="train", parameters={"steps": 3}, upstream={}, seed=0, code={})
    record = RunRecord(
        run_key=identity.run_key, identity=identity, artifact=ref, seconds=2.0, metrics={"psnr": 30.0}
    )
    spool = tmp_path / "metrics.jsonl"
    write(spool, 1, 2, 3)
    debt = owed.Debt(
        run_key=identity.run_key,
        pipeline_key="",
        spool=str(spool),
        state=str(tmp_path / "state.json"),
        identity=identity,
        tags={},
    )
    mlflow.is_away = True
    owed.finish(tracked, debt, owed.tail(tracked, debt, print), record)
    assert owed.settle(tracked, print) == 1
    mlflow.is_away = False
    assert owed.settle(tracked, print) == 0
    run = tracking.find_run(tracked, identity.run_key)
    assert run is not None
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"loss": 3.0, "psnr": 30.0, "stage_seconds": 2.0}
    assert run.data.tags["artifact_digest"] == ref.digest
    assert steps_logged(tracked, run.info.run_id) == [1, 2, 3]
    assert [f.path for f in tracking.client(tracked).list_artifacts(run.info.run_id, "model")] == [
        "model/manifest.json", "model/weights.bin"
    ]  # fmt: skip


def test_a_registered_model_comes_back_from_the_store_or_from_mlflow(tracked, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "model_index.json").write_text("{}")
    store = ArtifactStore(tracked)
    ref = store.put(tmp_path / "made", "model")
    run = tracking.open_run(tracked, "key", "register", {})
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "README.md").write_text("# card")
    for expected in ("1", "2"):
        made = registry.register_version(
            tracked, "shapes", run, store.path(ref), ref, {"dataset": "d"}, "# card", tmp_path / "beside",
            {"train.digest": "e" * 64, "start": ""},
        )  # fmt: skip
        assert (made.version, made.tags["train.digest"]) == (expected, "e" * 64)
    found = registry.find_version(tracked, "shapes")
    shown = tracking.client(tracked).get_model_version("shapes", "2").tags
    assert set(shown) == {"dataset", registry.LINEAGE}  # MLflow's page draws each tag as a chip
    assert registry.all_versions(tracked)[0].tags == found.tags == made.tags
    registry.set_tags(tracked, found, {"train.digest": "f" * 64})
    assert (
        registry.find_version(tracked, "shapes").tags["train.digest"] == "f" * 64
    )  # a tag of its own comes first
    assert (found.version, found.tags["dataset"], found.tags["artifact_digest"]) == ("2", "d", ref.digest)
    assert registry.newest_model_name(tracked) == "shapes"
    assert registry.model_directory(tracked, found) == store.path(ref)
    store.discard(ref)
    names = [path.name for path in registry.model_directory(tracked, found).iterdir()]
    assert sorted(names) == ["manifest.json", "model_index.json"]  # the card is MLflow's alone
    there = [f.path for f in tracking.client(tracked).list_artifacts(run, "model")]
    assert "model/README.md" in there
    assert registry.has_version(tracked, "shapes", "2")
    assert not registry.has_version(tracked, "shapes", "7")


def test_a_large_artifact_is_logged_by_its_address(tracked, tmp_path):
    run = tracking.open_run(tracked, "key", "train", {})
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "weights.bin").write_text("")
    size = tracking.WHOLE_ARTIFACT_BYTES + 1
    large = ArtifactRef(kind="model", uri="file:///far", digest="d", num_bytes=size)
    tracking.log_artifact(tracked, run, tmp_path, large)
    assert [f.path for f in tracking.client(tracked).list_artifacts(run, "model")] == [
        "model/artifact.json", "model/manifest.json"
    ]  # fmt: skip
    assert tracking.client(tracked).get_run(run).data.tags["artifact_uri"] == "file:///far"


def test_a_parent_whose_stages_were_all_reused_links_to_their_runs(tracked):
    first = tracking.open_run(tracked, "first", "demo", {})
    stage = tracking.open_run(tracked, "stage-key", "train", {"stage": "train"}, "first")
    tracking.describe(tracked, stage, "train: 40 steps")
    second = tracking.open_run(tracked, "second", "demo", {})
    adopted = tracking.adopt(tracked, second, "stage-key", version="2")
    experiment = tracking.experiment_id(tracked)
    assert adopted is not None
    assert adopted.link == f"- [train: 40 steps](#/experiments/{experiment}/runs/{stage})"
    assert (adopted.stage, adopted.run_id, adopted.run_key) == ("train", stage, "stage-key")
    found = tracking.client(tracked).get_run(stage)
    assert found.data.tags["mlflow.parentRunId"] == first
    assert found.info.run_name == "train"  # version 2 did not make it
    assert tracking.adopt(tracked, second, "unknown-key") is None
    tracking.adopt(tracked, first, "stage-key", version="1")
    assert tracking.client(tracked).get_run(stage).info.run_name == "train v1"
