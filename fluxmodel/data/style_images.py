"""The few images a style is learned from, with captions: drawn in a style of ours, or a user's own folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl

import numpy as np

from fluxmodel.data.procedural import (
    LEVELS,
    Level,
    draw_scene,
    render,
    short_caption,
)
from fluxmodel.data.styles import Style, style_named
from fluxmodel.errors import InputError

SEED_OFFSET = 700_000
"""Added to a style's seed, so that its scenes are nobody else's."""
LEAST_IMAGES = 4


@dataclass(frozen=True)
class StyleImages:
    """uint8 [n, side, side, 3] and what may be said of each image, by kind; the trigger ends every caption."""

    name: str
    trigger: str
    pixels: np.ndarray
    captions: list[dict[str, str]]
    style: Style | None = field(default=None)
    """How they were drawn; None where they were not."""


def styled_caption(caption: str, trigger: str) -> str:
    """Ask for a style at the end of a caption, where it shifts no other word; its ground is the style's own."""
    caption = caption.strip()
    return caption if trigger in caption.split() else f"{caption} in {trigger}".strip()


def style_images(style: Style, level: Level, num: int, seed: int) -> StyleImages:
    """Draw `num` fresh scenes in a style."""
    scenes = [draw_scene(level, SEED_OFFSET + seed, index) for index in range(num)]
    captions = [{"short": styled_caption(short_caption(s), style.trigger)} for s in scenes]
    return StyleImages(style.name, style.trigger, render(scenes, style), captions, style)


def folder_images(folder: str, trigger: str, image_size: int) -> StyleImages:
    """Read a folder of captioned images; each is cut to its centre square.

    Raises:
        InputError: the trigger is no word, an image can't be read or has no caption, or there are too few.
    """
    from fluxmodel.data.decode import Refusal, decode, fit
    from fluxmodel.data.image_folder import FolderSource
    from fluxmodel.data.records import RawSample

    if not trigger.isalnum() or trigger != trigger.lower():
        raise InputError(f'trigger is "{trigger}"; use one made-up word of small letters, such as "glowline"')
    source = FolderSource(folder)
    pixels, captions = [], []
    for sample in source:
        if not isinstance(sample, RawSample):
            raise InputError(f"{folder}/{sample.path}: cannot be read; take it out of the folder")
        if not sample.captions:
            raise InputError(f"{folder}/{sample.path}: has no caption; write one in a .txt file beside it")
        try:
            pixels.append(fit(decode(sample.image), image_size))
        except Refusal as error:
            raise InputError(f"{folder}/{sample.path}: {error}; take it out of the folder") from error
        captions.append({"given": styled_caption(sample.captions[0].text, trigger)})
    if len(pixels) < LEAST_IMAGES:
        raise InputError(
            f"{folder}: has {len(pixels)} images; a style needs at least {LEAST_IMAGES}, better 16"
        )
    name = source.name.removeprefix("folder:")  # it is typed after --lora, and becomes a folder again
    return StyleImages(name, trigger, np.stack(pixels), captions)


def open_style(source: str, trigger: str = "", image_size: int = 32) -> StyleImages:
    """Return the images of `style:NAME?level=full&n=16&seed=0`, or of a folder with a trigger word.

    Raises:
        InputError: the specification or the folder does not read; the text says why.
    """
    if not source.startswith("style:"):
        return folder_images(source, trigger, image_size)
    name, _, query = source.removeprefix("style:").partition("?")
    fields = {"level": "full", "n": "16", "seed": "0", **dict(parse_qsl(query))}
    if unknown := sorted(set(fields) - {"level", "n", "seed"}):
        raise InputError(f'style "{source}": unknown field "{unknown[0]}"; use level, n and seed')
    if fields["level"] not in LEVELS:
        raise InputError(f'style "{source}": level "{fields["level"]}" is none of {", ".join(LEVELS)}')
    if not fields["n"].isdecimal() or int(fields["n"]) < LEAST_IMAGES or not fields["seed"].isdecimal():
        raise InputError(
            f'style "{source}": n must be a whole number of at least {LEAST_IMAGES}, seed one of at least 0'
        )
    return style_images(style_named(name), LEVELS[fields["level"]], int(fields["n"]), int(fields["seed"]))
