"""Flows of triggers where no server is needed: bad input is a state with one sentence, and forms are complete."""

from types import SimpleNamespace

import pytest

from flows import approve as approve_flow
from flows.approve import Approval, approve
from flows.evaluate_champion import evaluate_champion
from flows.retrain import RetrainConfig
from flows.watch_data import watch_data
from fluxmodel.errors import InputError
from tasks.dataset_watch import Change


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "data is empty"),
        ("procedural:shapes?level=demo&n=8&seed=0", "never changes; name a folder of images to watch"),
        ("./nowhere", "there is no such folder; check the path"),
    ],
)
def test_what_cannot_be_watched_fails_with_one_sentence(data, said):
    state = watch_data.fn(data=data)
    assert state.is_failed()
    assert said in state.message
    assert "\n" not in (state.message or "")


def test_a_watch_tells_what_retrain_asks_for(tmp_path, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_text("a")
    told: list[tuple[Change, dict]] = []
    monkeypatch.setattr("flows.watch_data.announce_change", lambda *call: told.append(call))
    asked = {"data": str(folder), "preset": "smoke", "start": "champion", "quiet_minutes": 0.0}
    assert watch_data.fn(**asked).name == "First"
    (folder / "b.png").write_text("b")
    state = watch_data.fn(**asked)
    assert (state.name, state.is_completed()) == ("Changed", True)
    ((change, more),) = told
    assert change.added == 1
    assert RetrainConfig.model_validate(more).start == "champion"
    assert set(more) == set(RetrainConfig.model_fields)
    assert more["data"] == str(folder.resolve())


def test_without_a_champion_or_a_question_the_run_fails_with_one_sentence(monkeypatch):
    def none(*_):
        raise InputError("There is none; make one.")

    monkeypatch.setattr("flows.evaluate_champion.find_watched", none)
    monkeypatch.setattr(approve_flow, "find_waiting", none)
    monkeypatch.setattr(approve_flow, "_pause_key", lambda: ("answer-1", False))
    for state in (evaluate_champion.fn(preset="smoke"), approve.fn()):
        assert (state.is_failed(), state.message) == (True, "There is none; make one.")


@pytest.mark.parametrize(
    ("fired", "answered", "key"),
    [
        ([], [], ("answer-1", False)),
        (["answer-1"], ["answer-1"], ("answer-1", True)),  # resumed, or retried after its answer
        (["answer-1"], [], ("answer-2", False)),  # its time was up; a person pressed Retry
        (["answer-1", "answer-2"], ["answer-2"], ("answer-2", True)),
    ],
)
def test_a_run_retried_after_its_time_was_up_asks_anew(monkeypatch, fired, answered, key):
    run = SimpleNamespace(empirical_policy=SimpleNamespace(pause_keys=set(fired)))
    monkeypatch.setattr(approve_flow, "_this_run", lambda: run)
    responses = {f"suspended-{each}-response": {"approve": True} for each in answered}
    monkeypatch.setattr(approve_flow, "read_flow_run_input", responses.get)
    assert approve_flow._pause_key() == key


@pytest.mark.parametrize("flow", [watch_data, evaluate_champion, approve], ids=lambda flow: flow.name)
def test_every_field_of_a_form_says_what_it_is(flow):
    fields = flow.parameters.properties
    assert fields
    assert [name for name, field in fields.items() if not field.get("description")] == []
    assert all("anyOf" not in field for field in fields.values())  # a union renders badly
    assert all(field.description for field in Approval.model_fields.values())
