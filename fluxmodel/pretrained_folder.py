"""Folders that diffusers and transformers wrote: their JSON files, and why pickled weights are not read."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fluxmodel.errors import InputError

INDEX = "model_index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def is_pipeline(directory: str | Path) -> bool:
    """Return whether a directory holds a diffusers pipeline rather than a model of ours; nothing of it is loaded."""
    try:
        return "_class_name" in json.loads((Path(directory) / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def model_name(path: str | Path) -> str:
    """Return what a file or folder is called, without a file's suffix, however the path to it is written.

    A link is called by its own name: downloads are often links to files named by their digests.
    """
    whole = Path(os.path.abspath(path))
    return (whole.name if whole.is_dir() else whole.stem) or "model"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: it is missing, no JSON, or no object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); name a directory that diffusers' save_pretrained wrote."
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: is no JSON; download the pipeline again.") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no object; download the pipeline again.")
    return found


def is_pickle(path: Path) -> bool:
    """Return whether a file's name says that it is pickled."""
    return path.suffix in _PICKLED


def refuse_pickles(folder: Path) -> None:
    """Refuse a part whose weights are there as pickles only: reading those may run code.

    Raises:
        InputError: names the first of them.
    """
    pickles = [path for path in sorted(folder.glob("*")) if is_pickle(path)]
    if pickles and not any(folder.glob("*.safetensors")):
        raise InputError(
            f"{pickles[0]} is a pickle, which can run code when it is read; "
            "download or save the pipeline with safetensors weights."
        )


def read_network(kind: Any, folder: Path, dtype: Any) -> Any:
    """Read a network of diffusers or transformers; a tensor that is missing would be drawn at random, so it is refused.

    Args:
        kind: the network's class.
        folder: its config.json and safetensors weights.
        dtype: torch dtype of the network.

    Raises:
        InputError: the folder is missing, damaged, quantised, pickled, or of another class.
    """
    if "quantization_config" in read_json(folder / "config.json"):
        raise InputError(
            f"{folder / 'config.json'}: these weights are quantised, which is not read; use the unquantised ones."
        )
    refuse_pickles(folder)
    try:
        with quiet_libraries():
            network, found = kind.from_pretrained(
                str(folder),
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, SafetensorError) as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(
            f"{folder}: cannot be read as {kind.__name__} ({said}); download it again."
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise InputError(
            f"{folder}: the weights lack {', '.join(missing[:3])} "
            f"({len(missing)} in all); download {folder.name} again."
        )
    return network


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep to ourselves what diffusers and transformers say of image processors we do not use, and of long prompts."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
