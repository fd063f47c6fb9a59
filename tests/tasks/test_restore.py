"""What the store lost comes back from a real MLflow store (SQLite and files), whole or not at all."""

import shutil
from pathlib import Path

import pytest

from fluxmodel.errors import ArtifactError
from tasks import owed, tracking
from tasks.artifacts import ArtifactRef, ArtifactStore
from tasks.home import Home
from tasks.progress import board
from tasks.run_key import REUSED, RunBook
from tasks.stage import Stage
from tasks.stage_run import Outcome, RunContext, StageRun

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and SQLAlchemy warn of their own deprecations
STAGE = Stage("curate", kind="dataset", modules=("tasks.spool",))


def do(home: Home) -> tuple[ArtifactRef, list[str]]:
    worked: list[str] = []

    def work(run: StageRun, name: str) -> Outcome:
        worked.append(run.identity.run_key)
        made = run.output / "final"
        (made / "inner").mkdir(parents=True)
        (made / "inner" / "data.bin").write_bytes(name.encode() * 1000)
        (made / "card.json").write_text("{}")
        return Outcome(made, "a thing")

    STAGE.cache_key({"context": RunContext(home=str(home.root)), "name": "x"})
    return STAGE.run(RunContext(home=str(home.root)), work, name="x"), worked


@pytest.mark.parametrize("loss", ["deleted", "damaged"])
def test_a_stage_whose_artifact_is_lost_is_restored_not_made_again(tracked, monkeypatch, loss):
    said: list[str] = []
    monkeypatch.setattr(type(board()), "say", lambda _, text: said.append(text))
    ref, worked = do(tracked)
    assert len(worked) == 1
    if loss == "deleted":
        shutil.rmtree(tracked.artifacts)
    else:
        (ArtifactStore(tracked).path(ref) / "card.json").write_text("{ }")
    assert do(tracked) == (ref, [])
    assert ArtifactStore(tracked).problems(ref) == []
    assert RunBook(tracked).history("curate")[-1].reason == REUSED
    assert any(text.startswith("curate: restored from MLflow") for text in said)


def test_a_run_that_does_not_know_its_mlflow_run_is_found_by_the_digest(tracked):
    ref, _ = do(tracked)
    shutil.rmtree(tracked.artifacts)
    nameless = ref.model_copy(update={"mlflow_run_id": ""})
    assert (ArtifactStore(tracked).path(nameless) / "inner" / "data.bin").stat().st_size == 1000
    shutil.rmtree(tracked.artifacts)
    misled = ref.model_copy(update={"mlflow_run_id": "0" * 32})
    assert ArtifactStore(tracked).problems(misled) != []
    assert ArtifactStore(tracked).path(misled).is_dir()


def test_a_damaged_copy_in_mlflow_is_not_taken(tracked):
    ref, _ = do(tracked)
    shutil.rmtree(tracked.artifacts)
    (copy,) = (tracked.root / "mlartifacts").rglob("data.bin")
    copy.write_bytes(b"y")
    with pytest.raises(ArtifactError, match=r"neither in .* nor in MLflow"):
        ArtifactStore(tracked).path(ref)
    assert not list((tracked.root / "fetched").glob(".partial*"))
    again, worked = do(tracked)
    assert (again.digest, len(worked)) == (ref.digest, 1)


def test_an_artifact_beyond_the_limit_is_made_again(tracked, monkeypatch):
    monkeypatch.setenv("FLUXLINE_LOG_LIMIT", "100")
    ref, _ = do(tracked)
    shutil.rmtree(tracked.artifacts)
    again, worked = do(tracked)
    assert (again.digest, len(worked)) == (ref.digest, 1)


def test_while_mlflow_is_away_a_lost_artifact_is_made_again(tracked, monkeypatch):
    ref, _ = do(tracked)
    shutil.rmtree(tracked.artifacts)
    monkeypatch.setattr(tracking, "client", lambda _: (_ for _ in ()).throw(ConnectionError()))
    again, worked = do(tracked)
    assert (again.digest, len(worked)) == (ref.digest, 1)


def test_a_large_artifact_is_logged_while_the_run_goes_on(tracked, monkeypatch):
    monkeypatch.setattr(owed, "MEANWHILE_BYTES", 100)
    ref, _ = do(tracked)
    assert owed.settle(tracked, print) == 0  # as the end of a run does: waits for what is under way
    run = tracking.client(tracked).get_run(ref.mlflow_run_id)
    assert (run.info.status, run.data.tags["artifact_digest"]) == ("FINISHED", ref.digest)
    shutil.rmtree(tracked.artifacts)
    assert do(tracked) == (ref, [])


def test_a_bucket_is_refilled_too(tracked, monkeypatch):
    monkeypatch.setenv("FLUXLINE_STORE", "memory://bucket/restored")
    ref, _ = do(tracked)
    store = ArtifactStore(tracked)
    store.fs.rm(store.root, recursive=True)
    assert (store.path(ref) / "card.json").is_file()
    assert store.problems(ref) == []


def test_the_artifact_of_another_home_comes_through_a_shared_mlflow(tracked, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.tracking_uri(tracked))
    ref, _ = do(tracked)
    other = Home(Path(tmp_path / "other")).make()
    assert (ArtifactStore(other).path(ref) / "card.json").is_file()
