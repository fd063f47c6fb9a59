"""The peer of the orchestration benchmark does the same work, in the same order, and writes elsewhere."""

import sys
from pathlib import Path

import pytest

from benchmarks.recorded_chain import Call, Span, before, longest_path, replay, same_artifacts, short_demo
from fluxmodel.errors import StageError
from fluxmodel.presets import DEMO
from tasks.artifacts import ArtifactStore
from tasks.home import Home

NOTE = "import sys, json, time, pathlib; job = json.load(open(sys.argv[1])); " \
       "out = pathlib.Path(job['output'], 'final'); out.mkdir(exist_ok=True); " \
       "(out / 'result').write_text(job['says']); time.sleep(job['wait']); " \
       "open(job['log'], 'a').write(job['says'])"  # fmt: skip


def call(home: Path, says: str, started: float, ended: float, wait: float = 0.0, code: str = NOTE) -> Call:
    work = home / "work" / says
    job = {"output": str(work / "output"), "says": says, "wait": wait, "log": str(home / "log")}
    return Call([sys.executable, "-c", code, str(work / "job.json")], job, str(work), 1, started, ended)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").make()


def spans_of(home: Home) -> list[Span]:
    """`a`, then `b` and `c` side by side, then `d`; `b` takes longest when it is run again."""
    rows = [("a", 0, 1, 0.0), ("b", 1, 2, 0.4), ("c", 1, 3, 0.0), ("d", 3, 4, 0.0)]
    spans = []
    for says, began, ended, wait in rows:
        made = home.root / "made" / says
        made.mkdir(parents=True)
        (made / "result").write_text(says)
        ref = ArtifactStore(home).put(made, "note")
        one = call(home.root, says, began, ended, wait)
        spans.append(Span(began, says, says, ref.digest, began, ended, [one]))
    return spans


def test_children_wait_for_what_they_waited_for_and_write_elsewhere(home, tmp_path):
    spans, scratch = spans_of(home), tmp_path / "plain"
    scratch.mkdir()
    assert replay(spans, home.root, scratch) > 0.4
    order = (scratch / "log").read_text()
    assert order[0] == "a"
    assert order.index("d") > order.index("c")
    assert not (home.root / "log").exists()
    assert sorted(same_artifacts(spans, home.root, scratch)) == ["a", "b", "c", "d"]
    (scratch / "work" / "c" / "output" / "final" / "result").write_text("another")
    assert sorted(same_artifacts(spans, home.root, scratch)) == ["a", "b", "d"]


def test_a_child_that_fails_is_not_timed(home, tmp_path):
    (tmp_path / "plain").mkdir()
    failing = Span(0, "x", calls=[call(home.root, "x", 0, 1, code="raise SystemExit('no disk')")])
    with pytest.raises(StageError, match="no disk"):
        replay([failing], home.root, tmp_path / "plain")


def test_inputs_stay_where_the_flow_stored_them(home, tmp_path):
    (tmp_path / "plain").mkdir()
    stored = home.root / "artifacts" / "note"
    stored.mkdir(parents=True)
    one = call(home.root, "x", 0, 1)
    one.job["log"] = str(stored / "log")
    replay([Span(0, "x", calls=[one])], home.root, tmp_path / "plain")
    assert (stored / "log").read_text() == "x"


def test_seconds_are_where_they_were_spent(home):
    a, b, c, d = spans_of(home)
    d.began, d.had_cores, d.ended, d.upstream = 3.5, 3.6, 5.0, [a.digest, c.digest]
    assert before(d, [a, b, c, d], started=0.0) == pytest.approx(0.5)
    assert before(a, [a, b, c, d], started=-2.0) == pytest.approx(2.0)
    assert d.inside == pytest.approx(0.4)  # its child ran for 1 of 1.4 s
    assert [each.job["says"] for each in longest_path([a, b, c, d])] == ["a", "c", "d"]


def test_the_short_demo_has_all_of_the_demos_networks():
    short = short_demo()
    assert short.flow.model == DEMO.flow.model
    assert short.flow.steps == DEMO.flow.steps // 10
    assert short.evaluation["steps"] == DEMO.evaluation["steps"]
    assert "n=4000" in short.data
