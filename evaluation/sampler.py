"""Draws the images of an evaluation, in this process or shared by several.

The noise of an image depends on its own seed alone, and batches are cut here, always alike, so the number of
workers changes the time and not one pixel.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .prompts import PromptSet

_worker_pipe: Any = None


@dataclass(frozen=True)
class _Batch:
    prompts: list[str]
    seeds: list[int]
    num_steps: int
    guidance: float


class Sampler:
    """Samples prompts from a model; a context manager, because workers have to be let go."""

    def __init__(self, pipe: Any, model_dir: Path | None = None, batch_size: int = 250, workers: int = 1):
        self.pipe = pipe
        self.batch_size = batch_size
        self._pool: ProcessPoolExecutor | None = None
        if workers > 1 and model_dir is not None:
            self._pool = ProcessPoolExecutor(
                workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_load_model,
                initargs=(str(model_dir), torch.get_num_threads()),
            )

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def sample(
        self, asked: PromptSet, num_steps: int, guidance: float, drawn: Callable[[int], None] | None = None
    ) -> Tensor:
        """Draw one image a prompt, uint8 [n, 3, H, W]; `drawn` is told the number of images of each batch."""
        starts = range(0, len(asked), self.batch_size)
        cuts = [slice(start, start + self.batch_size) for start in starts]
        batches = [_Batch(asked.prompts[cut], asked.seeds[cut], num_steps, guidance) for cut in cuts]
        images = []
        results = map(self._here, batches) if self._pool is None else self._pool.map(_draw_in_worker, batches)
        for batch in results:
            images.append(batch)
            if drawn is not None:
                drawn(len(batch))
        return torch.cat(images)

    def latency_ms(self, prompt: str, num_steps: int, guidance: float, trials: int = 5) -> float:
        """Least time of drawing a single image, milliseconds, after one to warm up; others only slow it down."""
        seconds = []
        for trial in range(trials + 1):
            start = time.perf_counter()
            self._here(_Batch([prompt], [trial], num_steps, guidance))
            seconds.append(time.perf_counter() - start)
        return 1000 * min(seconds[1:])

    def _here(self, batch: _Batch) -> Tensor:
        return _draw(self.pipe, batch)


def _draw(pipe: Any, batch: _Batch) -> Tensor:
    return pipe.sample(
        batch.prompts,
        num_steps=batch.num_steps,
        guidance=batch.guidance,
        seeds=batch.seeds,
        batch_size=len(batch.prompts),
    )


def _load_model(model_dir: str, num_threads: int) -> None:
    global _worker_pipe
    from fluxmodel.text_to_image import TextToImage

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(num_threads)
    _worker_pipe = TextToImage.from_pretrained(model_dir)


def _end_with_parent() -> None:
    """A worker waiting for work would outlive a killed parent."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _draw_in_worker(batch: _Batch) -> Tensor:
    return _draw(_worker_pipe, batch)
