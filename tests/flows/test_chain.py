"""Asking the chain for a stage submits just what that stage needs, each after what it waits for."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from PIL import Image

from flows import chain as chains
from flows.chain import JUDGES, STAGES, Chain
from flows.config import PipelineConfig
from flows.plan import Plan, make_plan
from tasks.artifacts import ArtifactRef
from tasks.stage_run import RunContext

PARTS = ("autoencoder", "detector", "dual_encoder", "captioner")
TRAINED = {"curate", "prepare-autoencoder", "prepare-captioner", "caption", "encode", "train"}
JUDGED = TRAINED | {
    "rectify", "finetune", "prepare-detector", "prepare-dual_encoder", "prepare-style_classifier", "evaluate",
}  # fmt: skip
NEEDED = {
    "prepare": {f"prepare-{part}" for part in PARTS},
    "curate": {"curate"},
    "caption": {"curate", "prepare-autoencoder", "prepare-captioner", "caption"},
    "encode": TRAINED - {"train"},
    "train": TRAINED,
    "rectify": TRAINED | {"rectify"},
    "finetune": TRAINED | {"finetune"},
    "evaluate": JUDGED,
    "gate": JUDGED | {"gate"},
    "register": JUDGED | {"gate", "register"},
}


@dataclass(frozen=True)
class Submitted:
    """A task's future: its name, and the names of the futures it was given."""

    name: str
    inputs: tuple[str, ...]
    waits_for: tuple[str, ...]


@dataclass
class Submissions:
    """Stands for every task of the chain and writes down what is submitted, in order."""

    made: list[Submitted] = field(default_factory=list)

    def submit(self, stage: str, *given: Any, wait_for: Any = (), **named: Any) -> Submitted:
        name = f"prepare-{given[1]}" if stage == "prepare" else stage
        inputs = [each.name for each in [*given, *named.values()] if isinstance(each, Submitted)]
        future = Submitted(name, tuple(inputs), tuple(each.name for each in wait_for))
        self.made.append(future)
        return future

    @property
    def names(self) -> list[str]:
        return [each.name for each in self.made]

    def named(self, name: str) -> Submitted:
        return next(each for each in self.made if each.name == name)


@pytest.fixture
def submissions(monkeypatch) -> Submissions:
    log = Submissions()

    class Task:
        def __init__(self, stage: str):
            self.stage = stage

        def submit(self, *given: Any, **named: Any) -> Submitted:
            return log.submit(self.stage, *given, **named)

    for stage in (*STAGES, "prepare_style_classifier"):
        name = "prepare-style_classifier" if stage == "prepare_style_classifier" else stage
        monkeypatch.setattr(chains, stage, Task(name))
    return log


@pytest.fixture
def scenes() -> Plan:
    return make_plan(PipelineConfig(preset="smoke"))


@pytest.fixture
def folder(tmp_path) -> Plan:
    Image.new("RGB", (32, 32)).save(tmp_path / "cat.png")
    return make_plan(PipelineConfig(preset="smoke", data=str(tmp_path)))


def upto(plan: Plan, stage: str) -> dict[str, Any]:
    return Chain(plan, RunContext(home="nowhere")).upto(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_submitted_with_just_what_it_needs(submissions, scenes, stage):
    assert set(upto(scenes, stage)) == set(submissions.names) == NEEDED[stage]
    assert len(submissions.names) == len(set(submissions.names))  # nothing twice


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_is_submitted_before_what_it_is_given(submissions, scenes, folder, stage):
    for plan in (scenes, folder):
        submissions.made.clear()
        upto(plan, stage)
        for place, each in enumerate(submissions.made):
            assert {*each.inputs, *each.waits_for} <= set(submissions.names[:place])


def test_a_run_is_read_in_the_order_of_its_stages(submissions, scenes):
    judges = ["prepare-autoencoder", "prepare-detector", "prepare-dual_encoder", "prepare-captioner"]
    assert list(upto(scenes, "register")) == [*judges, "prepare-style_classifier", *STAGES[1:]]


def test_what_only_judges_waits_for_the_training_where_there_is_one(submissions, scenes):
    upto(scenes, "register")
    waiting = {each.name for each in submissions.made if each.waits_for}
    assert waiting == {*(f"prepare-{part}" for part in JUDGES), "prepare-style_classifier"}
    assert all(submissions.named(name).waits_for == ("train",) for name in waiting)
    submissions.made.clear()
    upto(scenes, "prepare")
    assert not any(each.waits_for for each in submissions.made)


def test_a_folder_without_a_style_has_no_lora_and_its_parts_learn_from_its_own_images(submissions, folder):
    futures = upto(folder, "register")
    assert "finetune" not in futures
    assert "prepare-style_classifier" not in futures
    assert set(futures) == (JUDGED | {"gate", "register"}) - {
        "finetune", "prepare-style_classifier", "prepare-captioner", "prepare-detector",
    }  # fmt: skip
    assert submissions.named("prepare-autoencoder").inputs == ("curate",)
    assert upto(folder, "finetune") == {}


def test_what_the_plan_has_already_is_taken_and_nothing_is_submitted_for_it(submissions, scenes):
    def ref(kind: str) -> ArtifactRef:
        return ArtifactRef(kind=kind, uri="", digest=kind, mlflow_run_id="")

    stages = ("curate", "encode", "train", "rectify", *(f"prepare-{part}" for part in PARTS))
    given = {stage: ref(stage) for stage in stages}
    upto(replace(scenes, given=given), "evaluate")
    assert sorted(submissions.names) == ["evaluate", "finetune", "prepare-style_classifier"]
    assert not any(each.waits_for for each in submissions.made)
    submissions.made.clear()
    upto(replace(scenes, given={"prepare-autoencoder": given["prepare-autoencoder"]}), "train")
    assert set(submissions.names) == TRAINED - {"prepare-autoencoder"}
