"""LoRAs as adapters beside a model's layers, by peft: for training, and to use without touching the weights."""

from __future__ import annotations

import re
import warnings
from typing import Any

import torch
from torch import nn

from fluxmodel.errors import InputError
from fluxmodel.lora import Lora, LowRank
from fluxmodel.lora_merging import fitting_layers, require_finite
from fluxmodel.mmdit.transformer import MMDiT


def put_fresh(model: nn.Module, targets: str, rank: int, alpha: float) -> None:
    """Put untrained adapters on the layers whose whole name an expression matches: A drawn by torch, B zero."""
    _put(model, "default", r=rank, lora_alpha=alpha, target_modules=targets)


@torch.no_grad()
def inject(
    model: MMDiT, lora: Lora, weight: float = 1.0, name: str = "default", trainable: bool = False
) -> MMDiT:
    """Put a LoRA beside a model's layers, in place; the weights stay as they are. All LoRAs of a model act together.

    Args:
        model: may have other adapters already.
        lora: what to put in; fp32 copies of its matrices are made.
        weight: how strongly it acts.
        name: what to call it, for `eject` and `adapters_of`.
        trainable: whether its matrices, and nothing else, want gradients.

    Raises:
        InputError: the LoRA is empty or has no place in the model, the weight is not finite, or there is an adapter
            of that name.
    """
    require_finite(weight)
    if not lora.modules:
        raise InputError("the LoRA has no layer; read one from a file, or train one")
    if name in adapter_names(model):
        raise InputError(f'the model has an adapter "{name}" already; give this one another name')
    layers = fitting_layers(model, [lora], through_adapters=True)
    first = next(iter(lora.modules.values()))
    wanted = {id(parameter): parameter.requires_grad for parameter in model.parameters()}
    ranks = {f"^{re.escape(module)}": change.rank for module, change in lora.modules.items()}
    targets = "|".join(re.escape(module) for module in layers)
    _put(model, name, r=first.rank, lora_alpha=first.rank, target_modules=targets, rank_pattern=ranks)
    for module, change in lora.modules.items():
        layer: Any = model.get_submodule(module)
        layer.lora_A[name].weight.copy_(change.a)
        layer.lora_B[name].weight.copy_(change.b)
        layer.scaling[name] = change.scale * weight
    _activate_all(model)
    for parameter in model.parameters():  # peft freezes the weights; they are the caller's to freeze
        is_new = id(parameter) not in wanted
        parameter.requires_grad_(is_new if trainable else wanted.get(id(parameter), False))
    return model


def adapter_names(model: nn.Module) -> list[str]:
    """Return the names of a model's adapters."""
    return list(getattr(model, "peft_config", {}))


@torch.no_grad()
def adapters_of(model: nn.Module, name: str | None = None) -> Lora:
    """Return one of a model's adapters as a LoRA, fp32, its weight included; by default the only one.

    Raises:
        InputError: there is none, or none of that name, or several and no name.
    """
    names = adapter_names(model)
    if not names:
        raise InputError("the model has no adapter to save; train a LoRA on it first")
    if (name is None and len(names) > 1) or (name is not None and name not in names):
        raise InputError(f'adapter is "{name or ""}"; the model has {", ".join(names)}, name one')
    chosen, modules = name or names[0], {}
    for module, layer in _adapted(model).items():
        if chosen in layer.lora_A:
            a, b = (half[chosen].weight.detach().float().clone() for half in (layer.lora_A, layer.lora_B))
            modules[module] = LowRank(a, b, float(layer.scaling[chosen]) * len(a))
    return Lora(modules)


def eject(model: MMDiT, name: str | None = None) -> MMDiT:
    """Take an adapter, or all of them, off a model, in place; its weights are what they always were.

    Raises:
        InputError: there is no adapter of that name.
    """
    names = adapter_names(model)
    if name is not None and name not in names:
        raise InputError(f'adapter is "{name}"; the model has {", ".join(names) or "none"}')
    for module, layer in _adapted(model).items():
        for gone in (name,) if name is not None else tuple(layer.lora_A):
            if gone in layer.lora_A:
                layer.delete_adapter(gone)
        if not layer.lora_A:
            parent, _, child = module.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.base_layer)
    configs: dict[str, Any] = getattr(model, "peft_config", {})
    for gone in (name,) if name is not None else names:
        del configs[gone]
    if not configs and hasattr(model, "peft_config"):
        del model.peft_config
    _activate_all(model)
    return model


def _put(model: nn.Module, name: str, **settings: Any) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are meant
        inject_adapter_in_model(LoraConfig(bias="none", **settings), model, adapter_name=name)


def _adapted(model: nn.Module) -> dict[str, Any]:
    return {name: m for name, m in model.named_modules() if hasattr(m, "base_layer") and hasattr(m, "lora_A")}


def _activate_all(model: nn.Module) -> None:
    for layer in _adapted(model).values():
        wanted = {n: p.requires_grad for n, p in layer.named_parameters()}
        layer.set_adapter(list(layer.lora_A))
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(wanted[name])
