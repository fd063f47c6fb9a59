"""A network on disk: its configuration as JSON beside its weights as safetensors; pickle is never read for them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from fluxmodel.errors import InputError, first_fault
from fluxmodel.tensor_files import Pending, TensorFiles, misfits, write_tensors

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
    pending = [
        Pending(name, torch.float32, tuple(tensor.shape), partial(tensor.detach))
        for name, tensor in module.state_dict().items()
    ]
    write_tensors(Path(path), pending, {"format": "pt"})


def load_module(module: Module, path: str | Path) -> Module:
    """Fill a module from a file and put it in evaluation mode.

    Raises:
        InputError: the file is missing or damaged, or a key is missing, unknown or of another shape; all are named.
    """
    with TensorFiles(Path(path)) as files:
        wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        if faults := misfits(wanted, files.shapes):
            raise InputError(f"weights {path} do not fit their config.json: {'; '.join(faults)}")
        module.load_state_dict({name: files.read(name) for name in wanted})
    return module.eval()
