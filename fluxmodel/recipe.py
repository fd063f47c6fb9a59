"""How an image was drawn, carried by its PNG as text, so that it can be drawn again."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import TypeAdapter, ValidationError

from fluxmodel.errors import InputError, first_fault
from fluxmodel.flow.solver_names import Solver

KEYWORD = "fluxline"


@dataclass(frozen=True)
class Recipe:
    """All that decides an image's bytes.

    Attributes:
        prompt: what it was to show.
        seed: of its noise.
        num_steps: solver steps.
        guidance: told to a network that embeds it; else of classifier-free guidance, where 1 is unguided.
        height: pixels.
        width: pixels.
        variant: of the model.
        lora: merged into it; empty for none.
        lora_scale: how strongly.
        model: sha256 of the model's files; empty where nobody wrote it down.
        batch_size: images drawn together; another number may change a pixel's last digit.
        solver: what followed the flow; images from before there was a choice are Euler's.
        true_guidance: of classifier-free guidance beside embedded one.
        negative: what classifier-free guidance led away from.
        lora_digest: sha256 of the LoRA's file; empty for none, and in images from before it was written down.
    """

    prompt: str
    seed: int
    num_steps: int
    guidance: float
    height: int
    width: int
    variant: str
    lora: str
    lora_scale: float
    model: str
    batch_size: int
    solver: Solver = "euler"
    true_guidance: float = 1.0
    negative: str = ""
    lora_digest: str = ""


def encode_png(image: Image.Image, recipe: Recipe) -> bytes:
    """Return a PNG file with its recipe as JSON in the text chunk `fluxline`; equal input gives equal bytes."""
    text = PngInfo()
    text.add_text(KEYWORD, json.dumps(asdict(recipe)))
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=text)
    return stream.getvalue()


def read_recipe(path: str | Path) -> Recipe:
    """Read the recipe of an image that Fluxline drew.

    Raises:
        InputError: it is no PNG, carries no recipe, or one with a field that is none of ours.
    """
    try:
        with Image.open(path) as image:
            text = image.info[KEYWORD]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: no recipe there; name a PNG that Fluxline drew") from error
    try:
        return TypeAdapter(Recipe).validate_json(text)
    except ValidationError as error:
        raise InputError(
            f"{path}: no recipe there that can be read ({first_fault(error)}); name a PNG that Fluxline drew"
        ) from error
