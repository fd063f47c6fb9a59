"""What a LoRA's keys are called elsewhere: diffusers and peft, kohya, ComfyUI, XLabs.

peft     transformer.transformer_blocks.0.attn.to_q.lora_A.weight, .lora_B.weight; alpha in the file's header
kohya    lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight, .lora_up.weight, .alpha
comfy    diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight, .lora_B.weight, .alpha
XLabs    double_blocks.0.processor.qkv_lora1.down.weight, .up.weight (1 image, 2 text); no alpha; read only
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator
from torch import Tensor, nn

from fluxmodel.errors import InputError
from fluxmodel.lora import Lora, LowRank, split, swap_halves
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.weight_names import SWAPPED, linear_layers

Layout = Literal["peft", "kohya", "comfy"]
LAYOUTS: tuple[str, ...] = get_args(Layout)
ADAPTER_METADATA = "lora_adapter_metadata"
"""Key of the safetensors header under which diffusers keeps peft's configuration as JSON."""
_PEFT_HEADS = ("transformer.", "base_model.model.")
_CHECKPOINT_HEADS = ("diffusion_model.", "model.diffusion_model.")
_NATIVE_HEADS = ("", "base_model.model.", *_CHECKPOINT_HEADS)

FILES = {
    "peft": "pytorch_lora_weights.safetensors",
    "kohya": "kohya.safetensors",
    "comfy": "comfyui.safetensors",
}
"""Name of a layout's file in a directory; the first is where diffusers looks."""
LORA_CONFIG, LORA_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""What peft itself writes, and Fluxline once wrote."""
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")


def find_lora(path: str | Path) -> Path:
    """Return the file of a LoRA: the path itself, or the one of a directory, diffusers' name first.

    Raises:
        InputError: there is none, or no telling which.
    """
    place = Path(path)
    if place.is_file():
        if place.suffix in _PICKLED:
            raise InputError(
                f"{place}: pickle can run code, so it is not read; save the LoRA as .safetensors"
            )
        return place
    found = sorted(place.glob("*.safetensors")) if place.is_dir() else []
    for name in (*FILES.values(), LORA_WEIGHTS):
        if place / name in found:
            return place / name
    if len(found) == 1:
        return found[0]
    why = f"has {', '.join(each.name for each in found)}; name one" if found else "holds no LoRA; name one"
    raise InputError(f"{place}: {why}")


class Place(NamedTuple):
    """Where a key's matrix acts: a layer of ours, its rows, and whether its halves stand the other way round."""

    module: str
    rows: slice
    is_swapped: bool = False


def layer_shapes(config: MMDiTConfig) -> dict[str, tuple[int, int]]:
    """Return (out, in) of every linear layer; takes no memory at any size."""
    with torch.device("meta"):
        model = MMDiT(config)
    linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    return {name: (m.out_features, m.in_features) for name, m in linear.items()}


def places(config: MMDiTConfig) -> dict[str, Place]:
    """Return where the matrices of every known name act, the name without `.lora_A.weight` and the like."""
    found: dict[str, Place] = {}
    for module, parts in linear_layers(config).items():
        whole = Place(module, slice(0, sum(part.rows for part in parts)))
        for head in _NATIVE_HEADS:
            found[head + module] = whole
        found[f"lora_unet_{module.replace('.', '_')}"] = whole
        start = 0
        for part in parts:
            place = Place(module, slice(start, start + part.rows), module == SWAPPED)
            for head in ("", "transformer.", "base_model.model."):
                found[head + part.name] = place
            found[f"lora_transformer_{part.name.replace('.', '_')}"] = place
            start += part.rows
    for name, place in _xlabs(config).items():
        found |= {f"{head}{name}": place for head in ("", *_CHECKPOINT_HEADS)}
    return found


def _xlabs(config: MMDiTConfig) -> dict[str, Place]:
    """XLabs adapts attention alone: of a single block's linear1 the rows of q, k and v, of linear2 all of it."""
    shapes, found = layer_shapes(config), {}
    for number in range(config.depth):
        block = f"double_blocks.{number}"
        for digit, stream in ((1, "img"), (2, "txt")):
            for theirs, ours in (("qkv", "qkv"), ("proj", "proj")):
                module = f"{block}.{stream}_attn.{ours}"
                found[f"{block}.processor.{theirs}_lora{digit}"] = Place(module, slice(0, shapes[module][0]))
    for number in range(config.depth_single_blocks):
        block = f"single_blocks.{number}"
        found[f"{block}.processor.qkv_lora"] = Place(f"{block}.linear1", slice(0, 3 * config.hidden_size))
        found[f"{block}.processor.proj_lora"] = Place(f"{block}.linear2", slice(0, config.hidden_size))
    return found


class PeftScales(BaseModel):
    """How strongly peft's configuration says each layer's matrices act; what it leaves out is peft's default."""

    model_config = ConfigDict(frozen=True)

    r: int = Field(default=8, gt=0, lt=2**31, description="Rank where rank_pattern says none.")
    lora_alpha: FiniteFloat = Field(default=8, description="Alpha where alpha_pattern says none.")
    rank_pattern: dict[str, int] | None = Field(default=None, description="Ranks by the ends of names.")
    alpha_pattern: dict[str, FiniteFloat] | None = Field(
        default=None, description="Alphas by the ends of names."
    )
    use_rslora: bool | None = Field(default=None, description="Whether alpha is over the rank's square root.")

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _are_expressions(cls, values: dict[str, Any] | None) -> dict[str, Any] | None:
        for key in values or {}:
            try:
                re.compile(_ending(key))
            except re.error as error:
                raise ValueError(f'"{key}" is no regular expression ({error})') from error
        return values

    def alpha(self, stem: str, rank: int) -> float:
        """Return alpha such that alpha / rank is the scale of the layer whose key begins with `stem`.

        Raises:
            ValueError: the rank is not the one the configuration gives.
        """
        name = next((stem.removeprefix(head) for head in _PEFT_HEADS if stem.startswith(head)), stem)
        told = _first_match(self.rank_pattern, name, self.r)
        if told != rank:
            raise ValueError(f"has rank {rank}, its metadata say {told}")
        alpha = _first_match(self.alpha_pattern, name, self.lora_alpha)
        return alpha * rank**0.5 if self.use_rslora else alpha


def _ending(key: str) -> str:
    return rf"(.*\.)?({key})$"


def _first_match(values: Mapping[str, float] | None, name: str, otherwise: float) -> float:
    return next((v for key, v in (values or {}).items() if re.match(_ending(key), name)), otherwise)


Tensors = dict[str, Tensor]


def peft_tensors(lora: Lora, config: MMDiTConfig) -> tuple[Tensors, dict[str, str]]:
    """Return a LoRA's tensors in diffusers' names, and the header entry that tells their alpha."""
    pieces: dict[str, LowRank] = {}
    for module, parts in linear_layers(config).items():
        if module not in lora.modules:
            continue
        source = lora.modules[module]
        if module == SWAPPED:
            source = swap_halves(source)
        for part, piece in zip(parts, split(source, [part.rows for part in parts]), strict=True):
            pieces |= {part.name: piece} if piece is not None else {}
    tensors = {}
    for name, piece in pieces.items():
        tensors[f"transformer.{name}.lora_A.weight"] = piece.a.clone()
        tensors[f"transformer.{name}.lora_B.weight"] = piece.b
    settings = {f"transformer.{name}": value for name, value in _peft_settings(pieces).items()}
    return tensors, {ADAPTER_METADATA: json.dumps(settings, indent=2, sort_keys=True)}


def _peft_settings(pieces: Mapping[str, LowRank]) -> dict[str, Any]:
    """Return what peft needs to set up these layers; fields at their default are left out, so older versions read it.

    Names act as patterns on the ends of names, so that of the last layer, `proj_out`, is tied to the beginning:
    every single block has a `proj_out` too.
    """
    rank = Counter(piece.rank for piece in pieces.values()).most_common(1)[0][0]
    alpha = Counter(piece.alpha for piece in pieces.values()).most_common(1)[0][0]
    ends = {name for name in pieces if any(other.endswith(f".{name}") for other in pieces)}
    tied = {name: f"^{name}" if name in ends or name == "proj_out" else name for name in pieces}
    targets: Any = sorted(pieces)
    if "proj_out" in pieces:
        targets = "|".join(re.escape(name) for name in sorted(pieces))
    return {
        "r": rank,
        "lora_alpha": _plain(alpha),
        "rank_pattern": {tied[n]: p.rank for n, p in pieces.items() if p.rank != rank},
        "alpha_pattern": {tied[n]: _plain(p.alpha) for n, p in pieces.items() if p.alpha != alpha},
        "target_modules": targets,
        "peft_type": "LORA",
        "bias": "none",
    }


def _plain(number: float) -> float:
    return int(number) if number == int(number) else number


def kohya_tensors(lora: Lora, config: MMDiTConfig) -> tuple[Tensors, dict[str, str]]:
    """Return a LoRA's tensors in kohya's names."""
    return _native(lora, "lora_unet_", "_", ("lora_down", "lora_up")), {}


def comfy_tensors(lora: Lora, config: MMDiTConfig) -> tuple[Tensors, dict[str, str]]:
    """Return a LoRA's tensors in ComfyUI's names."""
    return _native(lora, "diffusion_model.", ".", ("lora_A", "lora_B")), {}


def _native(lora: Lora, head: str, dot: str, halves: tuple[str, str]) -> Tensors:
    tensors = {}
    for module, change in lora.modules.items():
        stem = head + module.replace(".", dot)
        tensors[f"{stem}.{halves[0]}.weight"] = change.a
        tensors[f"{stem}.{halves[1]}.weight"] = change.b
        tensors[f"{stem}.alpha"] = torch.tensor(float(change.alpha))
    return tensors


WRITERS: dict[str, Callable[[Lora, MMDiTConfig], tuple[Tensors, dict[str, str]]]] = {
    "peft": peft_tensors,
    "kohya": kohya_tensors,
    "comfy": comfy_tensors,
}
