"""Several processes on one batch: each takes its slice, gradients are averaged in one buffer."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from fluxmodel.errors import InputError


@dataclass(frozen=True)
class World:
    """Which of how many processes this one is."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def slice(self, batch_size: int) -> slice:
        """Return this process's part of a global batch.

        Raises:
            InputError: the batch does not divide.
        """
        if batch_size % self.size:
            raise InputError(
                f"batch_size is {batch_size}, not a multiple of the {self.size} processes that share it"
            )
        part = batch_size // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace each gradient by its mean over the processes; no-op alone."""
        if self.size == 1:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([g.float().flatten() for g in gradients])
        self.sum(flat)
        parts = flat.div_(self.size).split([g.numel() for g in gradients])
        for parameter, gradient, part in zip(parameters, gradients, parts, strict=True):
            parameter.grad = part.view_as(gradient).to(gradient.dtype)

    def share(self, work: Callable[[Tensor], Tensor], items: Tensor) -> Tensor:
        """Return `work(items)`, which keeps the shape and treats items [k, ...] one by one, each process doing some."""
        if self.size == 1:
            return work(items)
        done = torch.zeros_like(items)
        mine = slice(self.rank * len(items) // self.size, (self.rank + 1) * len(items) // self.size)
        if mine.stop > mine.start:
            done[mine] = work(items[mine])
        self.sum(done)
        return done

    def sum(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the processes."""
        distributed.all_reduce(tensor)

    def agree(self, wish: bool) -> bool:
        """Return whether any process wishes it, the same answer in all."""
        if self.size == 1:
            return wish
        votes = torch.tensor(float(wish))
        distributed.all_reduce(votes)
        return bool(votes > 0)


ALONE = World()


def join_world() -> World:
    """Read RANK and WORLD_SIZE as torchrun sets them and connect over gloo; alone without them."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    distributed.init_process_group("gloo")
    return World(distributed.get_rank(), size)
