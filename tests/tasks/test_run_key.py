import pytest

from tasks.artifacts import ArtifactRef
from tasks.run_key import REUSED, RunBook, RunRecord, StageIdentity

BASE = {
    "stage": "evaluate",
    "parameters": {"settings": {"guidance": 2.0, "steps": [1, 2]}},
    "upstream": {"model": "a" * 64},
    "seed": 0,
    "code": {"evaluation": "c1"},
}


def identity(**changes) -> StageIdentity:
    return StageIdentity.model_validate({**BASE, **changes})


def record(of: StageIdentity, digest: str = "d" * 64, finished: float = 1.0) -> RunRecord:
    artifact = ArtifactRef(kind="evaluation", uri="", digest=digest)
    return RunRecord(run_key=of.run_key, identity=of, artifact=artifact, seconds=1.0, finished=finished)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"parameters": {"settings": {"guidance": 3.0, "steps": [1, 2]}}},
            "settings.guidance changed 2.0 -> 3.0",
        ),
        ({"upstream": {"model": "b" * 64}}, "input model changed"),
        ({"seed": 1}, "seed changed 0 -> 1"),
        ({"code": {"evaluation": "c2"}}, "code changed in evaluation"),
        ({"parameters": {"settings": {"guidance": 2.0}}}, "settings.steps changed [1, 2] -> nothing"),
    ],
)
def test_whatever_a_result_depends_on_changes_the_key_and_is_named(home, changes, said):
    book = RunBook(home)
    book.decide(identity(), reused=False)
    book.write(record(identity()))
    changed = identity(**changes)
    assert changed.run_key != identity().run_key
    assert book.explain(changed) == f"re-ran because {said}"


def test_equal_identities_have_equal_keys_whatever_their_order():
    settings = {"steps": [1, 2], "guidance": 2.0}
    assert identity(parameters={"settings": settings}).run_key == identity().run_key


def test_decisions_say_first_time_unfinished_and_reused(home):
    book = RunBook(home)
    assert book.decide(identity(), reused=False).reason == "ran: first time"
    assert book.decide(identity(), reused=False).reason == "ran: its last run did not finish"
    book.write(record(identity()))
    assert book.decide(identity(), reused=True).reason == REUSED
    assert [entry.reused for entry in book.history("evaluate")] == [False, False, True]
    assert book.stages() == ["evaluate"]


def test_lineage_follows_digests_to_the_first_stage(home):
    book = RunBook(home)
    first = identity(stage="curate", upstream={})
    second = identity(stage="train", upstream={"dataset": "1" * 64})
    book.write(record(first, digest="1" * 64, finished=1.0))
    book.write(record(second, digest="2" * 64, finished=2.0))
    book.write(record(identity(), digest="3" * 64, finished=3.0))
    assert [r.identity.stage for r in book.lineage(["2" * 64])] == ["curate", "train"]


def test_an_unreadable_record_counts_as_none(home):
    book = RunBook(home)
    book.write(record(identity()))
    (home.runs / f"{identity().run_key}.json").write_text('{"run_key": ')
    assert book.read(identity().run_key) is None
