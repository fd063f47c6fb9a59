"""The configuration of an MM-DiT beside its weights: config.json in our words or in those of diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fluxmodel.errors import InputError, first_fault
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.module_files import read_config

CONFIG_NAME = "config.json"
DIFFUSERS_CLASS = "FluxTransformer2DModel"
_MLP_RATIO, _THETA = 4.0, 10_000


class DiffusersConfig(BaseModel):
    """What diffusers' FluxTransformer2DModel is made with, its defaults included; its MLPs are 4 times as wide."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patch_size: int = Field(default=1, gt=0)
    in_channels: int = 64
    out_channels: int | None = None
    num_layers: int = 19
    num_single_layers: int = 38
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 4096
    pooled_projection_dim: int = 768
    guidance_embeds: bool = False
    axes_dims_rope: tuple[int, ...] = (16, 56, 56)

    def ours(self) -> MMDiTConfig:
        """Return the same network's configuration in our words."""
        return MMDiTConfig(
            in_channels=self.in_channels,
            out_channels=self.patch_size**2 * (self.out_channels or self.in_channels),
            vec_in_dim=self.pooled_projection_dim,
            context_in_dim=self.joint_attention_dim,
            hidden_size=self.num_attention_heads * self.attention_head_dim,
            mlp_ratio=_MLP_RATIO,
            num_heads=self.num_attention_heads,
            depth=self.num_layers,
            depth_single_blocks=self.num_single_layers,
            axes_dim=self.axes_dims_rope,
            theta=_THETA,
            guidance_embed=self.guidance_embeds,
        )


def read_transformer_config(path: Path) -> MMDiTConfig:
    """Read a config.json that Fluxline or diffusers wrote.

    Raises:
        InputError: it is missing, no JSON, of another network, or a field is wrong or unknown.
    """
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return read_config(MMDiTConfig, path)  # says what is wrong
    if not isinstance(values, dict) or not {"_class_name", "num_attention_heads"} & values.keys():
        return read_config(MMDiTConfig, path)
    if (name := values.get("_class_name", DIFFUSERS_CLASS)) != DIFFUSERS_CLASS:
        raise InputError(f"{path}: it is of a {name}, not of FLUX.1's {DIFFUSERS_CLASS}; name that directory")
    if "quantization_config" in values:
        raise InputError(f"{path}: quantization_config: quantised weights are not read; take them in bf16")
    try:
        told = {name: value for name, value in values.items() if not name.startswith("_")}
        return DiffusersConfig.model_validate(told).ours()
    except ValidationError as error:
        raise InputError(f"{path}: {first_fault(error)}") from error


def is_of_flux(path: Path) -> bool:
    """Tell whether a config.json is of an MM-DiT in our words or of diffusers' class, whatever its fields are."""
    try:
        read_transformer_config(path)
    except InputError:
        try:
            values = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(values, dict) and values.get("_class_name") == DIFFUSERS_CLASS
    return True


def diffusers_values(config: MMDiTConfig) -> dict[str, Any]:
    """Return the config.json from which diffusers builds the same network.

    Raises:
        InputError: diffusers' network has no such option; the field is named.
    """
    fixed = {"mlp_ratio": _MLP_RATIO, "theta": _THETA, "qkv_bias": True}
    for name, value in fixed.items():
        if getattr(config, name) != value:
            raise InputError(
                f"{name} is {getattr(config, name)}, but diffusers' {DIFFUSERS_CLASS} has {value} and no such option; "
                'write layout "flux"'
            )
    values = DiffusersConfig(
        in_channels=config.in_channels,
        out_channels=None if config.out_channels == config.in_channels else config.out_channels,
        num_layers=config.depth,
        num_single_layers=config.depth_single_blocks,
        attention_head_dim=config.head_dim,
        num_attention_heads=config.num_heads,
        joint_attention_dim=config.context_in_dim,
        pooled_projection_dim=config.vec_in_dim,
        guidance_embeds=config.guidance_embed,
        axes_dims_rope=config.axes_dim,
    )
    return {"_class_name": DIFFUSERS_CLASS, **values.model_dump(mode="json")}
