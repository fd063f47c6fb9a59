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
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from fluxmodel.lora import Lora, LowRank, split, swap_halves
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.weight_names import SWAPPED, linear_layers

Layout = Literal["peft", "kohya", "comfy"]
LAYOUTS: tuple[str, ...] = get_args(Layout)
ADAPTER_METADATA = "lora_adapter_metadata"
"""Key of the safetensors header under which diffusers keeps peft's configuration as JSON."""
_HEADS = ("transformer.", "base_model.model.", "diffusion_model.", "lora_unet_", "lora_transformer_")


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
        for head in ("", "diffusion_model.", "base_model.model."):
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
        found |= {name: place, f"diffusion_model.{name}": place}
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


@dataclass(frozen=True)
class PeftScales:
    """How strongly peft's configuration says each layer's matrices act."""

    settings: Mapping[str, Any]

    def alpha(self, stem: str, rank: int) -> float:
        """Return alpha such that alpha / rank is the scale of the layer whose key begins with `stem`.

        Raises:
            ValueError: the rank is not the one the configuration gives.
        """
        name = next((stem.removeprefix(head) for head in _HEADS[:2] if stem.startswith(head)), stem)
        told = self._of("rank_pattern", name, self.settings.get("r", rank))
        if told != rank:
            raise ValueError(f"has rank {rank}, its metadata say {told}")
        alpha = float(self._of("alpha_pattern", name, self.settings.get("lora_alpha", rank)))
        return alpha * rank**0.5 if self.settings.get("use_rslora") else alpha

    def _of(self, pattern: str, name: str, otherwise: Any) -> Any:
        values = self.settings.get(pattern) or {}
        found = [value for key, value in values.items() if re.match(rf"(.*\.)?({key})$", name)]
        return found[0] if found else otherwise


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
