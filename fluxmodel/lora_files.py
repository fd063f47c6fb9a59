"""LoRAs of the MM-DiT in and out of files: every layout read, and what is written read back and compared.

A directory may hold one LoRA in several layouts, each in a file of the name its readers look for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fluxmodel.errors import InputError, first_fault
from fluxmodel.lora import Lora
from fluxmodel.lora_adapters import adapters_of
from fluxmodel.lora_keys import TOLERANCE, largest_difference, lora_of, refuse
from fluxmodel.lora_layouts import (
    ADAPTER_METADATA,
    FILES,
    LAYOUTS,
    LORA_CONFIG,
    LORA_WEIGHTS,
    WRITERS,
    PeftScales,
    find_lora,
)
from fluxmodel.lora_merging import merge
from fluxmodel.lora_passport import PASSPORT, Passport, Proof, file_digest, read_passport
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.transformer import MMDiT

_NOT_PLAIN = ("use_dora", "use_qalora", "lora_bias", "alora_invocation_tokens", "modules_to_save")
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def save_lora(model: MMDiT, path: str | Path, layout: str = "peft", folded: bool = False) -> Proof:
    """Write the one adapter of a model; see `write_lora`.

    Raises:
        InputError: the layout is none we write, or the model has no adapter, or several.
    """
    return write_lora(adapters_of(model), path, model.config, layout, folded)


def load_lora(model: MMDiT, path: str | Path, scale: float = 1.0, ignore_text_encoder: bool = False) -> MMDiT:
    """Merge a LoRA into a model's weights for good, in place; return the model.

    Args:
        model: keeps its weights where the LoRA has none.
        path: a file in any layout, or a directory with one.
        scale: how strongly; 0 changes nothing.
        ignore_text_encoder: leave out what is meant for a text encoder, instead of refusing the file.

    Raises:
        InputError: the file is missing or damaged, or a key of it has no place in this model.
    """
    merge(model, [(read_lora(path, model.config, ignore_text_encoder), scale)], keep=False)
    return model


def read_lora(path: str | Path, config: MMDiTConfig | None = None, ignore_text_encoder: bool = False) -> Lora:
    """Read a LoRA in any layout; `config` is the network's shape, FLUX.1 dev's by default.

    Raises:
        InputError: the file is missing or damaged, or a key of it has no place in such a network; names the keys.
    """
    place = find_lora(path)
    tensors, header = _open(place)
    scales = _scales(place, header)
    lora = lora_of(tensors, config or MMDiTConfig(), str(place), scales, ignore_text_encoder)
    told = {k: v for k, v in header.items() if k not in (ADAPTER_METADATA, "format")}
    return replace(lora, header={k: v for k, v in told.items() if not k.startswith("sshs_")})


def write_lora(
    lora: Lora,
    path: str | Path,
    config: MMDiTConfig | None = None,
    layout: str = "peft",
    folded: bool = False,
    passport: Passport | None = None,
) -> Proof:
    """Write a LoRA, read it back, compare each layer's change, and only then give the file its name.

    Args:
        lora: what to write; its tensors keep their dtype.
        path: a file that ends in .safetensors, or an existing directory, which gets a file of the layout's name.
        config: the network's shape; FLUX.1 dev's by default.
        layout: "peft" (diffusers' names), "kohya" or "comfy".
        folded: put alpha / rank into B, so that readers that know no alpha do right too; alpha is then the rank.
        passport: goes into the file's header; without one, the header the LoRA came with.

    Raises:
        InputError: the layout is none we write, the path no such place, or the LoRA does not fit the shape.
    """
    config = config or MMDiTConfig()
    if layout not in LAYOUTS:
        raise InputError(f'layout is "{layout}"; LoRAs are written as {", ".join(LAYOUTS)}')
    place = Path(path) / FILES[layout] if Path(path).is_dir() else Path(path)
    if place.suffix != ".safetensors" or not place.parent.is_dir():
        raise InputError(
            f"{place}: name a file that ends in .safetensors, in a directory that exists, or the directory"
        )
    if place.name == LORA_WEIGHTS:
        raise InputError(
            f"{place}: files of that name are peft's and need its {LORA_CONFIG}; choose another name"
        )
    _require_fit(lora, config, str(place))
    tensors, told = WRITERS[layout](lora.folded() if folded else lora, config)
    header = {"format": "pt", **lora.header, **told}
    if passport is not None:
        header[PASSPORT] = passport.model_dump_json(exclude={"files"})
    partial = place.with_name(f".{place.name}.partial")
    try:
        save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, partial, metadata=header)
        _sort_header(partial)
        back, header_back = _open(partial)
        scales = _scales(partial, header_back)
        difference = largest_difference(lora, lora_of(back, config, str(place), scales))
        if not difference <= TOLERANCE:
            raise InputError(
                f"LoRA {place}: a layer changed by {difference:.1e} while it was written; not kept"
            )
        os.replace(partial, place)
    except OSError as error:
        raise InputError(f"{place}: cannot be written ({error}); choose another place") from error
    finally:
        partial.unlink(missing_ok=True)
    return Proof(layout=layout, sha256=file_digest(place), largest_difference=difference)


def convert_lora(
    source: str | Path,
    target: str | Path,
    layout: str = "peft",
    config: MMDiTConfig | None = None,
    folded: bool = False,
    ignore_text_encoder: bool = False,
) -> Proof:
    """Write a LoRA of any layout in another one; each layer's change is compared on reading and on writing.

    Args:
        source: a file in any layout, or a directory with one.
        target: a file that ends in .safetensors, or an existing directory.
        layout: "peft" (diffusers' names), "kohya" or "comfy".
        config: the network's shape; FLUX.1 dev's by default.
        folded: put alpha / rank into B, for readers that know no alpha.
        ignore_text_encoder: leave out what is meant for a text encoder, instead of refusing the file.

    Raises:
        InputError: a file, a key or the layout will not do; names it.
    """
    lora = read_lora(source, config, ignore_text_encoder)
    passport = read_passport(source)
    return write_lora(lora, target, config, layout, folded, passport)


def _open(place: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(place), framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{place}: no LoRA can be read there ({error}); get it again") from error


def _scales(place: Path, header: Mapping[str, str]) -> PeftScales | None:
    """Return what peft's configuration says, in the header or beside the file; None where there is none.

    Raises:
        InputError: it is missing where it has to be, damaged, or of another kind than a plain LoRA.
    """
    told, text = f"{place}, {ADAPTER_METADATA}", header.get(ADAPTER_METADATA)
    if text is None and place.name == LORA_WEIGHTS:
        told = str(place.with_name(LORA_CONFIG))
        try:
            text = Path(told).read_bytes()
        except OSError as error:
            raise InputError(f"{told}: cannot be read ({error.strerror}); it belongs to the LoRA") from error
    if text is None:
        return None
    try:
        settings = json.loads(text)
        if not isinstance(settings, dict):
            raise ValueError("it is no table of settings")
        prefixed = {k.removeprefix("transformer."): v for k, v in settings.items() if "." in k}
        settings = {k: v for k, v in {**settings, **prefixed}.items() if "." not in k}
        scales = PeftScales.model_validate(settings)
    except (ValueError, OverflowError, RecursionError) as error:
        why = first_fault(error) if isinstance(error, ValidationError) else error
        raise InputError(f"LoRA {told}: is no configuration of peft ({why}); get the file again") from error
    odd = [name for name in _NOT_PLAIN if settings.get(name)]
    odd += ["peft_type"] if settings.get("peft_type", "LORA") != "LORA" else []
    start = str(settings.get("init_lora_weights"))
    odd += [f"init_lora_weights={start}"] if start.startswith(_CHANGE_THE_BASE) else []
    if odd:
        raise InputError(
            f"LoRA {told}: {', '.join(odd)} is no plain LoRA's; convert it to one with peft first"
        )
    return scales if settings else None


def _sort_header(place: Path) -> None:
    """Put the header's entries in order: safetensors leaves theirs to chance, and equal LoRAs are equal files."""
    with place.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(size))
        entries["__metadata__"] = dict(sorted(entries["__metadata__"].items()))
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size, "the same entries in another order take no more room"
        file.seek(8)
        file.write(text.ljust(size))


def _require_fit(lora: Lora, config: MMDiTConfig, source: str) -> None:
    tensors = {}
    for name, change in lora.modules.items():
        tensors |= {f"{name}.lora_A.weight": change.a, f"{name}.lora_B.weight": change.b}
    if not tensors:
        refuse(source, ["there is no layer in it to write"])
    lora_of(tensors, config, source)
