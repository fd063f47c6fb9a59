"""Draws the images of an evaluation: prompt sets through a pool of samplers, and single images against the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fluxmodel.sampling import Request, SamplingPool
from fluxmodel.text_to_image import TextToImage
from fluxmodel.training_job import Precision

from .prompts import PromptSet
from .stopwatch import timed


class Sampler:
    """Samples prompts from a model; a context manager, because workers have to be let go."""

    def __init__(
        self,
        pipe: Any,
        model_dir: Path | None = None,
        batch_size: int = 250,
        workers: int = 1,
        precision: Precision = "fp32",
    ):
        self.batch_size = batch_size
        self._pool = SamplingPool(model_dir or Path(), workers if model_dir else 1, pipe, precision)

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *reason: object) -> None:
        self._pool.__exit__(*reason)

    def begin(self, asked: PromptSet, num_steps: int, guidance: float, variant: str = "") -> Iterator[Tensor]:
        """Ask the workers for one image a prompt; `collect` waits for them."""
        request = Request(asked.prompts, asked.seeds, num_steps, guidance, variant)
        return self._pool.map(request.cut(self.batch_size))

    @timed("drawing images")
    def collect(self, batches: Iterator[Tensor], drawn: Callable[[int], None] | None = None) -> Tensor:
        """Return the images begun, uint8 [n, 3, H, W]; `drawn` is told the number of images of each batch."""
        images = []
        for batch in batches:
            images.append(batch)
            if drawn is not None:
                drawn(len(batch))
        return torch.cat(images)

    def sample(
        self,
        asked: PromptSet,
        num_steps: int,
        guidance: float,
        drawn: Callable[[int], None] | None = None,
        variant: str = "",
    ) -> Tensor:
        """Draw one image a prompt, uint8 [n, 3, H, W]."""
        return self.collect(self.begin(asked, num_steps, guidance, variant), drawn)

    def pipe(self, variant: str) -> TextToImage:
        """Return a variant of the model, in this process."""
        return self._pool.pipe(variant)

    def here(
        self, asked: PromptSet, count: int, num_steps: int, guidance: float, variant: str = ""
    ) -> Tensor:
        """Draw the first `count` prompts as one batch in this process."""
        return self._pool.here(
            Request(asked.prompts[:count], asked.seeds[:count], num_steps, guidance, variant)
        )

    @timed("timing single images")
    def latency_ms(
        self, prompt: str, num_steps: int, guidance: float, trials: int = 5, variant: str = ""
    ) -> float:
        """Least time of drawing a single image, milliseconds, after one to warm up; others only slow it down."""
        seconds = []
        for trial in range(trials + 1):
            start = time.perf_counter()
            self._pool.here(Request([prompt], [trial], num_steps, guidance, variant))
            seconds.append(time.perf_counter() - start)
        return 1000 * min(seconds[1:])
