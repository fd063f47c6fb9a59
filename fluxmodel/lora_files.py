"""LoRAs of the MM-DiT in and out.

A LoRA (Hu et al. 2021, arXiv:2106.09685) changes a matrix by a product of two thin ones: W + scale * alpha / r * B A.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fluxmodel.errors import InputError
from fluxmodel.mmdit.transformer import MMDiT

LORA_CONFIG, LORA_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_LORA_KEY = re.compile(rf"{re.escape(_PREFIX)}(.+)\.lora_([AB])\.weight")


def save_lora(model: MMDiT, directory: str | Path, layout: str = "peft") -> None:
    """Write the adapters peft put into a model, as peft reads them, into an existing directory.

    Raises:
        InputError: the layout is none we write, or the model has no adapter.
    """
    if layout != "peft":
        raise InputError(f'layout is "{layout}"; LoRAs are written as "peft" so far')
    configs: dict[str, Any] = getattr(model, "peft_config", {})
    if "default" not in configs:
        raise InputError("the model has no adapter to save; train a LoRA on it first")
    tensors = {}
    for name, tensor in model.state_dict().items():
        if ".lora_" in name:
            tensors[_PREFIX + name.replace(".default.", ".")] = tensor.detach().float().contiguous()
    save_file(tensors, str(Path(directory) / LORA_WEIGHTS), metadata={"format": "pt"})
    configs["default"].save_pretrained(str(directory))


def load_lora(model: MMDiT, directory: str | Path, scale: float = 1.0) -> MMDiT:
    """Merge a LoRA in peft's layout into a model's weights, in place; return the model.

    Args:
        model: keeps its weights where the LoRA has none.
        directory: holds adapter_model.safetensors and adapter_config.json.
        scale: how strongly; 0 changes nothing.

    Raises:
        InputError: a file is missing or damaged, the kind of adapter is another, or a matrix does not fit the model.
    """
    place, config, pairs = Path(directory) / LORA_WEIGHTS, *_read_lora(Path(directory))
    layers = dict(model.named_modules())
    strength = (
        scale * config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    )
    for name, pair in pairs.items():
        layer = layers.get(name)
        if not isinstance(layer, nn.Linear) or set(pair) != {"A", "B"}:
            raise InputError(
                f"LoRA {place}: {name} is no linear layer of this model; use it on the model it is for"
            )
        shape = (pair["B"].shape[0], pair["A"].shape[1])
        if shape != tuple(layer.weight.shape) or len(pair["A"]) != pair["B"].shape[1]:
            raise InputError(
                f"LoRA {place}: {name} is {shape}, the model's layer {tuple(layer.weight.shape)}; "
                "use it on the model it is for"
            )
    with torch.no_grad():
        for name, pair in pairs.items():
            weight: Tensor = layers[name].weight  # pyright: ignore[reportAssignmentType] (a linear layer)
            weight += (strength * (pair["B"] @ pair["A"])).to(weight)
    return model


def _read_lora(directory: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Return adapter_config.json, and the matrices A and B by the name of their layer."""
    try:
        config = json.loads((directory / LORA_CONFIG).read_text())
        tensors = load_file(str(directory / LORA_WEIGHTS))
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{directory}: no LoRA in peft's layout can be read there ({error})") from error
    odd = [k for k in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save") if config.get(k)]
    if config.get("peft_type") != "LORA" or not config.get("r") or odd:
        raise InputError(
            f"{directory / LORA_CONFIG}: {', '.join(odd) or 'peft_type'} is not supported; use a plain LoRA"
        )
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _LORA_KEY.fullmatch(key)
        if not match:
            raise InputError(f"LoRA {directory / LORA_WEIGHTS}: {key} is no name of peft's layout")
        pairs.setdefault(match[1], {})[match[2]] = tensor.float()
    return config, pairs
