"""The MM-DiT's weights in and out: original FLUX.1 or diffusers layout, one file or shards, one tensor at a time."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fluxmodel.errors import InputError
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.tensor_files import DTYPES, Pending, TensorFiles, misfits, shortened, write_tensors
from fluxmodel.transformer_config import CONFIG_NAME, diffusers_values, read_transformer_config
from fluxmodel.weight_layouts import (
    LAYOUTS,
    NEIGHBOURS,
    Layout,
    Piece,
    complete,
    disagreements,
    find_layout,
    infer_fields,
    pieces,
    untold,
)
from fluxmodel.weight_places import INDEX_SUFFIX, STEMS, SUFFIX, find_weights, outdated

_HEADER_CONFIG = "mmdit_config"
_ASIDE = ".partial"
_DIFFUSERS_SHARD = 10**10
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_CURES = (
    (
        r"scaled_fp8$|\.(scale_weight|scale_input|weight_scale|input_scale|comfy_quant)$",
        "these are fp8 weights with scales, which are not read: take the bf16 weights they were made from",
    ),
    (
        r"\.(absmax|quant_map|nested_absmax|nested_quant_map|qweight|wscales)$|quant_state",
        "these are quantised weights, which are not read: take the bf16 weights they were made from",
    ),
    (r"lora_|\.lora", "this is a LoRA: load the model it is for, then call load_lora"),
)


class Fit(NamedTuple):
    """What a file is: the network in it, and how its names are to be read."""

    config: MMDiTConfig
    prefix: str
    layout: Layout


def load_mmdit(
    path: str | Path,
    config: MMDiTConfig | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> MMDiT:
    """Read an MM-DiT, in evaluation mode, tensor by tensor: the memory is that of the network and one tensor.

    Args:
        path: safetensors file, index of shards, or a directory of either; a pipeline's directory has transformer/.
        config: of the network; default what is written beside or in the file, else what the shapes tell.
        dtype: of the network; default as in the file, float8 as bfloat16.
        device: where the network shall lie, default the CPU; on "meta" nothing but the headers is read.

    Raises:
        InputError: the weights are missing, damaged or not safetensors, or do not fit; all misfits are named.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise InputError(f"dtype is {dtype}; weights are read in a floating one, such as torch.bfloat16")
    with TensorFiles(find_weights(Path(path))) as files:
        fit = _fit(files, config)
        with torch.device("meta"):
            model = MMDiT(fit.config)
        dtypes = _dtypes(files, fit, dtype)
        tensors: dict[str, Tensor] = {}
        for name, group in groupby(pieces(fit.config, fit.layout), key=lambda piece: piece.tensor):
            shape, place = model.get_parameter(name).shape, torch.device(device or "cpu")
            tensors[name] = _assemble(files, fit.prefix, list(group), shape, dtypes[name], place)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def read_mmdit_config(path: str | Path, config: MMDiTConfig | None = None) -> MMDiTConfig:
    """Return the configuration of the network that `load_mmdit` would read; reads headers only.

    Raises:
        InputError: as `load_mmdit`.
    """
    with TensorFiles(find_weights(Path(path))) as files:
        return _fit(files, config).config


def save_mmdit(
    model: MMDiT,
    path: str | Path,
    layout: Layout = "flux",
    dtype: torch.dtype | None = None,
    max_shard_size: int | str | None = None,
) -> None:
    """Write an MM-DiT, tensor by tensor: a directory with its config.json, or one file where `path` is *.safetensors.

    Args:
        model: its LoRAs merged.
        path: made where missing; weights this function wrote there before are replaced.
        layout: "flux" has the original's names, "diffusers" those of FluxTransformer2DModel and its config.json.
        dtype: default that of each tensor.
        max_shard_size: bytes, or such as "5GB"; default one file for "flux", "10GB" as diffusers has it for its own.

    Raises:
        InputError: an argument is none of these, diffusers has no such network, or the place cannot be written.
    """
    path = Path(path)
    if layout not in LAYOUTS:
        raise InputError(f'layout is "{layout}"; choose one of {", ".join(LAYOUTS)}')
    values = diffusers_values(model.config) if layout == "diffusers" else model.config.model_dump(mode="json")
    limit = _shard_bytes(max_shard_size, layout)
    pending = _pending(model, layout, dtype)
    if path.suffix == SUFFIX and max_shard_size is not None:
        raise InputError(f"max_shard_size is given, but {path} is one file; name a directory for shards")
    try:
        if path.suffix == SUFFIX:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(path, pending, {"format": "pt", _HEADER_CONFIG: model.config.model_dump_json()})
        else:
            path.mkdir(parents=True, exist_ok=True)
            _write_directory(path, layout, _shards(pending, limit), values)
    except OSError as error:
        raise InputError(
            f"weights {path}: cannot be written ({error.strerror}); choose another place"
        ) from error


# Reading


def _fit(files: TensorFiles, config: MMDiTConfig | None) -> Fit:
    """Return what the files are.

    Raises:
        InputError: they hold no MM-DiT or a faulty one, or the configuration is another or cannot be known.
    """
    found = find_layout(files.entries)
    if found is None:
        raise InputError(
            f"weights {files.path}: no layer of FLUX.1 is there, but {shortened(list(files.entries)[:3]) or 'nothing'}"
            f"{_cure(files.entries)}; name the weights of an MM-DiT"
        )
    prefix, layout = found
    config, source = _given_config(files, config)
    shapes = {name.removeprefix(prefix): s for name, s in files.shapes.items() if name.startswith(prefix)}
    fields = infer_fields(shapes, layout)
    try:
        told = complete(fields, config)
        with torch.device("meta"):
            ours = MMDiT(told).state_dict()
    except (ValueError, RuntimeError) as error:  # torch's, of sizes past all counting
        raise InputError(f"weights {files.path}: their shapes make no MM-DiT ({error})") from error
    wanted = {prefix + p.name: (p.rows, *ours[p.tensor].shape[1:]) for p in pieces(told, layout)}
    others = NEIGHBOURS if prefix else ()
    differing = disagreements(fields, config, source) if config else []
    faults = differing + misfits(wanted, {n: s for n, s in files.shapes.items() if not n.startswith(others)})
    faults += _odd_dtypes(files, wanted)
    if faults:
        what = "their configuration" if config else "the MM-DiT of their shapes"
        cure = _cure(files.entries) or (
            "; give the config they are of" if differing else "; take those of one whole MM-DiT"
        )
        raise InputError(f"weights {files.path} do not fit {what}: {'; '.join(faults)}{cure}")
    if config is None and (reason := untold(fields)):
        raise InputError(
            f"weights {files.path}: {reason}; give config=, or put its {CONFIG_NAME} beside them"
        )
    return Fit(config or told, prefix, layout)


def _given_config(files: TensorFiles, config: MMDiTConfig | None) -> tuple[MMDiTConfig | None, str]:
    """Return the configuration given, that in the file's header or that beside it, and what to call it."""
    if config is not None:
        return config, "the config given"
    if text := files.metadata.get(_HEADER_CONFIG):
        try:
            return MMDiTConfig.model_validate_json(text), f"{_HEADER_CONFIG} in its header"
        except ValueError as error:
            raise InputError(
                f"weights {files.path}: {_HEADER_CONFIG} in its header is faulty; give config="
            ) from error
    beside = files.path.with_name(CONFIG_NAME)
    return (read_transformer_config(beside) if beside.exists() else None), str(beside)


def _odd_dtypes(files: TensorFiles, wanted: dict[str, Any]) -> list[str]:
    odd = [f"{n} is {files.entries[n].dtype}" for n in wanted.keys() & files.entries.keys()
           if files.entries[n].dtype not in DTYPES]  # fmt: skip
    return [shortened(sorted(odd)) + ", no floating dtype that is read"] if odd else []


def _cure(names: Sequence[str] | dict[str, Any]) -> str:
    """Return what to do about a kind of file that is known by its names."""
    for pattern, cure in _CURES:
        if any(re.search(pattern, name) for name in names):
            return f"; {cure}"
    return ""


def _dtypes(files: TensorFiles, fit: Fit, dtype: torch.dtype | None) -> dict[str, torch.dtype]:
    """Return the dtype of each of our tensors.

    Raises:
        InputError: none is asked for and the layers' differ, so that they could not be multiplied.
    """
    kept: dict[str, torch.dtype] = {}
    for piece in pieces(fit.config, fit.layout):
        own = DTYPES[files.entries[fit.prefix + piece.name].dtype]
        own = dtype or (torch.bfloat16 if own.itemsize == 1 else own)
        kept[piece.tensor] = torch.promote_types(own, kept.get(piece.tensor, own))
    layers = {str(each) for name, each in kept.items() if not name.endswith(".scale")}  # norms work in fp32
    if len(layers) > 1:
        raise InputError(
            f"weights {files.path}: the layers are partly {' and partly '.join(sorted(layers))}; give the dtype to "
            "read them in, such as dtype=torch.bfloat16"
        )
    return kept


def _assemble(
    files: TensorFiles,
    prefix: str,
    group: list[Piece],
    shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Return one of our tensors, read from its pieces."""
    if device.type == "meta":
        return torch.empty(shape, dtype=dtype, device=device)
    if group[0].is_whole:
        return _swapped(files.read(prefix + group[0].name), group[0]).to(device, dtype)
    tensor = torch.empty(shape, dtype=dtype, device=device)
    for piece in group:
        tensor[piece.start : piece.start + piece.rows].copy_(files.read(prefix + piece.name))
    return tensor


def _swapped(tensor: Tensor, piece: Piece) -> Tensor:
    return torch.cat(tensor.chunk(2)[::-1]) if piece.is_swapped else tensor


# Writing


def _pending(model: MMDiT, layout: Layout, dtype: torch.dtype | None) -> list[Pending]:
    """Return the tensors of a file, cut from the model's when it is their turn."""
    state = model.state_dict()
    made: list[Pending] = []
    named = pieces(model.config, layout)
    if odd := sorted(state.keys() ^ {piece.tensor for piece in named}):
        raise InputError(
            f"the model has not just the layers of its config ({shortened(odd)}); merge its LoRA, or save_lora that"
        )
    for piece in named:
        tensor = state[piece.tensor]
        if tensor.is_meta:
            raise InputError("the model lies on the meta device, where there are no weights to save")
        rows = tensor[piece.start : piece.start + piece.rows]
        shape = tuple(rows.shape)
        made.append(Pending(piece.name, dtype or tensor.dtype, shape, partial(_swapped, rows, piece)))
    return made


def _shard_bytes(size: int | str | None, layout: Layout) -> int | None:
    if size is None:
        return _DIFFUSERS_SHARD if layout == "diffusers" else None
    match = re.fullmatch(r"(\d+)\s*([KMG]I?B)?", str(size).strip().upper())
    if not match or not int(match[1]):
        raise InputError(f'max_shard_size is "{size}"; give bytes, or such as "5GB"')
    return int(match[1]) * _UNITS.get(match[2] or "", 1)


def _shards(pending: list[Pending], limit: int | None) -> list[list[Pending]]:
    """Return the tensors in their order, cut where a file would pass the limit; a larger tensor has its own."""
    shards: list[list[Pending]] = [[]]
    size = 0
    for each in pending:
        if limit is not None and shards[-1] and size + each.num_bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(each)
        size += each.num_bytes
    return shards


def _write_directory(
    directory: Path, layout: Layout, shards: list[list[Pending]], values: dict[str, Any]
) -> None:
    """Write shards, config.json and index aside, then put them in the place of the old.

    Whatever moment it is cut off at, no mixture can be read as a network: while the old and the new weights stand
    side by side there is neither an index nor a config.json.
    """
    stem, num = STEMS[layout], len(shards)
    old = outdated(directory, layout)
    names = (
        [f"{stem}{SUFFIX}"]
        if num == 1
        else [f"{stem}-{i:05d}-of-{num:05d}{SUFFIX}" for i in range(1, num + 1)]
    )
    if folders := [each for each in old if each.is_dir()]:
        raise InputError(f"weights {folders[0]}: cannot be written (it is a directory); choose another place")
    aside = directory / _ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        for name, shard in zip(names, shards, strict=True):
            write_tensors(aside / name, shard, {"format": "pt"})
        written = [*names, CONFIG_NAME]
        (aside / CONFIG_NAME).write_text(json.dumps(values, indent=2) + "\n")
        if num > 1:
            homes = {each.name: name for name, shard in zip(names, shards, strict=True) for each in shard}
            size = sum(each.num_bytes for shard in shards for each in shard)
            index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(homes.items()))}
            written.append(f"{stem}{INDEX_SUFFIX}")
            (aside / written[-1]).write_text(json.dumps(index, indent=2) + "\n")
        for each in sorted([*old, directory / CONFIG_NAME], key=lambda each: each.name.endswith(SUFFIX)):
            each.unlink(missing_ok=True)
        for name in written:
            (aside / name).replace(directory / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
