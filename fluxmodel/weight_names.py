"""The MM-DiT's layers by the original FLUX.1 names, and what diffusers calls them.

Fused layers of the original are several layers in diffusers, whose rows follow each other in the order given here.
The halves of `SWAPPED` stand the other way round there: (scale, shift) for (shift, scale).
"""

from __future__ import annotations

from typing import NamedTuple

from fluxmodel.mmdit.config import MMDiTConfig

SWAPPED = "final_layer.adaLN_modulation.1"


class Part(NamedTuple):
    """Consecutive rows of a layer, and the name of those rows in diffusers."""

    name: str
    rows: int


def linear_layers(config: MMDiTConfig) -> dict[str, tuple[Part, ...]]:
    """Return what each linear layer is in diffusers, in the order of our modules; names without `.weight`."""
    hidden = config.hidden_size
    layers = {"img_in": (Part("x_embedder", hidden),), "txt_in": (Part("context_embedder", hidden),)}
    embedders = {"time_in": "timestep_embedder", "vector_in": "text_embedder"}
    if config.guidance_embed:
        embedders["guidance_in"] = "guidance_embedder"
    for ours, theirs in embedders.items():
        layers[f"{ours}.in_layer"] = (Part(f"time_text_embed.{theirs}.linear_1", hidden),)
        layers[f"{ours}.out_layer"] = (Part(f"time_text_embed.{theirs}.linear_2", hidden),)
    for number in range(config.depth):
        layers |= _double_block(config, f"double_blocks.{number}", f"transformer_blocks.{number}")
    for number in range(config.depth_single_blocks):
        layers |= _single_block(config, f"single_blocks.{number}", f"single_transformer_blocks.{number}")
    layers["final_layer.linear"] = (Part("proj_out", config.out_channels),)
    layers[SWAPPED] = (Part("norm_out.linear", 2 * hidden),)
    return layers


def norms(config: MMDiTConfig) -> dict[str, str]:
    """Return the name in diffusers of every norm's scale; whole tensor names on both sides."""
    names = {}
    for number in range(config.depth):
        ours, theirs = f"double_blocks.{number}", f"transformer_blocks.{number}.attn"
        for stream, added in (("img", ""), ("txt", "added_")):
            for kind, letter in (("query", "q"), ("key", "k")):
                names[f"{ours}.{stream}_attn.norm.{kind}_norm.scale"] = (
                    f"{theirs}.norm_{added}{letter}.weight"
                )
    for number in range(config.depth_single_blocks):
        for kind, letter in (("query", "q"), ("key", "k")):
            names[f"single_blocks.{number}.norm.{kind}_norm.scale"] = (
                f"single_transformer_blocks.{number}.attn.norm_{letter}.weight"
            )
    return names


def _double_block(config: MMDiTConfig, ours: str, theirs: str) -> dict[str, tuple[Part, ...]]:
    hidden, mlp = config.hidden_size, config.mlp_hidden_dim
    layers = {}
    for stream, norm, qkv, out, feed in (
        ("img", "norm1", ("to_q", "to_k", "to_v"), "to_out.0", "ff"),
        ("txt", "norm1_context", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", "ff_context"),
    ):
        layers |= {
            f"{ours}.{stream}_mod.lin": (Part(f"{theirs}.{norm}.linear", 6 * hidden),),
            f"{ours}.{stream}_attn.qkv": tuple(Part(f"{theirs}.attn.{each}", hidden) for each in qkv),
            f"{ours}.{stream}_attn.proj": (Part(f"{theirs}.attn.{out}", hidden),),
            f"{ours}.{stream}_mlp.0": (Part(f"{theirs}.{feed}.net.0.proj", mlp),),
            f"{ours}.{stream}_mlp.2": (Part(f"{theirs}.{feed}.net.2", hidden),),
        }
    return layers


def _single_block(config: MMDiTConfig, ours: str, theirs: str) -> dict[str, tuple[Part, ...]]:
    hidden = config.hidden_size
    queries = tuple(Part(f"{theirs}.attn.to_{letter}", hidden) for letter in "qkv")
    return {
        f"{ours}.modulation.lin": (Part(f"{theirs}.norm.linear", 3 * hidden),),
        f"{ours}.linear1": (*queries, Part(f"{theirs}.proj_mlp", config.mlp_hidden_dim)),
        f"{ours}.linear2": (Part(f"{theirs}.proj_out", hidden),),
    }
