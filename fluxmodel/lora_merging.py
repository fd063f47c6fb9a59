"""LoRAs merged into a model's weights, several at once, and taken out again exactly.

Subtracting a change does not give back the weights: each addition rounds (measured in bf16: docs/lora.md). So
`merge` keeps the touched weights as they were, in the computer's memory, and `unmerge` puts them back bit for bit;
at FLUX.1's 12 billion parameters that is up to 22 GB. Where this is too much, `lora_adapters.inject` leaves the
weights alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fluxmodel.errors import InputError
from fluxmodel.lora import Lora

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Merged:
    """What takes merged LoRAs out again: the weights as they were, and a checksum of what they became."""

    originals: Mapping[str, Tensor]
    checksums: Mapping[str, int]


@torch.no_grad()
def merge(model: nn.Module, loras: Lora | Sequence[tuple[Lora, float]], keep: bool = True) -> Merged:
    """Add LoRAs, each with its weight, to weights in place; their sum in fp32, or fp64 as they are, rounded once.

    Args:
        model: with the original FLUX.1 names.
        loras: one, or several with weights; one of weight 0 changes nothing, bit for bit.
        keep: the weights as they were, for `unmerge`; without, the merge is for good and takes no memory.

    Raises:
        InputError: a LoRA has no place in the model, or its weight is not finite; nothing is changed then.
    """
    given = [(loras, 1.0)] if isinstance(loras, Lora) else list(loras)
    for _, strength in given:
        require_finite(strength)
    originals, checksums = {}, {}
    for name, layer in fitting_layers(model, [lora for lora, _ in given]).items():
        weight = layer.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        changes = [
            lora.modules[name].delta(strength, weight.device, dtype)
            for lora, strength in given
            if name in lora.modules and strength != 0
        ]
        if not changes:
            continue
        total = changes[0]
        for change in changes[1:]:
            total += change
        if keep:
            originals[name] = weight.detach().to("cpu", copy=True)
        weight.copy_(weight.to(dtype) + total)
        if keep:
            checksums[name] = _checksum(weight)
    return Merged(originals, checksums)


@torch.no_grad()
def unmerge(model: nn.Module, merged: Merged) -> None:
    """Put back the weights that `merge` replaced, bit for bit; of several merges, the last first.

    Raises:
        InputError: the weights have changed since; nothing is changed then.
    """
    layers = dict(model.named_modules())
    changed = [
        name
        for name, checksum in merged.checksums.items()
        if not isinstance(layer := layers.get(name), nn.Linear) or _checksum(layer.weight) != checksum
    ]
    if changed:
        raise InputError(
            f"{changed[0]} is not as the merge left it; take out the last merge first, or load the model again"
        )
    for name, original in merged.originals.items():
        model.get_submodule(name).weight.copy_(original)  # pyright: ignore[reportCallIssue] (a linear layer's)


def fitting_layers(
    model: nn.Module, loras: Sequence[Lora], through_adapters: bool = False
) -> dict[str, nn.Linear]:
    """Return the model's linear layers that LoRAs change, by name; `through_adapters` looks beneath adapters.

    Raises:
        InputError: the model has no such layer, or one of another size, or an adapter is in the way.
    """
    found: dict[str, nn.Linear] = {}
    modules = dict(model.named_modules())
    for lora in loras:
        for name, change in lora.modules.items():
            layer: Any = modules.get(name)
            if hasattr(layer, "base_layer"):
                if not through_adapters:
                    raise InputError(f"{name} has an adapter on it; take it off with eject() before merging")
                layer = layer.base_layer
            if not isinstance(layer, nn.Linear):
                raise InputError(
                    f"{name} is no linear layer of this model; use the LoRA on the model it is for"
                )
            shape = (change.b.shape[0], change.a.shape[1])
            if shape != tuple(layer.weight.shape):
                raise InputError(
                    f"{name} is {shape} in the LoRA, {tuple(layer.weight.shape)} in the model; "
                    "use the LoRA on the model it is for"
                )
            found[name] = layer
    return found


def require_finite(strength: float) -> None:
    """Check how strongly a LoRA is to act.

    Raises:
        InputError: it is infinite or not a number.
    """
    if not math.isfinite(strength):
        raise InputError(f"the strength of a LoRA is {strength}; give a finite number")


def _checksum(weight: Tensor) -> int:
    """The sum of the weights' bits as integers: the same on every device and in any order."""
    bits = weight.detach().contiguous().view(_INTEGERS[weight.element_size()])
    return int(bits.sum(dtype=torch.int64))
