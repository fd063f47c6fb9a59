"""The one place where image bytes become pixels: uint8 RGB, upright, alpha over white.

`PIL.Image.convert("RGB")` alone turns 16-bit images white and float images black, shows the colour hidden
under full transparency and ignores the EXIF rotation; each of these is handled here by name.
"""

import functools
import io
import math
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np

from fluxmodel.data.records import Reason
from fluxmodel.errors import FluxlineError

# Formats that Pillow decodes by itself; EPS and its kin would start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "ICO")
MAX_PIXELS = 64_000_000
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
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


class Refusal(FluxlineError):
    """The bytes give no image; `reason` says in one word why, `detail` what was found."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the first frame of an encoded image as contiguous uint8 RGB [height, width, 3].

    Raises:
        Refusal: whatever the bytes are, nothing else is raised.
    """
    if not data:
        raise Refusal(Reason.EMPTY_FILE, "the file holds 0 bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image, orientation = _load(data, max_pixels)
            pixels = _to_rgb(image)
    except Refusal:
        raise
    except Exception as error:  # Pillow's plugins raise every kind of error on damaged bytes
        text = " ".join(str(error).split())[:200] or type(error).__name__
        truncated = "truncat" in text.lower() or isinstance(error, EOFError)
        raise Refusal(Reason.TRUNCATED if truncated else Reason.CORRUPT, text) from error
    upright = _UPRIGHT.get(orientation)
    return np.ascontiguousarray(upright(pixels) if upright else pixels)


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
    return [name for name in FORMATS if name in Image.OPEN]


def _load(data: bytes, max_pixels: int):
    """Open, check the declared size, load the first frame; return it with its EXIF orientation."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.DecompressionBombError as error:
        raise Refusal(Reason.TOO_LARGE, str(error)) from error
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    width, height = image.size
    if width * height > max_pixels:
        raise Refusal(
            Reason.TOO_LARGE, f"the header declares {width} x {height} pixels, at most {max_pixels} pass"
        )
    if data.startswith(_PNG_SIGNATURE):
        _check_png(data)
    image.load()
    return image, _orientation(image)


def _unidentified(data: bytes) -> Refusal:
    """Name what the bytes look like instead of an image."""
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return Refusal(Reason.NOT_AN_IMAGE, "the content is a web page or other markup")
    if data.startswith((_PNG_SIGNATURE, b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"BM")):
        return Refusal(Reason.CORRUPT, "the content begins like an image but its header is damaged")
    return Refusal(
        Reason.NOT_AN_IMAGE, f"the content begins with {data[:8]!r}, which no supported format does"
    )


def _check_png(data: bytes) -> None:
    """Verify every chunk's checksum up to IEND, which Pillow skips for the pixel data."""
    position = len(_PNG_SIGNATURE)
    while True:
        if position + 12 > len(data):
            raise Refusal(Reason.TRUNCATED, f"the PNG ends at byte {len(data)}, before its last chunk")
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise Refusal(
                Reason.TRUNCATED, f"the PNG ends at byte {len(data)}, chunk {name!r} needs {end + 4}"
            )
        if zlib.crc32(data[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise Refusal(
                Reason.CORRUPT, f"the checksum of PNG chunk {name!r} at byte {position} does not match"
            )
        if name == b"IEND":
            return
        position = end + 4


def _orientation(image) -> int:
    """Return the EXIF orientation 1..8; damaged EXIF counts as upright (TIFF is turned by Pillow on load)."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    except Exception:  # EXIF is a TIFF of its own and as easily damaged; the pixels are not
        return 1


def _to_rgb(image) -> np.ndarray:
    """Convert any loaded mode to uint8 RGB [h, w, 3]."""
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return np.asarray(image)
    if mode.startswith("I;16") or mode in ("I", "F"):
        return _deep_to_rgb(image)
    if mode in ("RGBA", "LA", "PA", "P", "La", "RGBa") or "transparency" in image.info:
        return _over_white(np.asarray(image.convert("RGBA")))
    if mode in ("1", "L", "CMYK", "YCbCr", "HSV", "RGBX"):
        return np.asarray(image.convert("RGB"))
    raise Refusal(Reason.UNSUPPORTED_MODE, f"the colour model {mode!r} is not supported")


def _over_white(rgba: np.ndarray) -> np.ndarray:
    """Composite uint8 RGBA over white, rounding to nearest."""
    color, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:].astype(np.uint16)
    return ((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _deep_to_rgb(image) -> np.ndarray:
    """Map one channel of 16-bit, 32-bit or float values to uint8 grey by its range, not by clipping."""
    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)) or low < 0:
        raise Refusal(Reason.UNKNOWN_RANGE, f"values run from {low} to {high}, which is no known range")
    scale = _full_scale(image, high)
    grey = np.rint(values * (255 / scale)).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey = np.where(values == transparent, np.uint8(255), grey)
    return np.repeat(grey[..., None], 3, axis=2)


def _full_scale(image, high: float) -> float:
    """Return the value that means white: 1 or 255 for floats, else what the number of bits says."""
    if image.mode == "F":
        scale = 1.0 if high <= 1 else 255.0
    else:
        bits = getattr(image, "tag_v2", {}).get(258, (16,))
        scale = 4095.0 if tuple(np.atleast_1d(bits)) == (12,) else 65535.0
    if high > scale:
        raise Refusal(
            Reason.UNKNOWN_RANGE, f"the largest value is {high:g}, above {scale:g}, which would be white"
        )
    return scale
