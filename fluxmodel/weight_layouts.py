"""The two layouts of FLUX.1 weights in files, and the configuration that shapes alone tell.

"flux" has the original's names, "diffusers" those of its FluxTransformer2DModel; ComfyUI puts a prefix before the
original's. A `Piece` is one tensor of a file and the rows of our tensor that it fills.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.weight_names import SWAPPED, Part, linear_layers, norms

Layout = Literal["flux", "diffusers"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
Shapes = Mapping[str, tuple[int, ...]]

PREFIXES = ("", "model.diffusion_model.", "diffusion_model.")
# Networks that ComfyUI's checkpoints hold beside the one under the prefix.
NEIGHBOURS = ("vae.", "text_encoders.", "first_stage_model.", "cond_stage_model.")
_ROOTS: dict[Layout, tuple[str, ...]] = {
    "flux": ("img_in.", "txt_in.", "time_in.", "vector_in.", "guidance_in.", "double_blocks.", "single_blocks.",
             "final_layer."),
    "diffusers": ("x_embedder.", "context_embedder.", "time_text_embed.", "transformer_blocks.",
                  "single_transformer_blocks.", "norm_out.", "proj_out."),
}  # fmt: skip
_BLOCKS: dict[Layout, tuple[str, str]] = {
    "flux": ("double_blocks", "single_blocks"),
    "diffusers": ("transformer_blocks", "single_transformer_blocks"),
}
_MOST_BLOCKS = 1000
_FLUX_HEAD_DIM, _FLUX_AXES = 128, (16, 56, 56)
# Which axis of which of our tensors tells which width; most of them are told by many, and the majority is believed.
_WITNESSES = (
    ("in_channels", r"img_in\.weight", 1),
    ("context_in_dim", r"txt_in\.weight", 1),
    ("vec_in_dim", r"vector_in\.in_layer\.weight", 1),
    ("out_channels", r"final_layer\.linear\.(weight|bias)", 0),
    ("hidden_size", r"(img|txt)_in\.(weight|bias)|\w+_in\.\w+_layer\.(weight|bias)", 0),
    ("hidden_size", r".+_attn\.proj\.(weight|bias)|.+\.linear2\.(weight|bias)", 0),
    ("hidden_size", r"final_layer\.linear\.weight", 1),
    ("mlp_hidden_dim", r".+_mlp\.0\.(weight|bias)", 0),
    ("mlp_hidden_dim", r".+_mlp\.2\.weight", 1),
    ("head_dim", r".+_norm\.scale", 0),
)


class Piece(NamedTuple):
    """A tensor of a file by its name, and our tensor whose rows from `start` on it is."""

    name: str
    tensor: str
    start: int
    rows: int
    is_whole: bool
    is_swapped: bool


def find_layout(names: Iterable[str]) -> tuple[str, Layout] | None:
    """Return the prefix and layout that most names have, None where no name has any of FLUX.1."""
    counts: Counter[tuple[str, Layout]] = Counter()
    for name in names:
        for prefix in PREFIXES:
            for layout in LAYOUTS:
                counts[prefix, layout] += name.startswith(tuple(prefix + root for root in _ROOTS[layout]))
    best, num_names = counts.most_common(1)[0] if counts else (None, 0)
    return best if num_names else None


def pieces(config: MMDiTConfig, layout: Layout) -> list[Piece]:
    """Return all tensors of a file in a layout, each of our tensors' pieces one after the other."""
    made: list[Piece] = []
    for layer, parts in linear_layers(config).items():
        rows = sum(part.rows for part in parts)
        if layout == "flux":
            parts = (Part(layer, rows),)
        has_bias = config.qkv_bias or not layer.endswith("_attn.qkv")
        for kind in ("weight", "bias") if has_bias else ("weight",):
            start = 0
            for part in parts:
                is_swapped = layer == SWAPPED and layout == "diffusers"
                name, tensor = f"{part.name}.{kind}", f"{layer}.{kind}"
                made.append(Piece(name, tensor, start, part.rows, len(parts) == 1, is_swapped))
                start += part.rows
    for ours, theirs in norms(config).items():
        name = ours if layout == "flux" else theirs
        made.append(Piece(name, ours, 0, config.head_dim, True, False))
    return made


def infer_fields(shapes: Shapes, layout: Layout) -> dict[str, Any]:
    """Return the fields of the configuration that names and shapes tell; names without prefix.

    A field of which nothing is told is left out: `in_channels` where img_in.weight is missing, the widths inside
    blocks where there is no block.
    """
    double, single = _BLOCKS[layout]
    fields: dict[str, Any] = {
        "depth": _num_blocks(shapes, double),
        "depth_single_blocks": _num_blocks(shapes, single),
        "guidance_embed": any(
            name.startswith(("guidance_in.", "time_text_embed.guidance_embedder.")) for name in shapes
        ),
    }
    named = pieces(MMDiTConfig.model_validate(fields), layout)
    if fields["depth"]:
        biases = {p.name for p in named if p.tensor.endswith("_attn.qkv.bias")}
        fields["qkv_bias"] = not biases.isdisjoint(shapes)
    ours = {p.tensor: shapes[p.name] for p in named if p.is_whole and p.name in shapes}
    widths = _majorities(ours)
    hidden = widths.get("hidden_size")
    if hidden and "mlp_hidden_dim" not in widths:  # no double block: linear2 takes (attention, mlp)
        joined = Counter(
            s[1] - hidden for n, s in ours.items() if n.endswith(".linear2.weight") and len(s) > 1
        )
        if joined and (most := joined.most_common(1)[0][0]) > 0:
            widths["mlp_hidden_dim"] = most
    return fields | widths


def complete(fields: Mapping[str, Any], base: MMDiTConfig | None = None) -> MMDiTConfig:
    """Return the configuration with the fields told and, of the others, those of `base` or of FLUX.1.

    Raises:
        ValueError: the fields do not fit together, or what is not told cannot be known.
    """
    values = (base or MMDiTConfig()).model_dump() | {
        name: value for name, value in fields.items() if name in MMDiTConfig.model_fields
    }
    hidden = values["hidden_size"]
    if mlp := fields.get("mlp_hidden_dim"):
        values["mlp_ratio"] = _ratio(mlp, hidden)
    head_dim = fields.get("head_dim")
    if head_dim is None and (base is None or base.hidden_size != hidden):
        head_dim = hidden  # stands in: norms that would tell it are missing, which is an error of its own
    if head_dim:
        if hidden % head_dim:
            raise ValueError(f"norms are {head_dim} wide, of which hidden_size {hidden} is no multiple")
        values["num_heads"] = hidden // head_dim
        if base is None or base.head_dim != head_dim:
            values["axes_dim"] = _FLUX_AXES if head_dim == _FLUX_HEAD_DIM else (head_dim,)
    return MMDiTConfig.model_validate(values)


def untold(fields: Mapping[str, Any]) -> str | None:
    """Return what of the configuration cannot be known from shapes, and why; None where all can."""
    if not fields["depth"] and not fields["depth_single_blocks"]:
        return "num_heads, mlp_ratio and axes_dim cannot be known, for there is no block"
    if not fields["depth"] and "mlp_hidden_dim" not in fields:
        return "mlp_ratio cannot be known, for no layer that tells it is there"
    if fields.get("head_dim") != _FLUX_HEAD_DIM:
        width = fields.get("head_dim", "of unknown width")
        return (
            f"axes_dim cannot be known from shapes: heads are {width}, "
            f"and only for FLUX.1's {_FLUX_HEAD_DIM} it is {list(_FLUX_AXES)}"
        )
    return None


def disagreements(fields: Mapping[str, Any], config: MMDiTConfig, source: str) -> list[str]:
    """Return "field is value in `source`, value in the weights" of every field in which they differ."""
    told = dict(fields)
    hidden, head_dim = told.get("hidden_size"), told.pop("head_dim", None)
    if hidden and head_dim and hidden % head_dim == 0:
        told["num_heads"] = hidden // head_dim
    elif head_dim:
        told["head_dim"] = head_dim
    mlp = told.pop("mlp_hidden_dim", None)
    if mlp and hidden and (hidden != config.hidden_size or mlp != config.mlp_hidden_dim):
        told["mlp_ratio"] = _ratio(mlp, hidden)
    return [
        f"{name} is {getattr(config, name)} in {source}, {value} in the weights"
        for name, value in told.items()
        if getattr(config, name) != value
    ]


def _num_blocks(names: Iterable[str], stem: str) -> int:
    """Return one more than the greatest number of a block; absurd numbers belong to no block."""
    found = (re.match(rf"{stem}\.(\d{{1,4}})\.", name) for name in names)
    numbers = [int(match[1]) for match in found if match]
    return 1 + max((number for number in numbers if number < _MOST_BLOCKS), default=-1)


def _majorities(shapes: Shapes) -> dict[str, int]:
    votes: dict[str, Counter[int]] = {}
    for name, shape in shapes.items():
        for field, pattern, axis in _WITNESSES:
            if len(shape) > axis and shape[axis] and re.fullmatch(pattern, name):
                votes.setdefault(field, Counter())[shape[axis]] += 1
    return {field: counter.most_common(1)[0][0] for field, counter in votes.items()}


def _ratio(mlp: int, hidden: int) -> float:
    """Return the mlp_ratio that gives this width again: hidden times a rounded quotient may fall just below it."""
    ratio = mlp / hidden
    return ratio if int(hidden * ratio) == mlp else math.nextafter(ratio, math.inf)
