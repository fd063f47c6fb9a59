"""Embedded ICC profiles: colours as sRGB, by Little CMS with the perceptual intent.

A profile that is damaged, of another colour model than the pixels, or too large is ignored and said so: most
such files are sRGB with a bad tag, and a picture a shade off teaches less harm than a picture lost.
"""

import functools
import io
from typing import Literal

import numpy as np

ProfileUse = Literal["none", "srgb", "converted", "ignored"]
# The largest common CMYK profiles (FOGRA, SWOP) take 0.5 to 3 MB.
_MAX_PROFILE_BYTES = 16_000_000
# Rounding in Little CMS moves sRGB by at most one level; what moves no colour further is sRGB.
_SAME_LEVELS = 1
_SPACES = {"RGB ": ("RGB", "L"), "GRAY": ("L",), "CMYK": ("CMYK",)}


def rgb_of(image, profile: bytes | None) -> tuple[np.ndarray, ProfileUse]:
    """Return an L, RGB, CMYK or LAB image of Pillow as uint8 sRGB [h, w, 3], and what became of its profile."""
    if image.mode == "LAB":
        return np.asarray(_lab_transform().apply(image)), "converted"
    transform, use = _transform(profile, image.mode) if profile else (None, "none")
    if transform is None:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB")), use
    if transform.input_mode == "L":
        return _levels(transform)[np.asarray(image)], use
    source = image if image.mode == transform.input_mode else image.convert(transform.input_mode)
    return np.asarray(transform.apply(source)), use


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str):
    """Return the way from a profile to sRGB, None where the pixels stay as they are, and what was done."""
    from PIL import ImageCms

    if len(profile) > _MAX_PROFILE_BYTES:
        return None, "ignored"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = getattr(source.profile, "xcolor_space", "")
        if mode not in _SPACES.get(space, ()):
            return None, "ignored"
        taken = _SPACES[space][0]
        # The table that Little CMS makes of a grey curve is 10 levels off in the darks of linear light.
        flags = ImageCms.Flags.NOOPTIMIZE if taken == "L" else ImageCms.Flags.NONE
        perceptual = ImageCms.Intent.PERCEPTUAL
        transform = ImageCms.ImageCmsTransform(source, _srgb(), taken, "RGB", perceptual, flags=flags)
    except Exception:  # Little CMS and its wrapper raise several kinds of error on damaged profiles
        return None, "ignored"
    return (None, "srgb") if taken == "RGB" and _is_identity(transform) else (transform, "converted")


@functools.cache
def _srgb():
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@functools.cache
def _lab_transform():
    from PIL import ImageCms

    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    return ImageCms.ImageCmsTransform(lab, _srgb(), "LAB", "RGB", ImageCms.Intent.PERCEPTUAL)


def _levels(transform) -> np.ndarray:
    """Return the colour of each of the 256 greys, uint8 [256, 3]."""
    from PIL import Image

    return np.asarray(transform.apply(Image.fromarray(np.arange(256, dtype=np.uint8)[None])))[0]


def _is_identity(transform) -> bool:
    """Return whether a transform leaves a grid of colours and all greys where they are."""
    from PIL import Image

    levels = np.arange(0, 256, 17, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 3)
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    colors = np.concatenate([grid, grey])[None]
    moved = np.asarray(transform.apply(Image.fromarray(colors))).astype(int) - colors
    return int(np.abs(moved).max()) <= _SAME_LEVELS
