"""Many prompts sampled from a model's variants, in this process or shared by several.

The noise of an image depends on its own seed alone, and batches are cut here, always alike, so the number of
workers changes the time and not one bit.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fluxmodel.text_to_image import TextToImage
from fluxmodel.training_job import Precision


@dataclass(frozen=True)
class Request:
    """What to draw; `variant` "" is the model's default. Latents come packed as the autoencoder reads them."""

    prompts: Sequence[str]
    seeds: Sequence[int]
    num_steps: int
    guidance: float
    variant: str = ""
    latents: bool = False

    def cut(self, size: int) -> Iterator[Request]:
        """Yield the request in pieces of at most `size` prompts."""
        for start in range(0, len(self.prompts), size):
            rows = slice(start, start + size)
            yield replace(self, prompts=self.prompts[rows], seeds=self.seeds[rows])


class SamplingPool:
    """Draws from the variants of one model; a context manager, because workers have to be let go."""

    def __init__(
        self,
        model_dir: str | Path,
        workers: int = 1,
        pipe: TextToImage | None = None,
        precision: Precision = "fp32",
    ):
        """Open a pool.

        Args:
            model_dir: what `TextToImage.from_pretrained` reads.
            workers: processes that share the work; 1 works in this one.
            pipe: the default variant where it is loaded already, in the right precision.
            precision: of the networks, fp32 or bf16.
        """
        self.model_dir = Path(model_dir)
        self.precision: Precision = precision
        self._pipes: dict[str, TextToImage] = {"": pipe} if pipe is not None else {}
        self._pool: ProcessPoolExecutor | None = None
        if workers > 1:
            self._pool = ProcessPoolExecutor(
                workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin_worker,
                initargs=(str(model_dir), torch.get_num_threads(), precision),
            )

    def __enter__(self) -> SamplingPool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def pipe(self, variant: str = "") -> TextToImage:
        """Return a variant, read once."""
        return _variant(self._pipes, self.model_dir, variant, self.precision)

    def here(self, request: Request) -> Tensor:
        """Draw a request in this process."""
        return _draw(self.pipe(request.variant), request)

    def map(self, requests: Iterable[Request]) -> Iterator[Tensor]:
        """Yield what each request gives, in order."""
        if self._pool is None:
            return map(self.here, requests)
        return self._pool.map(_draw_in_worker, requests)

    def sample(
        self, request: Request, batch_size: int = 250, drawn: Callable[[int], None] | None = None
    ) -> Tensor:
        """Draw a request in batches; `drawn` is told the number of images of each.

        Returns:
            uint8 images [n, 3, height, width], or float latents [n, c, h, w] where the request wants them.
        """
        parts = []
        for part in self.map(request.cut(batch_size)):
            parts.append(part)
            if drawn is not None:
                drawn(len(part))
        return torch.cat(parts)


_worker_model: tuple[Path, Precision] = (Path(), "fp32")
_worker_pipes: dict[str, TextToImage] = {}


def _begin_worker(model_dir: str, num_threads: int, precision: Precision) -> None:
    global _worker_model
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(num_threads)
    _worker_model = (Path(model_dir), precision)


def _end_with_parent() -> None:
    """A worker waiting for work would outlive a killed parent."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _draw_in_worker(request: Request) -> Tensor:
    model_dir, precision = _worker_model
    return _draw(_variant(_worker_pipes, model_dir, request.variant, precision), request)


def _variant(
    pipes: dict[str, TextToImage], model_dir: Path, variant: str, precision: Precision
) -> TextToImage:
    if variant not in pipes:
        pipes[variant] = in_precision(TextToImage.from_pretrained(model_dir, variant), precision)
    return pipes[variant]


def in_precision(pipe: TextToImage, precision: Precision) -> TextToImage:
    """Return a model with its network in fp32, as it is read, or in bf16."""
    return pipe.in_bfloat16() if precision == "bf16" else pipe


def _draw(pipe: TextToImage, request: Request) -> Tensor:
    if request.latents:
        size = pipe.index.image_size
        return pipe.sample_latents(
            request.prompts, request.num_steps, request.guidance, request.seeds, (size, size)
        )
    return pipe.sample(
        request.prompts,
        num_steps=request.num_steps,
        guidance=request.guidance,
        seeds=request.seeds,
        batch_size=len(request.prompts),
    )
