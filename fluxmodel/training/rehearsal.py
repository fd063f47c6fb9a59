"""A training step of a given shape, without data: the loop's own pieces on random latents and texts.

The planner runs it: on tensors without memory to learn what it needs, on real ones to learn how long it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from fluxmodel.data.batches import FlowBatch
from fluxmodel.flow.objective import flow_matching_loss
from fluxmodel.flow.packing import image_ids
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.flops import Flops, training_flops
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.training.ema import WeightAverage
from fluxmodel.training.loop import take_step
from fluxmodel.training.lora import add_adapters
from fluxmodel.training.optimizer import MasterOptimizer
from fluxmodel.training.parallel import World
from fluxmodel.training_job import OptimizerSettings

Target = Literal["cpu", "gpu"]


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
        target: where it is to run: on a CPU in bf16 attention keeps its matrix for the backward pass.
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

    def network(self) -> MMDiT:
        """Return the network, its adapters included, as torch initialises it."""
        model = MMDiT(self.config)
        return add_adapters(model, self.rank, float(self.rank), seed=0) if self.rank else model

    def flops(self) -> Flops:
        """Return the operations of forward and backward pass."""
        sizes = (self.batch, self.image_tokens, self.text_tokens)
        if not self.rank:
            return training_flops(self.config, *sizes)
        with torch.device("meta"):
            names = [name for name, _ in self.network().named_parameters()]
        adapted = {name.partition(".lora_A")[0] for name in names if ".lora_A" in name}
        return training_flops(self.config, *sizes, adapted, self.rank)


class Rehearsal:
    """A step that can be run again and again; a job's own preparations are done when it is made."""

    def __init__(
        self,
        shape: StepShape,
        entered: Callable[[str], object] = lambda phase: None,
        exchanged: Callable[[Tensor], object] = lambda buffer: None,
    ):
        """Build network, masters and average, and cast the network, in the order of the loop.

        Args:
            shape: the step.
            entered: is told of each phase as it begins: forward, backward, update.
            exchanged: is told of each buffer the processes would average.
        """
        self.shape = shape
        self.entered = entered
        self.model = shape.network()
        self.optimizer = MasterOptimizer(
            self.model, shape.optimizer, _Pretended(shape.world_size, entered, exchanged)
        )
        self.average = WeightAverage(self.optimizer.masters, 0.99)
        for parameter in self.model.parameters():  # what `model.to` does
            parameter.data = parameter.data.to(shape.dtype)

    def batch(self) -> FlowBatch:
        """Return random latents, noise, times and texts."""
        config, num = self.shape.config, self.shape.batch
        data = torch.randn(num, self.shape.image_tokens, config.out_channels)
        txt = torch.randn(num, self.shape.text_tokens, config.context_in_dim)
        pooled = torch.randn(num, config.vec_in_dim)
        return FlowBatch(data, torch.randn_like(data), torch.rand(num), txt, pooled)

    def step(self, batch: FlowBatch) -> None:
        """Do one step."""
        take_step(self._loss, batch, self.shape.dtype, self.optimizer, self.average, (1, 2))

    def velocity(self, batch: FlowBatch, x: Tensor, t: Tensor) -> Tensor:
        """Return the network's velocity under a batch's texts."""
        num, shape = len(t), self.shape
        img_ids, txt_ids = image_ids(num, shape.height, shape.width), torch.zeros(num, shape.text_tokens, 3)
        guidance = torch.ones(num) if shape.config.guidance_embed else None
        return self.model(x, img_ids, batch.txt, txt_ids, t, batch.pooled, guidance)

    def _loss(self, batch: FlowBatch, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
        self.entered("forward")
        loss = flow_matching_loss(
            lambda x, t: self.velocity(batch, x, t), batch.data, batch.noise, batch.t
        ).mean()
        self.entered("backward")
        return loss, {}


class _Pretended(World):
    """A process among others that are not there: buffers are made, nothing is exchanged."""

    def __init__(self, size: int, entered: Callable[[str], object], exchanged: Callable[[Tensor], object]):
        super().__init__(0, size)
        self.__dict__.update(entered=entered, exchanged=exchanged)  # the parent is frozen

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        self.__dict__["entered"]("update")
        super().average_gradients(parameters)

    def sum(self, tensor: Tensor) -> Any:
        self.__dict__["exchanged"](tensor)
