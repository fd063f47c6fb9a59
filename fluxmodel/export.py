"""A model written for others: the pipeline diffusers loads, or its network as one file under the original names.

A FLUX.1 directory is exported whole. Our own models have a text encoder and an autoencoder that diffusers has no
class for, so of those the network goes out alone.
"""

from __future__ import annotations

import math
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from fluxmodel.errors import InputError
from fluxmodel.flux_directory import PARTS, flux_name
from fluxmodel.lora_files import convert_lora, load_lora
from fluxmodel.lora_layouts import LAYOUTS as LORA_LAYOUTS
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.module_files import read_config
from fluxmodel.pretrained_folder import INDEX, is_pickle, is_pipeline, model_name, read_json, refuse_pickles
from fluxmodel.progress import Progress, silent
from fluxmodel.tensor_files import TensorFiles
from fluxmodel.text_to_image import ModelIndex
from fluxmodel.transformer_config import CONFIG_NAME
from fluxmodel.weight_layouts import find_layout
from fluxmodel.weight_places import STEMS, find_weights
from fluxmodel.weights import load_mmdit, read_mmdit_config, save_mmdit

Layout = Literal["diffusers", "flux"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LEFT_BEHIND = (
    "diffusers has no class for this model's text encoder and autoencoder, so its network was written alone: "
    "load it with diffusers.FluxTransformer2DModel.from_pretrained, or with fluxmodel.load_mmdit."
)
NETWORK_ALONE = "This is a network alone, and so is what was written: the encoders stay where they are."
_CHUNK = 1 << 26


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        directory: where.
        layout: of the network.
        files: below the directory.
        num_bytes: of all files.
        note: what could not be written; empty where the export is whole.
    """

    directory: Path
    layout: Layout
    files: tuple[str, ...]
    num_bytes: int
    note: str


def export(
    model: str | Path,
    output: str | Path,
    layout: Layout = "diffusers",
    variant: str = "",
    lora: str | Path | None = None,
    lora_scale: float = 1.0,
    lora_layout: str = "",
    dtype: str = "",
    progress: Progress = silent,
) -> Export:
    """Write a model for others; what is there under its name is whole.

    Args:
        model: a FLUX.1 directory, a directory that Fluxline wrote, or a network alone, a file or a folder.
        output: a directory that is missing or empty.
        layout: "diffusers" for what it loads, "flux" for one file under the original names.
        variant: which network of one of our own models; default the one it is made for.
        lora: a file or directory; merged into the network, unless a layout is given; default none.
        lora_scale: how strongly it is merged.
        lora_layout: "peft" (diffusers'), "kohya" or "comfy": the LoRA is written in it, in loras/NAME/, and the
            network stays as it is.
        dtype: of the network, "fp32", "bf16" or "fp16"; default as it is stored.
        progress: told the bytes of copied files.

    Raises:
        InputError: an argument is out of its range, the model cannot be read, or the output cannot be written.
    """
    source, output = Path(model), Path(output)
    if layout not in ("diffusers", "flux"):
        raise InputError(f"layout is {layout!r}; it is diffusers or flux")
    if dtype and dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}; it is one of {', '.join(DTYPES)}")
    if not math.isfinite(lora_scale):
        raise InputError(f"lora_scale is {lora_scale}; give a finite number, such as 0.8")
    plan = _plan(source, variant)
    _require_place(source, output)
    beside = _beside(lora, lora_scale, lora_layout)
    lora = None if beside else lora
    with _whole(output) as partial:
        is_kept = lora is None and not dtype and plan.is_pipeline and _is_theirs(plan.network)
        if layout == "diffusers" and plan.is_pipeline:
            _copy(_unchanged_files(source, is_kept), source, partial, progress)
        if layout == "flux":
            target = partial / f"{plan.file}.safetensors"
            save_mmdit(_network(plan.network, lora, lora_scale, dtype), target, layout)
        elif not is_kept:
            save_mmdit(_network(plan.network, lora, lora_scale, dtype), partial / "transformer", layout)
        if beside:
            place = partial / "loras" / model_name(beside)
            place.mkdir(parents=True)
            convert_lora(beside, place, lora_layout, read_mmdit_config(plan.network))
        found = sorted(path for path in partial.rglob("*") if path.is_file())
        files = tuple(path.relative_to(partial).as_posix() for path in found)
        num_bytes = sum(path.stat().st_size for path in found)
    return Export(output, layout, files, num_bytes, plan.note)


@dataclass(frozen=True)
class _Plan:
    """Where the network lies, what its file is called, whether a whole pipeline is around it, and what is left out."""

    network: Path
    file: str
    is_pipeline: bool = False
    note: str = ""


def _plan(source: Path, variant: str) -> _Plan:
    if is_pipeline(source):
        return _Plan(source / "transformer", f"flux1-{flux_name(source, variant)}", is_pipeline=True)
    if (source / INDEX).is_file():
        folder, index = read_config(ModelIndex, source / INDEX).choose(variant)
        return _Plan(source / folder, index.name, note=LEFT_BEHIND)
    if variant:
        raise InputError(f"variant is {variant!r}, but {source} is a network alone; leave it out")
    return _Plan(source, model_name(source), note=NETWORK_ALONE)


def _is_theirs(folder: Path) -> bool:
    """Return whether diffusers loads a network as it lies there: by config.json, file name and layers."""
    config, weights = folder / CONFIG_NAME, find_weights(folder)
    if not config.is_file() or "_class_name" not in read_json(config):
        return False
    with TensorFiles(weights) as files:
        return weights.name.startswith(STEMS["diffusers"]) and find_layout(files.entries) == ("", "diffusers")


def _beside(lora: str | Path | None, lora_scale: float, lora_layout: str) -> Path | None:
    """Return the LoRA that is written beside the network; None where it is merged or there is none."""
    if not lora_layout:
        return None
    if lora_layout not in LORA_LAYOUTS:
        raise InputError(f"lora_layout is {lora_layout!r}; it is one of {', '.join(LORA_LAYOUTS)}")
    if lora is None:
        raise InputError(f"lora_layout is {lora_layout!r}, but there is no lora; name one")
    if lora_scale != 1.0:
        raise InputError(
            f"lora_scale is {lora_scale}, but a LoRA beside the network is scaled by who loads it; leave it out"
        )
    return Path(lora)


def _network(path: Path, lora: str | Path | None, lora_scale: float, dtype: str) -> MMDiT:
    network = load_mmdit(path, dtype=DTYPES.get(dtype))
    return network if lora is None else load_lora(network, lora, lora_scale)


def _unchanged_files(source: Path, is_network_kept: bool) -> list[Path]:
    """Return the files of a FLUX.1 directory that go out as they are, its licence among them; never a pickle."""
    files = [source / INDEX, *sorted(source.glob("LICENSE*"))]
    for part in PARTS:
        refuse_pickles(source / part)
        if part != "transformer" or is_network_kept:
            files += [path for path in sorted((source / part).rglob("*")) if not is_pickle(path)]
    return [path for path in files if path.is_file()]


def _copy(files: list[Path], source: Path, target: Path, progress: Progress) -> None:
    total, done = sum(path.stat().st_size for path in files), 0
    for path in files:
        name = path.relative_to(source)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as reader, (target / name).open("wb") as writer:
            while chunk := reader.read(_CHUNK):
                writer.write(chunk)
                done += len(chunk)
                progress(done, total, name.parts[0])


def _require_place(source: Path, output: Path) -> None:
    if output.is_dir():
        if any(output.iterdir()):
            raise InputError(f"{output} is not empty; name a directory that is missing or empty")
    elif os.path.lexists(output):
        raise InputError(f"{output} is a file; name a directory that is missing or empty")
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{output} lies in the model itself, {source}; name a directory elsewhere")


@contextmanager
def _whole(output: Path) -> Iterator[Path]:
    """Yield a folder beside `output` that takes its name once it is whole, and goes where it is not.

    Raises:
        InputError: it cannot be written.
    """
    partial = output.parent / f".{output.name}-{uuid.uuid4().hex[:8]}"
    try:
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, output)
    except OSError as error:
        raise InputError(
            f"{output}: cannot be written ({error.filename or output}: {error.strerror or error}); "
            "name a place of yours with room for it"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
