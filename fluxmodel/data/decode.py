"""The one place where image bytes become pixels: uint8 sRGB, upright, alpha over white, the first frame.

`PIL.Image.convert("RGB")` alone turns 16-bit images white and float images black, cuts 16-bit colours off
instead of rounding them, shows the colour hidden under full transparency and ignores the EXIF rotation and
colour profiles; each of these is handled here by name.
"""

import functools
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fluxmodel.data.color_profile import ProfileUse, rgb_of
from fluxmodel.data.deep_pixels import rounded_to_bytes
from fluxmodel.data.image_header import (
    PNG_SIGNATURE,
    best_of_icon,
    check_declared,
    check_size,
    jpeg_with_other_end,
    png_without_texts,
    reason_of,
    unidentified,
)
from fluxmodel.data.quiet_decoders import quiet_decoders
from fluxmodel.data.records import Reason
from fluxmodel.data.refusal import Refusal

__all__ = [
    "MAX_PIXELS",
    "DecodedImage",
    "Refusal",
    "decode",
    "decode_image",
    "encode_png",
    "fit",
]

# Formats that Pillow decodes by itself; EPS and its kin would start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "ICO")
MAX_PIXELS = 64_000_000
# A TIFF may name one piece of the picture again and again; whole files name each once a colour plane.
_MAX_PAINTED = 8
# What libjpeg fills in where blocks are missing.
_FILLED = 128
_PIXELS_AT_ONCE = 1 << 20
_ORIENTATION = 0x0112
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image.swapaxes(0, 1)[::-1, ::-1],
    8: lambda image: image.swapaxes(0, 1)[::-1],
}


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """The pixels, uint8 sRGB [height, width, 3], and what of the file they do not show.

    `has_more_frames`: an animation or further pages were left out; `has_alpha`: it was laid over white;
    `profile`: what became of an embedded ICC profile.
    """

    pixels: np.ndarray
    format: str
    has_more_frames: bool
    has_alpha: bool
    profile: ProfileUse


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the first frame of an encoded image as contiguous uint8 sRGB [height, width, 3].

    Raises:
        Refusal: whatever the bytes are, nothing else is raised.
    """
    return decode_image(data, max_pixels).pixels


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Return the first frame of an encoded image together with what was left out or converted.

    Raises:
        Refusal: whatever the bytes are, nothing else is raised.
    """
    if not data:
        raise Refusal(Reason.EMPTY_FILE, "the file holds 0 bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decoded(data, max_pixels)
    except Refusal:
        raise
    except MemoryError as error:  # says something of this machine now, nothing of the bytes
        raise Refusal(Reason.OUT_OF_MEMORY, "there was no memory to decode it") from error
    except Exception as error:  # Pillow's plugins raise every kind of error on damaged bytes
        text = " ".join(str(error).split())[:200] or type(error).__name__
        reason = Reason.TRUNCATED if isinstance(error, EOFError) else reason_of(text)
        raise Refusal(reason, text) from error


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """Return the centre square of uint8 RGB [h, w, 3] at [size, size, 3]; the identity where it already is.

    Shrinking averages over areas (a Hamming window: Pillow's box counts whole pixels only and shifts edges
    at fractional ratios), enlarging interpolates cubically.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    from PIL import Image

    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    resample = Image.Resampling.HAMMING if side >= size else Image.Resampling.BICUBIC
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(image).resize((size, size), resample, box=box))


def encode_png(image: np.ndarray) -> bytes:
    """Return uint8 RGB [h, w, 3] as PNG bytes, losslessly and quickly (compression level 1)."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


@functools.cache
def _formats() -> list[str]:
    """Return those of `FORMATS` that this build of Pillow reads."""
    from PIL import Image

    Image.init()
    quiet_decoders()
    return [name for name in FORMATS if name in Image.OPEN]


def _decoded(data: bytes, max_pixels: int) -> DecodedImage:
    """Decode; every error of Pillow passes through."""
    data = best_of_icon(data, max_pixels)
    check_declared(data, max_pixels)
    image = _opened(data, max_pixels)
    covered = image.tile[0][1] if image.format == "GIF" and image.tile else None
    colors = rounded_to_bytes(image, lambda: _opened(data, max_pixels))
    if colors is None:
        image.load()
        colors = image
        _check_jpeg_end(image, data)
    color, alpha = _planes(colors, image, data)
    pixels, profile = rgb_of(color, _profile_of(image))
    if covered and covered != (0, 0, *image.size):
        alpha = _only_inside(covered, image.size, alpha)
    if alpha is not None:
        pixels = _over_white(pixels, alpha)
    upright = _UPRIGHT.get(_orientation(image))
    return DecodedImage(
        pixels=np.ascontiguousarray(upright(pixels) if upright else pixels),
        format=image.format or "",
        has_more_frames=_has_more(image),
        has_alpha=alpha is not None,
        profile=profile,
    )


def _opened(data: bytes, max_pixels: int):
    """Open without decoding and check what the header declares."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.DecompressionBombError as error:
        raise Refusal(Reason.TOO_LARGE, str(error)) from error
    except UnidentifiedImageError as error:
        raise unidentified(data, _said_of(data)) from error
    except ValueError as error:
        if not data.startswith(PNG_SIGNATURE) or "text" not in str(error).lower():
            raise
        image = Image.open(io.BytesIO(png_without_texts(data)), formats=["PNG"])
    check_size(*image.size, max_pixels)
    boxes = (tile[1] or (0, 0, *image.size) for tile in image.tile)
    painted = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    if painted > _MAX_PAINTED * image.width * image.height:
        raise Refusal(
            Reason.CORRUPT, f"{len(image.tile)} pieces cover {painted} pixels, many times the image"
        )
    return image


def _said_of(data: bytes) -> str:
    """Return what the plugin that knows the signature finds wrong, which Pillow keeps to itself."""
    from PIL import Image

    for name in _formats():
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(data[:16]) is True:
            try:
                factory(io.BytesIO(data), "")
            except Exception as error:  # the same variety as on opening
                return " ".join(str(error).split())[:200] or type(error).__name__
    return ""


def _has_more(image) -> bool:
    """Return whether the file goes on after its first frame; a damaged second frame is none."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # only the first frame is asked for
        return False


def _check_jpeg_end(image, data: bytes) -> None:
    """Refuse a JPEG whose scan ends before its last block, where libjpeg fills in grey without a word.

    Grey in the last corner may be real: only then is the file decoded again with another end.
    """
    from PIL import Image

    if image.format not in ("JPEG", "MPO") or image.mode not in ("L", "RGB"):
        return
    last = image.getpixel((image.width - 1, image.height - 1))
    if last not in (_FILLED, (_FILLED,) * 3):
        return
    other = jpeg_with_other_end(data)
    if other and not np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(other)))):
        raise Refusal(Reason.TRUNCATED, "the JPEG's scan ends before its last rows")


def _profile_of(image) -> bytes | None:
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) and profile else None


def _orientation(image) -> int:
    """Return the EXIF orientation 1..8; damaged EXIF counts as upright (TIFF is turned by Pillow on load)."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    except Exception:  # EXIF is a TIFF of its own and as easily damaged; the pixels are not
        return 1


def _planes(colors, image, data: bytes):
    """Split 8-bit colours into an image without alpha (L, RGB, CMYK or LAB) and alpha, uint8 [h, w] or None.

    `image` is what was opened, `colors` the same or what became of its deeper numbers.
    """
    mode, key = colors.mode, image.info.get("transparency")
    if mode in ("LA", "La"):
        pair = np.asarray(colors.convert("LA"))
        return _picture(pair[..., 0]), pair[..., 1]
    if mode in ("RGBA", "RGBa", "PA") or (mode == "P" and colors.has_transparency_data):
        rgba = np.asarray(colors.convert("RGBA"))
        return _picture(rgba[..., :3]), rgba[..., 3]
    if colors is not image:
        return colors, None
    if mode in ("1", "L", "RGB") and key is not None:
        return colors.convert("L") if mode == "1" else colors, _keyed(colors, key, data)
    if mode in ("1", "P", "YCbCr", "HSV", "RGBX"):
        return colors.convert("L" if mode == "1" else "RGB"), None
    if mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        return _inverted(
            colors
        ), None  # Pillow takes every such file for Adobe's, which stores ink upside down
    if mode in ("L", "RGB", "CMYK", "LAB"):
        return colors, None
    raise Refusal(Reason.UNSUPPORTED_MODE, f"the colour model {mode!r} is not supported")


def _picture(pixels: np.ndarray):
    from PIL import Image

    return Image.fromarray(pixels)


def _inverted(image):
    from PIL import ImageChops

    return ImageChops.invert(image)


def _keyed(image, key: int | tuple[int, ...], data: bytes) -> np.ndarray:
    """Return alpha uint8 [h, w] of an image in which one colour, `key` as the file writes it, is clear."""
    values = np.asarray(image.convert("L") if image.mode == "1" else image)
    if data.startswith(PNG_SIGNATURE) and image.mode != "1":
        most = (1 << data[24]) - 1  # greys of 2 and 4 bits are stretched over a byte, their key is not
        key = tuple((part & most) * (255 // most) for part in np.atleast_1d(key))
    same = (values if values.ndim == 3 else values[..., None]) == np.array(key)
    return np.where(same.all(-1), np.uint8(0), np.uint8(255))


def _only_inside(
    box: tuple[int, int, int, int], size: tuple[int, int], alpha: np.ndarray | None
) -> np.ndarray:
    """Return alpha that is 0 outside of the box, where the first frame of a GIF draws nothing."""
    inside = np.zeros((size[1], size[0]), np.uint8)
    left, top, right, bottom = box
    inside[top:bottom, left:right] = 255 if alpha is None else alpha[top:bottom, left:right]
    return inside


def _over_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Composite uint8 RGB and alpha [h, w] over white, rounding to nearest, some rows at a time."""
    shown = np.empty(color.shape, np.uint8)
    step = max(1, _PIXELS_AT_ONCE // color.shape[1])
    for top in range(0, len(color), step):
        rows = slice(top, top + step)
        share = alpha[rows, :, None].astype(np.uint16)
        shown[rows] = (color[rows].astype(np.uint16) * share + 255 * (255 - share) + 127) // 255
    return shown
