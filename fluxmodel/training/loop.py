"""The one training loop. It yields; whoever calls it logs, shows progress and stops."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fluxmodel.errors import StageError
from fluxmodel.training.checkpoint import CheckpointFolder
from fluxmodel.training.ema import WeightAverage
from fluxmodel.training.optimizer import MasterOptimizer
from fluxmodel.training.parallel import World
from fluxmodel.training.precision import choose_precision
from fluxmodel.training.samples import averaged
from fluxmodel.training_job import TrainingJob


class Objective(Protocol):
    """What is trained, on what, towards what."""

    @property
    def model(self) -> nn.Module:
        """The network."""
        ...

    def batch(self, step: int, part: slice) -> Any:
        """Return this process's part of global batch `step`: a function of (seed, step) alone."""
        ...

    def loss(self, batch: Any, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss and named scalars; float inputs are cast to `dtype`."""
        ...

    def finish(self, directory: Path) -> dict[str, float]:
        """Write the trained network, whose weights are in `model`, fp32; return what it can do."""
        ...


@dataclass(frozen=True)
class StepReport:
    """What one step did and how long it took; `metrics` is empty on steps that are not logged."""

    step: int
    total: int
    metrics: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Averaged:
    """The averaged weights after `step` are in the model until the loop goes on: time to draw samples."""

    step: int


@dataclass(frozen=True)
class Trained:
    """All steps are done; the averaged weights are in the model."""

    precision: str


@dataclass(frozen=True)
class Interrupted:
    """The loop stopped at `step` as asked, after saving a checkpoint."""

    step: int


def train(
    objective: Objective,
    job: TrainingJob,
    checkpoints: CheckpointFolder,
    world: World,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[StepReport | Averaged | Interrupted | Trained]:
    """Run the steps that are left and leave the averaged weights, fp32, in `objective.model`.

    Args:
        objective: its model's weights are overwritten where a checkpoint exists.
        job: how long, how fast and how precise.
        checkpoints: where to go on from, and to save to.
        world: this process's part.
        should_stop: asked after every step; true ends the loop with `Interrupted`.

    Raises:
        StageError: a gradient is not finite.
    """
    saved = checkpoints.newest()
    precision = saved["precision"] if saved else _common_precision(job, world)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = objective.model
    model.train()
    optimizer = MasterOptimizer(model, job.optimizer, world)
    average = WeightAverage(optimizer.masters, job.ema_decay)
    model.to(dtype)
    start = saved["step"] if saved else 0
    if saved:
        optimizer.load_state_dict(saved["optimizer"])
        torch._foreach_copy_(average.average, saved["average"])
    part = world.slice(job.batch_size)
    if start == 0:
        yield from _time_to_draw(0, job, optimizer, average, model)

    for step in range(start, job.steps):
        began = time.perf_counter()
        loss, scalars, norm = take_step(
            objective.loss, objective.batch(step, part), dtype, optimizer, average, (step, job.steps)
        )
        done = step + 1
        logged = done % job.log_every == 0 or done == job.steps
        metrics = {"loss": loss.detach(), "grad_norm": norm, **scalars} if logged else {}
        figures = {name: float(value) for name, value in metrics.items()}
        yield StepReport(done, job.steps, figures, time.perf_counter() - began)
        yield from _time_to_draw(done, job, optimizer, average, model)
        stopping = done < job.steps and world.agree(should_stop())
        if world.is_first and (stopping or (done % job.checkpoint_every == 0 and done < job.steps)):
            checkpoints.save(done, _state(precision, optimizer, average))
        if stopping:
            yield Interrupted(done)
            return

    model.float()
    torch._foreach_copy_([p.data for p in optimizer.working], average.average)
    model.eval()
    yield Trained(precision)


def take_step(
    loss_of: Callable[[Any, torch.dtype], tuple[Tensor, dict[str, Tensor]]],
    batch: Any,
    dtype: torch.dtype,
    optimizer: MasterOptimizer,
    average: WeightAverage,
    place: tuple[int, int],
) -> tuple[Tensor, dict[str, Tensor], float]:
    """Do one step's work: loss, gradients, update, average. `training.memory` rehearses it.

    Args:
        loss_of: an objective's `loss`.
        batch: what it takes.
        dtype: of the working copy.
        optimizer: holds the masters.
        average: of the masters.
        place: the step, counted from 0, and the number of all steps.

    Returns:
        The loss, named scalars and the gradient's norm.

    Raises:
        StageError: the gradient is not finite.
    """
    loss, scalars = loss_of(batch, dtype)
    loss.backward()
    optimizer.world.average_gradients(optimizer.working)
    norm = optimizer.step(*place)
    _require_finite(norm, loss, place[0] + 1)
    average.update(optimizer.masters, place[0])
    return loss, scalars, norm


def _time_to_draw(
    step: int, job: TrainingJob, optimizer: MasterOptimizer, average: WeightAverage, model: nn.Module
) -> Iterator[Averaged]:
    """Yield once, with the averaged weights in the model, where samples are due."""
    if job.samples.is_due(step, job.steps):
        with averaged(model, optimizer, average):
            yield Averaged(step)


def _state(precision: str, optimizer: MasterOptimizer, average: WeightAverage) -> dict[str, Any]:
    """Return what a checkpoint holds beside its step."""
    return {"precision": precision, "optimizer": optimizer.state_dict(), "average": average.average}


def _common_precision(job: TrainingJob, world: World) -> str:
    """Return the precision all processes take: a probe may differ between them, the weights must not."""
    return "fp32" if world.agree(choose_precision(job.precision) == "fp32") else "bf16"


def _require_finite(norm: float, loss: Tensor, step: int) -> None:
    """Raise StageError where a gradient's norm is not finite: what follows would be lost."""
    if not math.isfinite(norm):
        raise StageError(
            f"step {step}: the gradient is {norm} (loss {loss.item():.3g}); lower the learning rate"
        )
