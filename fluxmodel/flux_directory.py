"""A standard FLUX.1 directory, as `diffusers.FluxPipeline.save_pretrained` writes it, read part by part.

model_index.json     what the parts are
transformer/         the network, in diffusers' layout or the original one
vae/                 the autoencoder
text_encoder/, tokenizer/        CLIP
text_encoder_2/, tokenizer_2/    T5
scheduler/           how sampling times are shifted
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from fluxmodel.encoders.flux_autoencoder import FluxAutoencoder
from fluxmodel.encoders.flux_text import FluxText
from fluxmodel.encoders.ports import TextEncoder
from fluxmodel.errors import InputError
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.pretrained_folder import INDEX, read_json
from fluxmodel.time_shift import TimeShift, read_time_shift
from fluxmodel.weights import load_mmdit, read_mmdit_config

PIPELINE = "FluxPipeline"
PARTS = {
    "transformer": ("FluxTransformer2DModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("T5EncoderModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("T5Tokenizer", "T5TokenizerFast"),
    "scheduler": ("FlowMatchEulerDiscreteScheduler",),
}
"""Parts a FLUX.1 directory has, and the classes they are read as."""
MAX_TOKENS = {"dev": 512, "schnell": 256}
"""Tokens of T5."""
LATENT_SIDE = 128
"""Side of the latents of an image of 1024 pixels, which FLUX.1 draws where nothing is said."""


@dataclass(frozen=True)
class FluxParts:
    """What a FLUX.1 directory holds.

    Attributes:
        name: which FLUX.1 it is.
        transformer: the network.
        autoencoder: FLUX.1's.
        text_encoder: T5 and CLIP.
        time_shift: of sampling times.
    """

    name: Literal["dev", "schnell"]
    transformer: MMDiT
    autoencoder: FluxAutoencoder
    text_encoder: TextEncoder
    time_shift: TimeShift

    @property
    def image_size(self) -> int:
        """Side of the images it draws where nothing is said, pixels."""
        return LATENT_SIDE * self.autoencoder.config.downscale


def flux_name(directory: str | Path, variant: str = "") -> Literal["dev", "schnell"]:
    """Return which FLUX.1 lies in a directory: dev is told the guidance, schnell was distilled to do without.

    Args:
        directory: all parts have to be there; of the network's weights the headers are read, of the others nothing.
        variant: which is asked for; default whatever it is.

    Raises:
        InputError: it is another pipeline, a part is missing or of another class, or another variant is asked for.
    """
    _require_parts(Path(directory))
    config = read_mmdit_config(Path(directory) / "transformer")
    name = "dev" if config.guidance_embed else "schnell"
    if variant not in ("", name):
        raise InputError(f"variant is {variant!r}; this model is {name} and has no other")
    return name


def _require_parts(directory: Path) -> None:
    path = directory / INDEX
    index = read_json(path)
    if index.get("_class_name") != PIPELINE:
        raise InputError(
            f"{path}: _class_name is {index.get('_class_name')!r}; name a directory of {PIPELINE}, as FLUX.1 dev "
            "and schnell come."
        )
    for part, classes in PARTS.items():
        found = index.get(part)
        name = found[-1] if isinstance(found, list) and found else found
        if name not in classes:
            raise InputError(
                f"{path}: {part} is {name!r}, not {' or '.join(classes)}; name a directory with all parts of FLUX.1."
            )
        if not (directory / part).is_dir():
            raise InputError(
                f"{directory / part}: there is no such folder, though {INDEX} names it; "
                "download the directory whole."
            )


def load_flux_directory(
    directory: str | Path,
    variant: str = "",
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    read_text: Callable[[FluxText], TextEncoder] = FluxText.load,
) -> FluxParts:
    """Read a FLUX.1 directory.

    Args:
        directory: what diffusers' `save_pretrained` wrote, or `fluxline export`.
        variant: "dev" or "schnell"; default whatever it is.
        dtype: of all parts; default the one the network is stored in.
        device: where all parts go; default the GPU where there is one.
        read_text: reads the text encoders, or gives what answers for them.

    Raises:
        InputError: it is no FLUX.1 directory or another variant, a part is damaged, or parts do not fit each other.
    """
    directory = Path(directory)
    name = flux_name(directory, variant)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    time_shift = read_time_shift(directory / "scheduler" / "scheduler_config.json")
    shape = load_mmdit(directory / "transformer", dtype=dtype, device="meta")
    dtype = dtype or shape.img_in.weight.dtype
    try:  # the largest part comes last: what is wrong shows in seconds
        autoencoder = FluxAutoencoder.from_directory(directory / "vae", dtype).to(device)
        text = FluxText(directory, MAX_TOKENS[name], dtype, device)
        text_encoder = read_text(text)
        _require_fit(directory / "transformer", shape.config, autoencoder, text.widths())
        transformer = load_mmdit(directory / "transformer", dtype=dtype, device=device)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{directory}: the GPU's memory does not hold it; FLUX.1 takes 34 GB in bf16. Free it, or choose the CPU."
        ) from error
    return FluxParts(name, transformer, autoencoder, text_encoder, time_shift)


def _require_fit(
    path: Path, config: MMDiTConfig, autoencoder: FluxAutoencoder, text_widths: tuple[int, int]
) -> None:
    """Refuse a network that takes or gives other widths than the parts around it."""
    token_width, pooled_width = text_widths
    for field, width, part in (
        ("in_channels", 4 * autoencoder.config.latent_channels, "vae"),
        ("out_channels", 4 * autoencoder.config.latent_channels, "vae"),
        ("vec_in_dim", pooled_width, "text_encoder"),
        ("context_in_dim", token_width, "text_encoder_2"),
    ):
        if getattr(config, field) != width:
            raise InputError(
                f"{path}: {field} is {getattr(config, field)}, but {part} beside it needs {width}; put together "
                "parts of one model (Fill, Canny and Depth, which want an image too, cannot be drawn with)."
            )
