"""A step's memory told on the meta device against what the same step takes: two instruments, one of them torch's."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from fluxmodel.data.batches import FlowBatch
from fluxmodel.flow.packing import image_ids
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.presets import DEMO
from fluxmodel.training.checkpoint import CheckpointFolder
from fluxmodel.training.loop import train
from fluxmodel.training.memory import StorageFollower, step_memory
from fluxmodel.training.parallel import ALONE
from fluxmodel.training.rehearsal import Rehearsal, StepShape
from fluxmodel.training_job import OptimizerSettings, TrainingJob

DEMO_STEP = StepShape(
    MMDiTConfig.model_validate(DEMO.flow.model),
    batch=32,
    height=8,
    width=8,
    text_tokens=16,
    precision="fp32",
    optimizer=DEMO.flow.optimizer,
)
"""The demo's own, in one of its two processes."""
ADAMW = OptimizerSettings()
SHAPES = {
    "demo": DEMO_STEP,
    "demo in bf16": replace(DEMO_STEP, precision="bf16"),
    "two processes": replace(DEMO_STEP, precision="bf16", world_size=2),
    "long": replace(DEMO_STEP, batch=1, height=32, width=24, optimizer=ADAMW),
    "long in bf16": replace(DEMO_STEP, batch=2, height=32, width=24, precision="bf16", optimizer=ADAMW),
    "adapters": replace(DEMO_STEP, rank=4, optimizer=ADAMW),
    "adapters in bf16": replace(DEMO_STEP, batch=4, height=32, width=32, rank=4, precision="bf16"),
    "guided": replace(DEMO_STEP, config=DEMO_STEP.config.model_copy(update={"guidance_embed": True})),
}


def allocator_peak(work) -> int:
    """The most bytes that torch's CPU allocator had given out at once: what kernels take inside is counted, too."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    live = peak = 0
    for event in seen.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            live += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
            peak = max(peak, live)
    return peak


def run_steps(shape: StepShape) -> None:
    rehearsal = Rehearsal(shape)
    for _ in range(2):
        rehearsal.step(rehearsal.batch())


QUICK = ("demo in bf16", "two processes", "long", "adapters")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SHAPES]
)
def test_the_prediction_is_what_the_step_takes(name):
    shape = SHAPES[name]
    predicted = step_memory(shape)
    followed = step_memory(shape, real=True)
    assert predicted.peak == pytest.approx(followed.peak, rel=0.01)
    assert predicted.need == pytest.approx(allocator_peak(lambda: run_steps(shape)), rel=0.05)
    assert sum(predicted.parts.values()) == predicted.peak


class LoopObjective:
    """The demo's network on random latents, without the planner's code."""

    def __init__(self) -> None:
        self.model = MMDiT(DEMO_STEP.config)

    def batch(self, step: int, part: slice) -> FlowBatch:
        num = part.stop - part.start
        data, txt = torch.randn(num, 16, 32), torch.randn(num, 16, 128)
        return FlowBatch(data, torch.randn(num, 16, 32), torch.rand(num), txt, torch.randn(num, 128))

    def loss(self, batch: FlowBatch, dtype: torch.dtype) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        t = batch.t[:, None, None]
        x = (1 - t) * batch.data + t * batch.noise
        num = len(batch.t)
        found = self.model(
            x, image_ids(num, 8, 8), batch.txt, torch.zeros(num, 16, 3), batch.t, batch.pooled
        ).float()
        return (found - (batch.noise - batch.data)).square().mean(), {}

    def finish(self, directory: Path) -> dict[str, float]:
        return {}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_prediction_is_what_the_training_loop_takes(precision, tmp_path):
    job = TrainingJob(
        kind="flow",
        data="none",
        output=str(tmp_path),
        optimizer=DEMO.flow.optimizer,
        steps=3,
        batch_size=DEMO_STEP.batch,
        precision=precision,
    )
    taken = allocator_peak(
        lambda: list(train(LoopObjective(), job, CheckpointFolder(tmp_path / "checkpoints"), ALONE))
    )
    assert step_memory(replace(DEMO_STEP, precision=precision)).need == pytest.approx(taken, rel=0.05)


def test_a_gpu_keeps_no_attention_matrix():
    shape = replace(DEMO_STEP, batch=1, height=96, width=96, precision="bf16")
    here, there = step_memory(shape), step_memory(replace(shape, target="gpu"))
    num_tokens, config = shape.image_tokens + shape.text_tokens, shape.config
    # All blocks but the last keep a row for each token, the last one for each image token.
    num_rows = config.depth * num_tokens + (config.depth_single_blocks - 1) * num_tokens + shape.image_tokens
    matrices = 2 * shape.batch * config.num_heads * num_rows * num_tokens
    assert here.kept - there.kept == pytest.approx(matrices, rel=0.1)
    fp32 = replace(shape, precision="fp32")
    assert step_memory(fp32).peak == step_memory(replace(fp32, target="gpu")).peak


def test_states_are_counted_to_the_byte():
    num = sum(p.numel() for p in MMDiT(DEMO_STEP.config).parameters())
    found = step_memory(replace(DEMO_STEP, precision="bf16", optimizer=ADAMW, target="gpu"))
    scalars = 4 * len(list(MMDiT(DEMO_STEP.config).parameters()))  # AdamW counts its steps for each tensor
    assert found.parts["weights"] == 2 * num
    assert found.parts["master weights"] == found.parts["averaged weights"] == 4 * num
    assert found.parts["optimizer states"] == 8 * num + scalars


def test_no_gradient_outlives_its_step():
    shape = replace(DEMO_STEP, optimizer=ADAMW, batch=1)
    num = sum(p.numel() for p in MMDiT(shape.config).parameters())
    rehearsal = Rehearsal(shape)
    rehearsal.step(rehearsal.batch())
    assert all(tensor.grad is None for tensor in (*rehearsal.optimizer.masters, *rehearsal.optimizer.working))
    assert step_memory(shape).resident < (4 + 4 + 8 + 4) * num * 1.01


def test_the_follower_sees_births_deaths_and_no_view_twice():
    with StorageFollower() as follower:
        a = torch.zeros(1000)
        b = a.view(10, 100)[2:]
        c = a + 1
        assert follower.live_bytes == 8000
        del a
        assert follower.live_bytes == 8000  # the view keeps it alive
        del b
        assert follower.live_bytes == 4000
        c.add_(1)
        assert follower.live_bytes == 4000
    assert follower.peaks["start"][0] == 8000
