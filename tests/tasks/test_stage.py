import pytest
from pydantic import BaseModel

from fluxmodel.errors import StageError
from tasks import owed
from tasks.artifacts import ArtifactRef, ArtifactStore
from tasks.metrics_tail import MetricsTail
from tasks.run_key import REUSED, RunBook
from tasks.stage import Stage
from tasks.stage_run import Outcome, RunContext, StageRun

STAGE = Stage("curate", kind="dataset", modules=("tasks.spool",))


class Settings(BaseModel):
    steps: int = 3
    seed: int = 0
    fail: int = 0
    threads: int = 1

    def semantic(self) -> dict:
        return {"steps": self.steps, "seed": self.seed}


@pytest.fixture(autouse=True)
def mlflow_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.tracking.client", lambda _: (_ for _ in ()).throw(ConnectionError()))


def do(home, settings: Settings, dataset: ArtifactRef | None = None) -> tuple[ArtifactRef, list[str]]:
    """Run the stage as Prefect would: first its cache key, then, unless reused, its work."""
    worked: list[str] = []

    def work(run: StageRun, settings: Settings, dataset: ArtifactRef | None) -> Outcome:
        worked.append(run.identity.run_key)
        job = {"output": str(run.output), "steps": settings.steps, "fail": settings.fail}
        return Outcome(run.launch("fake_child", job), "some images")

    inputs = {"settings": settings, "dataset": dataset}
    STAGE.cache_key({"context": RunContext(home=str(home.root)), **inputs})
    return STAGE.run(RunContext(home=str(home.root)), work, **inputs), worked


def test_work_is_done_once_and_the_next_run_says_why_not_again(home):
    ref, worked = do(home, Settings())
    assert len(worked) == 1
    assert do(home, Settings(threads=2)) == (ref, [])
    assert [d.reason for d in RunBook(home).history("curate")] == ["ran: first time", REUSED]
    record = RunBook(home).read(worked[0])
    assert record is not None
    assert (record.gave, record.artifact) == ("some images", ref)
    assert not list(home.work(worked[0]).glob("**/final"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (Settings(steps=4), "re-ran because settings.steps changed 3 -> 4"),
        (Settings(seed=5), "re-ran because seed changed 0 -> 5"),
    ],
)
def test_a_changed_setting_runs_the_stage_again(home, changed, said):
    do(home, Settings())
    assert len(do(home, changed)[1]) == 1
    assert RunBook(home).history("curate")[-1].reason == said


def test_a_changed_input_runs_the_stage_again(home):
    do(home, Settings(), ArtifactRef(kind="dataset", uri="", digest="1"))
    assert len(do(home, Settings(), ArtifactRef(kind="dataset", uri="", digest="2"))[1]) == 1
    assert RunBook(home).history("curate")[-1].reason == "re-ran because input dataset changed"


def test_a_damaged_artifact_is_named_and_made_again(home):
    ref, _ = do(home, Settings())
    store = ArtifactStore(home)
    (store.path(ref) / "weights.json").write_text("0")
    again, worked = do(home, Settings())
    assert len(worked) == 1
    assert again.digest == ref.digest
    assert store.problems(again) == []
    assert "is damaged (weights.json differs from its digest)" in RunBook(home).history("curate")[-1].reason


def test_a_failed_stage_leaves_no_record_and_is_tried_again(home):
    with pytest.raises(StageError, match="exit code 3"):
        do(home, Settings(fail=3))
    ref, worked = do(home, Settings())
    assert len(worked) == 1
    assert ArtifactStore(home).problems(ref) == []
    assert RunBook(home).history("curate")[-1].reason == "ran: its last run did not finish"


def test_a_result_that_cannot_be_stored_is_a_failure_like_any_other(home, monkeypatch):
    closed = []
    close = MetricsTail.close
    monkeypatch.setattr(
        MetricsTail, "close", lambda tail, status: (closed.append(status), close(tail, status))
    )
    with monkeypatch.context() as full:
        full.setattr(ArtifactStore, "put", lambda *_: (_ for _ in ()).throw(OSError("No space left")))
        with pytest.raises(OSError, match="No space left"):
            do(home, Settings())
    assert closed == ["FAILED"]
    assert len(do(home, Settings())[1]) == 1


def test_what_mlflow_missed_is_owed(home):
    do(home, Settings())
    assert owed.settle(home, print) == 1
