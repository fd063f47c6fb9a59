"""The memory of a training step, told by rehearsing it: the loop's own pieces on tensors that have shapes only.

The rehearsal runs on the meta device under the name of the target's: forward, backward, clipping,
optimizer and average, while every storage's birth and death is noted. On real tensors the same follower tells the
truth. What a kernel allocates inside itself is not seen, nor is what an allocator wastes.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fluxmodel.training.rehearsal import Rehearsal, StepShape, Target

PARTS = (
    "weights",
    "master weights",
    "optimizer states",
    "averaged weights",
    "batch",
    "gradients",
    "activations",
    "temporaries",
)
"""What memory is used for; activations are what the forward pass keeps for the backward pass."""


_META = torch.device("meta")


@dataclass(frozen=True)
class StepMemory:
    """Bytes of live tensors in a training step.

    Attributes:
        peak: the most that is alive at once, in the steady state.
        parts: those bytes by what they are for (`PARTS`).
        phase: when the peak is: forward, backward or update.
        kept: activations the forward pass leaves for the backward pass.
        start: the most that is alive before the first step, while masters and average are copied.
        resident: what is alive between two steps.
    """

    peak: int
    parts: dict[str, int]
    phase: str
    kept: int
    start: int
    resident: int

    @property
    def need(self) -> int:
        """The most that is alive at any time."""
        return max(self.peak, self.start)


@dataclass
class _Life:
    num_bytes: int
    born: int
    phase: str
    died: int | None = None
    part: str = ""


class StorageFollower(TorchDispatchMode):
    """Notes the birth and death of every storage an operation returns, real or fake."""

    def __init__(self, real: bool = True) -> None:
        super().__init__()
        self.real = real
        self.phase = "start"
        self.lives: list[_Life] = []
        self.live_bytes = 0
        self.moment = 0
        self.kept = 0
        self.peaks: dict[str, tuple[int, int]] = {}
        self._known: dict[int, _Life] = {}
        self._references: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and not self.real:
            return 1.0  # a norm that is read: any number does
        result = func(*args, **(kwargs or {}))
        self.moment += 1
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        number = storage._cdata
        if number in self._known:
            return
        life = _Life(storage.nbytes(), self.moment, self.phase)
        self._known[number] = life
        self._references[number] = weakref.ref(storage, lambda _: self._bury(number))
        self.lives.append(life)
        self.live_bytes += life.num_bytes
        if self.live_bytes > self.peaks.get(self.phase, (0, 0))[0]:
            self.peaks[self.phase] = (self.live_bytes, self.moment)

    def _bury(self, number: int) -> None:
        life = self._known.pop(number)
        del self._references[number]
        life.died = self.moment
        self.live_bytes -= life.num_bytes

    def name(self, part: str, tensors: Iterable[Tensor]) -> None:
        """Say what the storages of tensors are for; the first name stays."""
        for tensor in tensors:
            life = self._known.get(tensor.untyped_storage()._cdata)
            if life is not None and not life.part:
                life.part = part

    def alive(self, moment: int) -> Counter[str]:
        """Return the bytes that were alive just after a moment, by part; "" for those without a name."""
        found: Counter[str] = Counter()
        for life in self.lives:
            if life.born <= moment and (life.died is None or life.died >= moment):
                found[life.part] += life.num_bytes
        return found

    def enter(self, phase: str) -> None:
        """Begin a phase; what the forward pass left is then known to be kept for the backward pass."""
        for life in self._known.values():
            if self.phase == "forward" and life.phase == "forward" and not life.part:
                life.part = "activations"
                self.kept += life.num_bytes
        self.phase = phase


def step_memory(shape: StepShape, real: bool = False) -> StepMemory:
    """Run a training step and return the bytes it needs.

    Args:
        shape: the step.
        real: run it on real tensors on the CPU instead, which costs its memory and time.
    """
    follower = StorageFollower(real)
    with ExitStack() as stack:
        if not real:
            stack.enter_context(_META)
            stack.enter_context(_Imagined(shape.target))
        stack.enter_context(follower)
        rehearsal = Rehearsal(shape, follower.enter, lambda buffer: follower.name("gradients", [buffer]))
        model, optimizer = rehearsal.model, rehearsal.optimizer
        follower.name("weights", model.parameters())
        follower.name("master weights", optimizer.masters)
        follower.name("averaged weights", rehearsal.average.average)
        start = follower.peaks["start"][0]
        optimizer.step(0, 2)  # no gradients yet: it makes the optimizer's states, as the first step would
        follower.name("optimizer states", _tensors(optimizer.state_dict()))
        resident = follower.live_bytes
        follower.peaks.clear()
        _name_gradients(rehearsal, follower)
        batch = rehearsal.batch()
        follower.name("batch", vars(batch).values())
        rehearsal.step(batch)
        phase, (peak, moment) = max(follower.peaks.items(), key=lambda found: found[1][0])
        alive = follower.alive(moment)
    alive["temporaries"] += alive.pop("", 0)
    return StepMemory(peak, {part: alive[part] for part in PARTS}, phase, follower.kept, start, resident)


def _name_gradients(rehearsal: Rehearsal, follower: StorageFollower) -> None:
    """Have the follower told of every gradient: the network's as they come, the masters' before they are used."""
    for parameter in rehearsal.optimizer.working:
        parameter.register_post_accumulate_grad_hook(lambda p: follower.name("gradients", [p.grad]))
    masters = rehearsal.optimizer.masters
    rehearsal.optimizer._adamw.register_step_pre_hook(
        lambda *_: follower.name("gradients", [m.grad for m in masters if m.grad is not None])
    )


def _tensors(state: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]


class _Imagined(TorchFunctionMode):
    """Makes tensors without memory that say they lie on the target's device, so that code decides as it will there.

    They are meta tensors. Attention keeps a number a row for its backward pass, as the kernels of both targets do;
    torch's own on the meta device would keep the matrix.
    """

    def __init__(self, target: Target):
        super().__init__()
        self.named = torch.device("cuda", 0) if target == "gpu" else torch.device("cpu")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
            return self.named
        kwargs = {name: self._real(value) for name, value in (kwargs or {}).items()}
        args = tuple(self._real(value) for value in args)
        if func is functional.scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args, **kwargs)[0]
        return func(*args, **kwargs)

    def _real(self, value: Any) -> Any:
        return _META if isinstance(value, torch.device) and value.type == self.named.type else value
