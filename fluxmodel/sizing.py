"""What a training job costs before it is begun: parameters, operations, memory, and the nearest job that fits.

Bytes are those of tensors; what a process needs beside them is assumed: `OVERHEAD_BYTES`, and `SPARE` for what
allocators waste and kernels hide.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Literal

import torch

from fluxmodel.errors import InputError
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.flops import Flops, sampling_flops
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.training.memory import StepMemory, step_memory
from fluxmodel.training.rehearsal import StepShape, Target
from fluxmodel.training_job import OptimizerSettings

OVERHEAD_BYTES = 600e6
"""Interpreter and libraries of a process, or a GPU's context."""
SPARE = 1.05
SMALLEST_SIZE = 256
DEFAULT_RANK = 16
_PATCH = 2
_PARTS = {
    "embedders": ("_in.",),
    "double blocks": ("double_blocks.",),
    "single blocks": ("single_blocks.",),
    "modulation": ("_mod.lin", ".modulation.lin", "adaLN_modulation"),
    "final layer": ("final_layer.",),
}
_MARKED_FIRST = ("modulation", "double blocks", "single blocks", "final layer", "embedders")
"""A modulation lies inside a block, and its part is told by that name."""


@dataclass(frozen=True)
class PlannedJob:
    """A training job and the images drawn with its network, as far as their cost goes.

    Attributes:
        name: what the user called it.
        config: the network.
        image_size: side of the images, pixels.
        downscale: side of an image over that of its latents.
        text_tokens: tokens of a caption.
        batch: images of a step, over all processes.
        world_size: processes that share it, one a GPU.
        rank: of LoRA adapters; 0 trains all of the network.
        precision: of the working copy.
        optimizer: its settings.
        num_steps: calls of the network for an image.
        num_passes: rows of each call: 2 where the empty caption guides.
        target: where it is to run.
    """

    name: str
    config: MMDiTConfig
    image_size: int
    downscale: int
    text_tokens: int
    batch: int = 1
    world_size: int = 1
    rank: int = 0
    precision: Literal["fp32", "bf16"] = "bf16"
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    num_steps: int = 1
    num_passes: int = 1
    target: Target = "cpu"

    def __post_init__(self) -> None:
        step = self.downscale * _PATCH
        if self.image_size % step or self.image_size < step:
            near = max(step, round(self.image_size / step) * step)
            raise InputError(
                f"--size is {self.image_size}, not a multiple of the {step} pixels a token covers; give {near}."
            )
        if self.batch % self.world_size:
            near = -(-self.batch // self.world_size) * self.world_size
            raise InputError(
                f"--batch is {self.batch}, which {self.world_size} processes cannot share; give {near}."
            )

    @property
    def shape(self) -> StepShape:
        """One process's step."""
        side = self.image_size // self.downscale
        return StepShape(
            self.config,
            self.batch // self.world_size,
            side,
            side,
            self.text_tokens,
            self.rank,
            self.precision,
            self.optimizer,
            self.world_size,
            self.target,
        )

    @cached_property
    def memory(self) -> StepMemory:
        """What a step needs in each process."""
        return _memory(self.shape)

    @cached_property
    def step_flops(self) -> Flops:
        """What a step computes, all processes together."""
        return replace(self.shape, batch=self.batch).flops()

    @property
    def image_flops(self) -> int:
        """What an image takes."""
        return sampling_flops(
            self.config, self.shape.image_tokens, self.text_tokens, self.num_steps, self.num_passes
        )

    @property
    def need_bytes(self) -> float:
        """Memory to have: that of a GPU, or of this machine for all processes of the job."""
        if self.target == "gpu":  # which the network is brought to in its working precision
            return self.memory.peak * SPARE + OVERHEAD_BYTES
        return self.world_size * (self.memory.need * SPARE + OVERHEAD_BYTES)

    @property
    def said(self) -> str:
        """The job in words."""
        what = f"a LoRA of rank {self.rank}" if self.rank else "all of it trained"
        return f"{self.name}, {what}, {self.image_size} px, batch {self.batch}, {self.precision}"

    def six_n_d(self, parameters: dict[str, int]) -> int:
        """Return the rule of thumb for a training step of all of the network: 6 x parameters x tokens."""
        num_tokens = self.batch * (self.shape.image_tokens + self.text_tokens)
        return 6 * (sum(parameters.values()) - parameters.get("adapters", 0)) * num_tokens


@cache
def _memory(shape: StepShape) -> StepMemory:
    return step_memory(shape)


def count_parameters(config: MMDiTConfig, rank: int = 0) -> dict[str, int]:
    """Return the network's parameters by part, and those of the adapters."""
    with torch.device("meta"):
        network = {name: p.numel() for name, p in MMDiT(config).named_parameters()}
        whole = sum(p.numel() for p in StepShape(config, rank=rank).network().parameters())
    found: Counter[str] = Counter()
    for name, num in network.items():
        part = next(p for p in _MARKED_FIRST if any(mark in name for mark in _PARTS[p]))
        found[part] += num
    adapters = {"adapters": whole - found.total()} if rank else {}
    return {part: found[part] for part in _PARTS} | adapters


def nearest_that_fits(asked: PlannedJob, limit: float) -> PlannedJob | None:
    """Return the job most like the one asked for whose memory fits, or None.

    Given up in this order: precision, images of a step, size of the images, and at last training the network itself
    instead of adapters.
    """
    for kind in _kinds(asked):
        halved = replace(kind, precision="bf16")
        # Known already where the kind is the one asked for; it spares a rehearsal, seconds for FLUX.1.
        is_hopeless = halved == asked and asked.memory.resident > limit
        if is_hopeless or _least(halved).need_bytes > limit:
            continue
        for size in _sizes(asked):
            for job in dict.fromkeys((replace(kind, image_size=size), replace(halved, image_size=size))):
                if job.need_bytes <= limit:
                    return job
            if (found := _with_smaller_batch(replace(halved, image_size=size), limit)) is not None:
                return found
    return None


def least_job(asked: PlannedJob) -> PlannedJob:
    """Return the job with all remedies taken as far as they go."""
    return _least(replace(_kinds(asked)[-1], precision="bf16"))


def _least(job: PlannedJob) -> PlannedJob:
    return replace(job, image_size=_sizes(job)[-1], batch=job.world_size)


def _kinds(asked: PlannedJob) -> list[PlannedJob]:
    return [replace(asked, rank=rank) for rank in dict.fromkeys((asked.rank, asked.rank or DEFAULT_RANK))]


def _sizes(asked: PlannedJob) -> list[int]:
    """The size asked for, then three quarters and halves of it down to `SMALLEST_SIZE`, whole tokens each."""
    step, sizes, size = asked.downscale * _PATCH, [asked.image_size], asked.image_size
    while size > SMALLEST_SIZE:
        sizes += [part // step * step for part in (3 * size // 4, size // 2) if part >= SMALLEST_SIZE]
        size //= 2
    return sizes


def _with_smaller_batch(job: PlannedJob, limit: float) -> PlannedJob | None:
    """Return the job with the largest batch that fits, where there is one."""
    least = replace(job, batch=job.world_size)
    if job.batch == least.batch or least.need_bytes > limit:
        return None
    # The peak is the largest of several straight lines in the batch, so it lies below the chord.
    slope = (job.need_bytes - least.need_bytes) / (job.batch - least.batch)
    more = int((limit - least.need_bytes) / slope / job.world_size)
    return replace(job, batch=least.batch + more * job.world_size)
