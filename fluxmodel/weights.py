"""The MM-DiT's weights in and out, under the original FLUX.1 names."""

from __future__ import annotations

from pathlib import Path

from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.module_files import load_module, read_config, save_module


def save_mmdit(model: MMDiT, directory: str | Path) -> None:
    """Write config.json and model.safetensors, original FLUX.1 names, into an existing directory."""
    (Path(directory) / "config.json").write_text(model.config.model_dump_json(indent=2) + "\n")
    save_module(model, Path(directory) / "model.safetensors")


def load_mmdit(directory: str | Path) -> MMDiT:
    """Read what `save_mmdit` wrote; the module is in evaluation mode.

    Raises:
        InputError: config.json or the weights are missing or do not fit.
    """
    model = MMDiT(read_config(MMDiTConfig, Path(directory) / "config.json"))
    return load_module(model, Path(directory) / "model.safetensors")
