"""How fast this machine's processor is: its matrix products at best, and a few real steps of a network.

What takes too long is tried smaller: fewer images, then fewer blocks. The rate of a smaller step stands for that of
the whole one, and the probe says so. A network too large for that is not tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from fluxmodel.mmdit.flops import forward_flops
from fluxmodel.training.rehearsal import Rehearsal, StepShape

PEAK_SECONDS, STEP_SECONDS, MOST_SECONDS = 0.5, 1.5, 5.0
_LEAST_RATE = 0.15
"""Of the peak, to guess beforehand how long a step takes; small networks reach no more."""
_MOST_WEIGHT_BYTES = 2**28


@dataclass(frozen=True)
class Probe:
    """A measured rate.

    Attributes:
        flops_per_second: of the network's own operations.
        said: what ran.
        is_whole: whether that was the step asked about, not a smaller one in its place.
    """

    flops_per_second: float
    said: str
    is_whole: bool


def matmul_peak(dtype: torch.dtype, size: int = 1024, seconds: float = PEAK_SECONDS) -> float:
    """Return the most operations a second that square matrix products reach on the CPU."""
    left, right = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
    return 2 * size**3 / min(_timings(lambda: torch.mm(left, right), seconds))


def probe_training(asked: StepShape, peak: float) -> Probe | None:
    """Run steps of a shape, or of a smaller one, in this process and return their rate; None where it is too large."""
    shape, smaller = _shrunk(asked, lambda s: s.flops().total, peak)
    if shape is None:
        return None
    rehearsal = Rehearsal(shape)
    batch = rehearsal.batch()
    rate = shape.flops().total / min(_timings(lambda: rehearsal.step(batch), STEP_SECONDS))
    return Probe(rate, smaller or "the step itself", not smaller)


def probe_sampling(asked: StepShape, peak: float) -> Probe | None:
    """Call the network as a sampler's step does, on `batch` rows, and return its rate; None where it is too large."""
    shape, smaller = _shrunk(asked, _call_flops, peak)
    if shape is None:
        return None
    rehearsal = Rehearsal(shape)
    rehearsal.model.eval()
    batch = rehearsal.batch()
    with torch.inference_mode():
        seconds = min(_timings(lambda: rehearsal.velocity(batch, batch.data, batch.t), STEP_SECONDS))
    return Probe(_call_flops(shape) / seconds, smaller or "the call itself", not smaller)


def _call_flops(shape: StepShape) -> int:
    return forward_flops(shape.config, shape.batch, shape.image_tokens, shape.text_tokens).total


def _timings(call: Callable[[], object], seconds: float) -> list[float]:
    """Return the times of calls within about so many seconds, at least one; a first one is not counted."""
    call()
    found: list[float] = []
    while not found or sum(found) < seconds:
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return found


def _shrunk(shape: StepShape, cost: Callable[[StepShape], int], peak: float) -> tuple[StepShape | None, str]:
    """Return a shape two of which take a second or so, and what was made smaller; none where it is still too much."""
    shapes = [shape, *_smaller(shape)]
    for tried in shapes:
        seconds = STEP_SECONDS / 2 if tried is not shapes[-1] else MOST_SECONDS
        limit = seconds * _LEAST_RATE * peak
        if cost(tried) <= limit and _weight_bytes(tried) <= _MOST_WEIGHT_BYTES:
            config, num_tokens = tried.config, tried.image_tokens + tried.text_tokens
            blocks = f"{config.depth} + {config.depth_single_blocks} blocks"
            return tried, "" if tried == shape else f"{tried.batch} x {num_tokens} tokens through {blocks}"
    return None, ""


def _smaller(shape: StepShape) -> Iterator[StepShape]:
    """Yield ever smaller shapes."""
    while shape.batch > 1:
        shape = replace(shape, batch=shape.batch // 2)
        yield shape
    config = shape.config
    while config.depth > 1 or config.depth_single_blocks > 1:
        depths = {
            "depth": max(min(config.depth, 1), config.depth // 2),
            "depth_single_blocks": max(min(config.depth_single_blocks, 1), config.depth_single_blocks // 2),
        }
        config = config.model_copy(update=depths)
        yield replace(shape, config=config)


def _weight_bytes(shape: StepShape) -> int:
    with torch.device("meta"):
        return 4 * sum(p.numel() for p in shape.network().parameters())


@contextmanager
def num_threads(num: int) -> Iterator[None]:
    """Compute with so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)
