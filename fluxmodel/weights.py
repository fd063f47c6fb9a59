"""Weights in and out as safetensors; pickle is never read for them."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from fluxmodel.errors import InputError
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.transformer import MMDiT

Module = TypeVar("Module", bound=nn.Module)


def save_module(module: nn.Module, path: str | Path) -> None:
    """Write a module's state dict, fp32, under its own names; the same weights give the same bytes."""
    tensors = {name: tensor.detach().float().contiguous() for name, tensor in module.state_dict().items()}
    save_file(tensors, str(path), metadata={"format": "pt"})


def load_module(module: Module, path: str | Path) -> Module:
    """Fill a module from a file and put it in evaluation mode.

    Raises:
        InputError: the file is missing or damaged, or a key is missing, unknown or of another shape; all are named.
    """
    try:
        tensors = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise InputError(f"weights {path}: cannot be read ({error}); train or download them again") from error
    wanted = module.state_dict()
    faults = [f"missing {k}" for k in wanted.keys() - tensors.keys()]
    faults += [f"unknown {k}" for k in tensors.keys() - wanted.keys()]
    faults += [
        f"{k} is {tuple(tensors[k].shape)}, not {tuple(wanted[k].shape)}"
        for k in wanted.keys() & tensors.keys()
        if tensors[k].shape != wanted[k].shape
    ]
    if faults:
        raise InputError(f"weights {path} do not fit their config.json: {'; '.join(sorted(faults))}")
    module.load_state_dict(tensors)
    return module.eval()


def save_mmdit(model: MMDiT, directory: str | Path) -> None:
    """Write config.json and model.safetensors, original FLUX.1 names, into an existing directory."""
    (Path(directory) / "config.json").write_text(model.config.model_dump_json(indent=2) + "\n")
    save_module(model, Path(directory) / "model.safetensors")


def load_mmdit(directory: str | Path) -> MMDiT:
    """Read what `save_mmdit` wrote; the module is in evaluation mode.

    Raises:
        InputError: config.json or the weights are missing or do not fit.
    """
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise InputError(f"{path} is missing: {directory} holds no MM-DiT")
    model = MMDiT(MMDiTConfig.model_validate_json(path.read_text()))
    return load_module(model, Path(directory) / "model.safetensors")
