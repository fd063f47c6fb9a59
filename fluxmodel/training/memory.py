"""The memory of a training step, told by rehearsing it: the loop's own pieces on tensors that have shapes only.

The rehearsal runs on torch's fake tensors (the meta device under the name of another): forward, backward, clipping,
optimizer and average, while every storage's birth and death is noted. On real tensors the same follower tells the
truth. What a kernel allocates inside itself is not seen, nor is what an allocator wastes.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fluxmodel.data.batches import FlowBatch
from fluxmodel.flow.objective import flow_matching_loss
from fluxmodel.flow.packing import image_ids
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.training.ema import WeightAverage
from fluxmodel.training.loop import take_step
from fluxmodel.training.lora import add_adapters
from fluxmodel.training.optimizer import MasterOptimizer
from fluxmodel.training.parallel import World
from fluxmodel.training_job import OptimizerSettings

Target = Literal["cpu", "gpu"]
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
class StepShape:
    """What decides the memory and the work of a training step in one process.

    Attributes:
        config: the network.
        batch: images of this process.
        height, width: of the latents, before packing.
        text_tokens: tokens of a caption.
        rank: of LoRA adapters on the frozen network; 0 trains all of it.
        precision: of the working copy and of the activations.
        optimizer: its settings; Muon keeps one state where AdamW keeps two.
        world_size: processes that share a batch and average their gradients.
        target: where it is to run: on a GPU, attention never keeps its matrix; on a CPU in bf16 it does.
    """

    config: MMDiTConfig
    batch: int = 1
    height: int = 128
    width: int = 128
    text_tokens: int = 512
    rank: int = 0
    precision: Literal["fp32", "bf16"] = "bf16"
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    world_size: int = 1
    target: Target = "cpu"

    @property
    def image_tokens(self) -> int:
        return (self.height // 2) * (self.width // 2)

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


@dataclass(frozen=True)
class StepMemory:
    """Bytes of live tensors in a training step.

    Attributes:
        peak: the most that is alive at once, in the steady state.
        parts: those bytes by what they are for (`PARTS`).
        phase: when the peak is: forward, backward or update.
        start: the most that is alive before the first step, while masters and average are copied.
        resident: what is alive between two steps.
    """

    peak: int
    parts: dict[str, int]
    phase: str
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

    def name_rest(self, part: str, phase: str) -> None:
        """Give all nameless living storages born in a phase one name."""
        for life in self._known.values():
            if not life.part and life.phase == phase:
                life.part = part


def rehearse(shape: StepShape, real: bool = False) -> StepMemory:
    """Run two training steps and return the bytes of the second.

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
        model, optimizer, average = _begin(shape, follower)
        follower.name("weights", model.parameters())
        follower.name("master weights", optimizer.masters)
        follower.name("averaged weights", average.average)
        start = follower.peaks["start"][0]
        optimizer.step(0, 2)  # no gradients yet: it makes the optimizer's states, as the first step would
        follower.name("optimizer states", _tensors(optimizer.state_dict()))
        follower.peaks.clear()
        batch = _batch(shape)
        follower.name("batch", vars(batch).values())
        resident = follower.live_bytes
        take_step(_Rehearsal(shape, model, follower).loss, batch, shape.dtype, optimizer, average, (1, 2))
        phase, (peak, moment) = max(follower.peaks.items(), key=lambda found: found[1][0])
        alive = follower.alive(moment)
    alive["temporaries"] += alive.pop("", 0)
    return StepMemory(peak, {part: alive[part] for part in PARTS}, phase, start, resident)


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


class _RehearsedWorld(World):
    """A process among others that are not there: the buffers are made, nothing is exchanged."""

    follower: StorageFollower

    def average_gradients(self, parameters: Any) -> None:
        self.follower.phase = "update"
        super().average_gradients(parameters)

    def sum(self, tensor: Tensor) -> None:
        self.follower.name("gradients", [tensor])


class _Rehearsal:
    """The objective of a rehearsal: a flow's loss, that says which phase begins."""

    def __init__(self, shape: StepShape, model: MMDiT, follower: StorageFollower):
        self.shape = shape
        self.model = model
        self.follower = follower
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda p: follower.name("gradients", [p.grad]))

    def loss(self, batch: FlowBatch, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
        self.follower.phase = "forward"
        num, shape = len(batch.t), self.shape
        img_ids, txt_ids = image_ids(num, shape.height, shape.width), torch.zeros(num, shape.text_tokens, 3)
        guidance = torch.ones(num) if shape.config.guidance_embed else None
        loss = flow_matching_loss(
            lambda x, t: self.model(x, img_ids, batch.txt, txt_ids, t, batch.pooled, guidance),
            batch.data,
            batch.noise,
            batch.t,
        ).mean()
        self.follower.name_rest("activations", "forward")
        self.follower.phase = "backward"
        return loss, {}


def _begin(shape: StepShape, follower: StorageFollower) -> tuple[MMDiT, MasterOptimizer, WeightAverage]:
    """Do what a job does before its first step, in its order."""
    model = MMDiT(shape.config)
    if shape.rank:
        add_adapters(model, shape.rank, float(shape.rank), seed=0)
    world = _RehearsedWorld(0, shape.world_size)
    object.__setattr__(world, "follower", follower)
    optimizer = MasterOptimizer(model, shape.optimizer, world)
    optimizer._adamw.register_step_pre_hook(
        lambda *_: follower.name("gradients", [m.grad for m in optimizer.masters if m.grad is not None])
    )
    average = WeightAverage(optimizer.masters, 0.99)
    for parameter in model.parameters():  # what `model.to` does; it cannot with fake tensors
        parameter.data = parameter.data.to(shape.dtype)
    return model, optimizer, average


def _batch(shape: StepShape) -> FlowBatch:
    config, num = shape.config, shape.batch
    data = torch.randn(num, shape.image_tokens, config.out_channels)
    txt = torch.randn(num, shape.text_tokens, config.context_in_dim)
    return FlowBatch(data, torch.randn_like(data), torch.rand(num), txt, torch.randn(num, config.vec_in_dim))


def _tensors(state: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]
