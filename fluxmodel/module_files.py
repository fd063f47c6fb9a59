"""A network on disk: its configuration as JSON beside its weights as safetensors; pickle is never read for them."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from fluxmodel.errors import InputError, first_fault

Config = TypeVar("Config", bound=BaseModel)
Module = TypeVar("Module", bound=nn.Module)


def read_config(config: type[Config], path: str | Path) -> Config:
    """Read a configuration file.

    Raises:
        InputError: it is missing, no JSON, or a field is wrong; the text names file and field.
    """
    try:
        return config.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); name a directory that Fluxline wrote"
        ) from error
    except ValidationError as error:
        raise InputError(f"{path}: {first_fault(error)}") from error


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
