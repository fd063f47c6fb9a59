import threading
from dataclasses import replace

import pytest
from pydantic import BaseModel

from flows.config import PipelineConfig
from flows.plan import make_plan
from fluxmodel.errors import InputError, InterruptedRun, StageError
from fluxmodel.presets import PRESETS
from tasks import resources
from tasks.launch import STOP
from tasks.leases import Asker, Need, holders, lease, waiting
from tasks.resources import RESOURCES, Resources, slots
from tasks.seat import Seat, need_of
from tasks.stage import Stage
from tasks.stage_run import Outcome, RunContext, StageRun
from tests.kit import wait_until


class Settings(BaseModel):
    steps: int = 3
    seed: int = 0
    fail: int = 0
    world_size: int = 1
    gpus: int = 0
    gpu_memory_gb: float = 0.0
    seconds_per_step: float = 0.0

    def semantic(self) -> dict:
        return {"steps": self.steps, "seed": self.seed}


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
    monkeypatch.setenv("FLUXLINE_DEVICES", "0,1")
    monkeypatch.delenv("FLUXLINE_LEASE", raising=False)
    monkeypatch.setattr("tasks.tracking.client", lambda _: (_ for _ in ()).throw(ConnectionError()))


def do(home, name: str, settings: Settings, seen: list[str] | None = None) -> list[str]:
    """Run a stage; return what its child saw of the devices, and what was held when its work began and ended."""
    seen = [] if seen is None else seen

    def work(run: StageRun, settings: Settings) -> Outcome:
        seen.append(" ".join(each.resource for each in holders(home) if each.resource.startswith("gpu")))
        final = run.launch("fake_child", {"output": str(run.output), **settings.model_dump()})
        seen.append((run.output / "visible").read_text())
        return Outcome(final, "done")

    Stage(name, kind="thing", modules=("tasks.spool",)).run(
        RunContext(home=str(home.root)), work, settings=settings
    )
    return seen


@pytest.mark.parametrize(
    ("stage", "settings", "seen"),
    [
        ("encode", Settings(), ["gpu-0", "0"]),
        ("train", Settings(world_size=2), ["gpu-0 gpu-1", "0,1"]),
        ("train", Settings(world_size=2, gpus=1), ["gpu-0", "0"]),
        ("curate", Settings(), ["", ""]),
        ("register", Settings(), ["", ""]),
        ("gate", Settings(), ["", "0"]),  # asks when its child starts
    ],
)
def test_a_stages_child_sees_the_devices_it_holds_and_no_other(home, stage, settings, seen):
    assert do(home, stage, settings) == seen
    assert [each.resource for each in holders(home)] == []


def test_without_devices_a_child_is_told_nothing(home, monkeypatch):
    monkeypatch.setenv("FLUXLINE_DEVICES", "none")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert do(home, "train", Settings(world_size=8)) == ["", "None"]


def test_a_stage_that_fails_or_asks_for_too_much_holds_nothing_afterwards(home):
    with pytest.raises(StageError):
        do(home, "train", Settings(fail=3))
    with pytest.raises(InputError, match="Stage train asks for 3 GPUs"):
        do(home, "train", Settings(gpus=3))
    assert (holders(home), waiting()) == ([], [])


def test_two_runs_of_one_key_hold_one_device_between_them(home):
    settings, seen = Settings(steps=40, seconds_per_step=0.02), [[], []]
    threads = [threading.Thread(target=do, args=(home, "train", settings, mine)) for mine in seen]
    for thread in threads:
        thread.start()
        wait_until(
            lambda: [each.stage for each in holders(home)] == ["train", "train"]
        )  # a device and a core
    assert waiting() == []
    for thread in threads:
        thread.join(60)
    assert sorted(seen) == [[], ["gpu-0", "0"]]


def test_a_stop_while_a_stage_waits_for_a_device_ends_it(home):
    with lease(Need(2), Asker("other")):
        threading.Timer(0.3, STOP.set).start()
        with pytest.raises(InterruptedRun, match="waiting for a GPU"):
            do(home, "train", Settings())
        assert waiting() == []


def test_who_waits_for_a_device_keeps_no_core_from_others(home, monkeypatch):
    monkeypatch.setattr(resources, "num_slots", lambda: 1)
    needs, got = Resources(gpus=1, asks_late=True), []

    def late() -> None:
        with Seat(Asker("gate", home=str(home.root)), Need(1), 1, needs, STOP.is_set) as seat:
            got.append("a core")
            got.append(seat.lease().visible)

    thread = threading.Thread(target=late)
    with lease(Need(2), Asker("other")):
        thread.start()
        wait_until(lambda: len(waiting()) == 1)
        with slots(home.root / "slots", 1, Resources(), lambda: False):  # at once, or we wait for each other
            assert got == ["a core"]
    thread.join(60)
    assert got == ["a core", "0"]


def test_devices_are_given_back_before_the_result_is_stored(home):
    with Seat(Asker("train", home=str(home.root)), Need(2), 1, Resources(gpus=1), STOP.is_set) as seat:
        assert seat.lease().visible == "0,1"
        seat.leave_devices()
        assert [each.resource for each in holders(home)] == ["cpu-0"]


@pytest.mark.parametrize(
    ("needs", "settings", "need"),
    [
        (Resources(), [Settings(world_size=4)], Need()),
        (Resources(gpus=1), [], Need(1)),
        (Resources(gpus=1), ["text", 7], Need(1)),
        (Resources(gpus=2, gpu_memory_gb=16), [Settings()], Need(2, 16)),
        (Resources(gpus=1), [Settings(world_size=4, gpu_memory_gb=40)], Need(4, 40)),
        (Resources(gpus=1), [Settings(world_size=4, gpus=2)], Need(2)),
    ],
)
def test_a_job_may_ask_for_more_than_its_stage(needs, settings, need):
    assert need_of(needs, settings) == need


def test_stages_of_the_cpu_ask_for_none_and_all_others_for_one():
    assert {name for name, each in RESOURCES.items() if each.gpus == 0} == {"curate", "register"}
    assert {name for name, each in RESOURCES.items() if each.asks_late} == {"gate", "caption"}


def test_a_plan_that_asks_for_more_than_there_is_is_refused_when_it_is_made():
    plan = make_plan(PipelineConfig(preset="smoke"))
    with pytest.raises(
        InputError, match=r"^Stage train asks for 3 GPUs, but here there is only 2 GPUs: 0, 1; ask"
    ):
        replace(plan, flow=plan.flow.model_copy(update={"gpus": 3}))
    replace(plan, flow=plan.flow.model_copy(update={"gpus": 2}))


@pytest.mark.parametrize("name", PRESETS)
def test_one_device_is_enough_for_every_preset(name, monkeypatch):
    monkeypatch.setenv("FLUXLINE_DEVICES", "0")
    assert max(need.gpus for need in make_plan(PipelineConfig(preset=name)).needs().values()) == 1


def test_where_a_job_runs_does_not_change_what_comes_out():
    job = PRESETS["smoke"].flow.job("data", "output")
    assert job.semantic() == job.model_copy(update={"gpus": 2, "gpu_memory_gb": 80.0}).semantic()
