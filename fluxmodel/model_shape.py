"""What a model directory says of its cost, without its weights: Fluxline's own, FLUX.1's, or a bare network's."""

from __future__ import annotations

import json
from pathlib import Path

from fluxmodel.encoders.autoencoder import AutoencoderConfig
from fluxmodel.encoders.text import WordEncoderConfig
from fluxmodel.errors import InputError
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.module_files import read_config
from fluxmodel.presets import NETWORKS
from fluxmodel.pretrained_folder import model_name
from fluxmodel.sizing import PlannedJob
from fluxmodel.text_to_image import INDEX, ModelIndex
from fluxmodel.transformer_config import CONFIG_NAME, read_transformer_config
from fluxmodel.weights import read_mmdit_config

_LATENT_SIDE = 128
"""Of FLUX.1's images where nothing is said: 1024 pixels."""


def read_job(directory: Path) -> PlannedJob:
    """Return a job on the network of a directory: one image a step, at the size and the steps it is made for.

    Raises:
        InputError: a configuration is missing or wrong; the text names it.
    """
    index = directory / INDEX
    if not index.exists():
        return _flux(model_name(directory), _network(directory), downscale=8)
    try:
        said = json.loads(index.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{index}: cannot be read ({error}); name a model directory") from error
    if isinstance(said, dict) and said.get("_class_name") == "FluxPipeline":
        return _flux(model_name(directory), _network(directory / "transformer"), _vae_downscale(directory))
    if isinstance(said, dict) and "_class_name" in said:
        raise InputError(
            f"{index}: it is of a {said['_class_name']}; name a directory of FLUX.1 or of Fluxline"
        )
    return _own(directory)


def _network(folder: Path) -> MMDiTConfig:
    """Return what config.json says, or else what the weights' names and shapes tell."""
    path = folder / CONFIG_NAME
    return read_transformer_config(path) if path.exists() else read_mmdit_config(folder)


def _own(directory: Path) -> PlannedJob:
    index = read_config(ModelIndex, directory / INDEX)
    return PlannedJob(
        model_name(directory),
        _network(directory / "transformer"),
        image_size=index.image_size,
        downscale=read_config(AutoencoderConfig, directory / "autoencoder" / "config.json").downscale,
        text_tokens=read_config(WordEncoderConfig, directory / "text_encoder" / "config.json").max_tokens,
        num_steps=index.num_steps,
        num_passes=2 if index.guidance > 1 else 1,
    )


def _flux(name: str, config: MMDiTConfig, downscale: int) -> PlannedJob:
    like = NETWORKS["flux_dev" if config.guidance_embed else "flux_schnell"]
    size = _LATENT_SIDE * downscale
    return PlannedJob(name, config, size, downscale, like.text_tokens, num_steps=like.num_steps)


def _vae_downscale(directory: Path) -> int:
    path = directory / "vae" / "config.json"
    try:
        return 2 ** (len(json.loads(path.read_bytes())["block_out_channels"]) - 1)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: block_out_channels cannot be read ({error}); name a whole FLUX.1 directory"
        ) from error
