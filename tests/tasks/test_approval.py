"""A person's answer to a version that waits, over a real MLflow registry (SQLite)."""

import getpass
import json

import pytest

from evaluation.gate import Champion, GateDecision
from evaluation.gate_settings import GateSettings
from evaluation.rules import Rule
from fluxmodel.errors import InputError
from tasks import approval, promotion, registry, tracking
from tasks.approval import answer, find_waiting, question
from tasks.artifacts import ArtifactStore
from tasks.home import Home
from tasks.registry import RegisteredVersion

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and SQLAlchemy warn of their own deprecations
NAME = "shapes"


@pytest.fixture
def waiting(tracked: Home) -> RegisteredVersion:
    """Version 2, which waits; version 1 is the champion it was compared with, and version 3 came later."""
    client = tracking.client(tracked)
    client.create_registered_model(NAME)
    for number in range(1, 4):
        client.create_model_version(NAME, "file:///nowhere", tags={"artifact_digest": str(number)})
    client.set_registered_model_alias(NAME, "champion", "1")
    version = registry.find_version(tracked, NAME, "2")
    tags = {"gate.champion": "1", "gate.verdict": "promote", "gate.reasons": "all_correct: shown better."}
    registry.set_tags(tracked, version, tags)
    promotion.ask_approval(tracked, version, ["Shown better."])
    return registry.find_version(tracked, NAME, "2")


def tags_of(home: Home, version: str) -> dict[str, str]:
    return registry.find_version(home, NAME, version).tags


def test_a_yes_promotes_and_notes_who_and_why(tracked, waiting):
    done = answer(tracked, waiting, True, "its circles are round", "the night shift")
    assert (done.outcome, done.said) == (
        "promoted",
        "The champion of shapes is version 2 now, before it version 1.",
    )
    assert registry.aliases(tracked, NAME) == {"champion": "2", "previous": "1"}
    tags = tags_of(tracked, "2")
    assert (tags["approval.by"], tags["approval.reason"]) == ("the night shift", "its circles are round")
    assert (tags["promotion.by"], tags["promotion.who"]) == ("the night shift", "manual")
    assert tags["approval.time"] == tags["promotion.time"]
    assert "approval" not in tags
    assert (
        answer(tracked, waiting, True, "again", "Bo").outcome == "promoted"
    )  # the run was cut off and retried
    assert tags_of(tracked, "2")["approval.by"] == "the night shift"


def test_a_no_keeps_the_champion_and_a_tag(tracked, waiting):
    done = answer(tracked, waiting, False, "its circles are square")
    assert (done.outcome, done.said) == ("declined", "shapes version 2 was declined; the champion stays.")
    assert registry.aliases(tracked, NAME) == {"champion": "1"}
    tags = tags_of(tracked, "2")
    assert (tags["approval"], tags["approval.reason"]) == ("declined", "its circles are square")
    assert tags["approval.by"] == getpass.getuser()
    assert promotion.pending(tracked, NAME) == []
    late = answer(tracked, waiting, True, "I did not know")  # a second run, answered otherwise
    assert late.outcome == "refused"
    assert "was declined by" in late.said
    assert registry.aliases(tracked, NAME)["champion"] == "1"


@pytest.mark.parametrize("moves", [["3"], ["3", "1"]], ids=["moved", "moved away and back"])
def test_a_yes_that_comes_too_late_is_refused_in_one_sentence(tracked, waiting, moves):
    for version in moves:
        promotion.promote(tracked, registry.find_version(tracked, NAME, version), "gate", "better")
    before = registry.aliases(tracked, NAME)
    done = answer(tracked, waiting, True, "yes")
    assert done.outcome == "refused"
    how = "moved from version 1 to version 3" if len(moves) == 1 else "moved away and back"
    assert f"shapes version 2 was not promoted: the champion {how} since the gate compared them;" in done.said
    assert "\n" not in done.said
    assert registry.aliases(tracked, NAME) == before


def test_a_move_behind_our_back_is_noticed_although_the_tag_still_waits(tracked, waiting):
    tracking.client(tracked).set_registered_model_alias(NAME, "champion", "3")  # in MLflow's own pages
    assert answer(tracked, waiting, True, "yes").outcome == "refused"
    assert registry.aliases(tracked, NAME) == {"champion": "3"}


def test_a_no_to_what_is_champion_already_is_refused(tracked, waiting):
    promotion.promote_by_hand(tracked, waiting, "in the terminal", is_forced=False)
    done = answer(tracked, waiting, False, "no")
    assert (done.outcome, "`fluxline rollback` undoes it" in done.said) == ("refused", True)
    assert "approval" not in tags_of(tracked, "2")


def test_what_waits_is_found_by_name_or_newest(tracked, waiting):
    assert find_waiting(tracked) == find_waiting(tracked, NAME) == find_waiting(tracked, NAME, "2") == waiting
    with pytest.raises(InputError, match=r"version 3 does not wait for approval \(the gate said nothing\)"):
        find_waiting(tracked, NAME, "3")
    answer(tracked, waiting, False, "no")
    with pytest.raises(InputError, match="No version of shapes waits for approval; to promote one all"):
        find_waiting(tracked, NAME)
    with pytest.raises(InputError, match=r"was declined by .* use `fluxline promote shapes --version 2`"):
        find_waiting(tracked, NAME, "2")


def test_the_question_tells_the_gate_s_figures_and_the_way_on(tracked, waiting, tmp_path, monkeypatch):
    kept = Rule(name="clip", asked="loses at most 1", found="+0.2", verdict="kept")
    decision = GateDecision(
        verdict="promote", reasons=["Shown better on the primary metric: all_correct +4.0 points."],
        rules=[kept, kept.model_copy(update={"name": "lora/base/following/plain_on"})],
        champion=Champion(name=NAME, version="1"), settings=GateSettings(),
    )  # fmt: skip
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "decision.json").write_text(decision.model_dump_json())
    ref = ArtifactStore(tracked).put(tmp_path / "made", "decision")
    registry.set_tags(tracked, waiting, {"gate.digest": ref.digest, "gate.uri": ref.uri})
    told = question(tracked, registry.find_version(tracked, NAME, "2"))
    assert told.startswith("**Make version 2 of shapes the champion, in place of version 1?**")
    assert "- Shown better on the primary metric: images all correct +4.0 points." in told
    assert "| CLIP score | +0.2 | loses at most 1 | kept |" in told
    assert "lora/" not in told
    assert "`fluxline compare 1 2 --name shapes`" in told
    monkeypatch.setattr(tracking, "tracking_uri", lambda _: "http://127.0.0.1:5000")
    monkeypatch.setattr(approval, "_decision", lambda *_: None)
    told = question(tracked, waiting)  # the decision's file is lost: its reasons are tags, too
    assert "- images all correct: shown better." in told
    assert "[version 1](http://127.0.0.1:5000/#/models/shapes/versions/1)" in told


def test_where_no_prefect_answers_it_says_what_to_do(tracked, waiting, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(approval, "_start", lambda *_: (_ for _ in ()).throw(ConnectionError("refused")))
    assert approval.request(tracked, NAME, "2") == (
        "shapes version 2 waits for approval: `fluxline promote shapes --version 2`."
    )
    assert approval.request(tracked, NAME, "3") == ""  # it does not wait


def test_one_request_a_version_whoever_asks_again(tracked, waiting, monkeypatch):
    asked = []
    monkeypatch.setattr(approval, "_start", lambda *call: asked.append(call) or "http://prefect/run")
    assert "waits for approval: http://prefect/run" in approval.request(tracked, NAME, "2")
    approval.request(tracked, NAME, "2")
    assert asked[0] == asked[1]
    assert asked[0][:2] == (NAME, "2")
    json.dumps(asked)
