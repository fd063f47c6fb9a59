"""What drawing costs at the headline point: time of one image, memory of one batch, and on what machine.

Neither number means anything without the device and its threads, so these stand in their identity, and two models
timed on different machines are not compared. Both change from run to run, so no digest covers them.
"""

from __future__ import annotations

import gc
import os
import platform
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .curves import Point
from .identity import Measurement
from .prompts import PromptSet
from .sampler import Sampler
from .stopwatch import timed

_MIB = 2**20
_POLL_SECONDS = 0.002


@dataclass(frozen=True)
class DrawingCost:
    """Milliseconds of one image, MiB of one batch, and where they were measured."""

    latency_ms: float
    num_trials: int
    peak_memory_mib: float
    batch_size: int
    device: str

    def measurements(self, at: dict[str, Any]) -> list[Measurement]:
        """Return both as measurements; `at` is the point of the curves they belong to."""
        identity = {**at, "device": self.device}
        return [
            Measurement(name="latency_ms", value=self.latency_ms, n=self.num_trials, direction="lower",
                        method="fastest of so many single images, after one to warm up", identity=identity),
            Measurement(name="peak_memory_mib", value=self.peak_memory_mib, n=self.batch_size, direction="lower",
                        method="weights, and the most that drawing one batch of so many adds", identity=identity),
        ]  # fmt: skip


@timed("measuring memory")
def drawing_cost(
    sampler: Sampler, asked: PromptSet, point: Point, num_trials: int, precision: str
) -> DrawingCost:
    """Return what drawing at a point costs; draws one batch more, in this process."""
    count = min(sampler.batch_size, len(asked))
    pipe = sampler.pipe(point.variant)
    device = device_of(pipe)

    def draw() -> None:
        sampler.here(asked, count, point.steps, point.guidance, point.variant)

    added = peak_on_gpu(draw) if device.startswith("cuda") else peak_of_process(draw)
    return DrawingCost(
        latency_ms=point.latency_ms,
        num_trials=num_trials,
        peak_memory_mib=round((num_weight_bytes(pipe) + added) / _MIB, 1),
        batch_size=count,
        device=f"{device}, {precision} network",
    )


def device_of(pipe: Any) -> str:
    """Return the device a pipeline computes on: the GPU's name, or the processor's with torch's threads."""
    for module in _modules(pipe):
        for parameter in module.parameters():
            if parameter.is_cuda:
                return f"cuda {torch.cuda.get_device_name(parameter.device)}"
    threads = torch.get_num_threads()
    return f"cpu {_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def num_weight_bytes(pipe: Any) -> int:
    """Bytes of all weights of a pipeline's networks, each counted once."""
    held = {weight.data_ptr(): weight for module in _modules(pipe) for weight in module.parameters()}
    return sum(weight.numel() * weight.element_size() for weight in held.values())


def peak_of_process(work: Callable[[], object]) -> int:
    """Bytes by which this process grows at most while `work` is done, read every two milliseconds."""
    import psutil

    process = psutil.Process()
    gc.collect()
    _give_back()
    before = highest = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(_POLL_SECONDS):
            highest = max(highest, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(0, max(highest, process.memory_info().rss) - before)


def peak_on_gpu(work: Callable[[], object]) -> int:
    """Bytes by which torch's allocations on the GPU grow at most while `work` is done."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _give_back() -> None:
    """Return freed memory to the system, or what is taken next would not show."""
    if platform.system() == "Linux":
        import ctypes

        with suppress(OSError, AttributeError):  # another C library than glibc keeps its own counsel
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _modules(pipe: Any) -> list[nn.Module]:
    """The networks of a pipeline of ours, or of a diffusers pipeline inside a contestant."""
    inner = getattr(pipe, "pipe", pipe)
    parts = getattr(inner, "components", None)
    found = list(parts.values()) if isinstance(parts, dict) else list(getattr(inner, "__dict__", {}).values())
    return [each for each in found if isinstance(each, nn.Module)]


def _processor() -> str:
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return f"{found[1].strip()}, {os.cpu_count()} cores"
    return platform.processor() or platform.machine()
