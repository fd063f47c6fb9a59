"""What a LoRA trains: adapters on chosen linear layers of an MM-DiT; B starts at zero, so it starts as the base."""

from __future__ import annotations

import re

import torch

from fluxmodel.errors import InputError
from fluxmodel.lora_adapters import put_fresh
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.weight_names import linear_layers

_ATTENTION = r"double_blocks\.\d+\.(img|txt)_attn\.(qkv|proj)|single_blocks\.\d+\.linear[12]"
_MLP = r"double_blocks\.\d+\.(img|txt)_mlp\.[02]|single_blocks\.\d+\.linear[12]"
_MODULATION = r"double_blocks\.\d+\.(img|txt)_mod\.lin|single_blocks\.\d+\.modulation\.lin"
TARGETS = {
    "blocks": (
        r"double_blocks\.\d+\.(img|txt)_(attn\.(qkv|proj)|mlp\.[02]|mod\.lin)"
        r"|single_blocks\.\d+\.(linear[12]|modulation\.lin)"
    ),
    "attention": _ATTENTION,
    "mlp": _MLP,
    "modulation": _MODULATION,
    "embedders": r"(img|txt)_in|(time|vector|guidance)_in\.(in|out)_layer",
    "final": r"final_layer\.(linear|adaLN_modulation\.1)",
    "all": r".*",
}
"""Groups of layers by name. A single block's linear1 and linear2 serve attention and MLP at once."""


def target_layers(model: MMDiT, targets: str) -> list[str]:
    """Return the linear layers that `targets` names: groups joined by "+", or an expression for whole names.

    Raises:
        InputError: it is no expression, or no layer of the model has such a name.
    """
    groups = targets.split("+")
    pattern = "|".join(f"({TARGETS[group]})" for group in groups) if set(groups) <= set(TARGETS) else targets
    try:
        found = [name for name in linear_layers(model.config) if re.fullmatch(pattern, name)]
    except re.error as error:
        raise InputError(
            f"targets is {targets!r}: {error}; use {', '.join(TARGETS)} or an expression"
        ) from error
    if not found:
        raise InputError(f"targets is {targets!r}, which no layer is called; use {', '.join(TARGETS)}")
    return found


def add_adapters(model: MMDiT, rank: int, alpha: float, seed: int, targets: str = "blocks") -> MMDiT:
    """Put adapters into a model, in place, and freeze everything else; A is drawn from the seed.

    Raises:
        InputError: `targets` names no layer.
    """
    layers = "|".join(re.escape(name) for name in target_layers(model, targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        put_fresh(model, layers, rank, alpha)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    return model


@torch.no_grad()
def strengthen(model: MMDiT, strength: float) -> None:
    """Make the adapters of a model act `strength` times as strongly, in place, by their B."""
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.mul_(strength)
