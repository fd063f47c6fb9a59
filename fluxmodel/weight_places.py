"""Where the weights of an MM-DiT lie in a directory, and what their files are called when we write them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn

from fluxmodel.errors import InputError
from fluxmodel.tensor_files import PICKLES, refuse, refuse_foreign
from fluxmodel.transformer_config import CONFIG_NAME, is_of_flux
from fluxmodel.weight_layouts import Layout

STEMS: dict[Layout, str] = {"flux": "model", "diffusers": "diffusion_pytorch_model"}
SUFFIX, INDEX_SUFFIX = ".safetensors", ".safetensors.index.json"
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
_AUTOENCODER = "ae.safetensors"


def find_weights(path: Path) -> Path:
    """Return the file of weights, or the index of shards, that `path` is or holds.

    A pipeline's directory holds its network in transformer/; of several files the one with a usual name is meant.

    Raises:
        InputError: there are none, more than one that could be meant, or none that is read.
    """
    if not path.is_dir():
        if _SHARD.search(path.name):
            raise InputError(
                f"weights {path}: this is one shard of several; name their directory or the index"
            )
        return path
    inner = path / "transformer"
    found, inside = _candidates(path), _candidates(inner)
    if inside and (not found or (path / "model_index.json").exists()):
        return _choose(inner, inside)
    return _choose(path, found) if found else _refuse_empty(inner if inner.is_dir() else path)


def outdated(directory: Path, layout: Layout) -> list[Path]:
    """Return the weights and indices a directory holds in the names of a layout.

    Raises:
        InputError: it holds another kind of model, or weights under other names, which a new config.json would no
            longer describe.
    """
    config = directory / CONFIG_NAME
    if config.exists() and not is_of_flux(config):
        raise InputError(
            f"{config}: it is of another model than FLUX.1's transformer; name another directory"
        )
    stem = re.escape(STEMS[layout])
    ours = re.compile(rf"{stem}(-\d{{5}}-of-\d{{5}})?\.safetensors(\.index\.json)?")
    held = [*directory.glob(f"*{SUFFIX}"), *directory.glob("*.index*.json")]
    if foreign := sorted(each.name for each in held if not ours.fullmatch(each.name)):
        raise InputError(
            f"{directory}: {foreign[0]} is there already, and only one network can be; name another directory"
        )
    return held


def _candidates(directory: Path) -> list[Path]:
    """Return indices and files of safetensors; shards count by their index, the autoencoder only if alone."""
    files = [each for each in directory.glob(f"*{SUFFIX}") if not _SHARD.search(each.name)]
    found = sorted([*directory.glob("*.safetensors.index*.json"), *files])
    return [each for each in found if each.name != _AUTOENCODER or len(found) == 1]


def _choose(directory: Path, found: list[Path]) -> Path:
    usual = {stem + suffix for stem in STEMS.values() for suffix in (SUFFIX, INDEX_SUFFIX)}
    meant = [each for each in found if each.name in usual] or found
    if len(meant) > 1:
        names = ", ".join(each.name for each in meant)
        raise InputError(f"weights {directory}: {names} are there; name the file that is meant")
    return meant[0]


def _refuse_empty(directory: Path) -> NoReturn:
    """Raise InputError: a directory without weights, by what it holds in their stead."""
    if shards := sorted(each for each in directory.glob(f"*{SUFFIX}") if _SHARD.search(each.name)):
        refuse(directory, f"{shards[0].name} is there, but no index of the shards", "download that as well")
    for each in sorted(directory.iterdir()):
        if each.suffix in (*PICKLES, ".gguf"):
            refuse_foreign(each)
    refuse(directory, "no file of safetensors is there", "name the file or directory of an MM-DiT's weights")
