"""Numbers wider than a byte, brought to bytes by rounding to nearest over their whole range.

Pillow keeps 16-bit colour as its high bytes only. The low bytes come from a second pass over the same data
that takes the two bytes of each number in the other order.
"""

import math
import re
import sys
from collections.abc import Callable

import numpy as np

from fluxmodel.data.records import Reason
from fluxmodel.data.refusal import Refusal

_DEEP_COLOR = re.compile("(RGBX?|RGBA|RGBa|CMYK|LA);16([BLN])")
# Tags of TIFF 6.0 and what they say.
_BITS, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 262, 284, 339
_WHITE_IS_ZERO, _SEPARATE, _SIGNED = 0, 2, 2
_OTHER_ORDER = {"B": "L", "L": "B"}
_PIXELS_AT_ONCE = 1 << 20


def rounded_to_bytes(image, reopen: Callable):
    """Return the image of Pillow with 8 bits a channel, or None if it has no more; `image` is opened, unloaded.

    `reopen` opens the same bytes again. A colour key becomes alpha.
    """
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image.load()
        return _grey(image)
    raw, order = _raw_mode(image)
    if not order:
        return None
    if raw == "LA":
        _load_as(image, lambda _: "RGBA")  # the four bytes of a pixel are grey and alpha, high byte first
        return _assembled(image, lambda rows: _words(rows(image)[..., ::2], rows(image)[..., 1::2]), "LA")
    other = reopen()
    _load_as(image, _in_order(order))
    _load_as(other, _in_order(_OTHER_ORDER[order]))
    key = image.info.get("transparency")

    def values(rows) -> np.ndarray:
        block = _words(rows(image), rows(other))
        if raw == "RGBa":
            return _unmultiplied(block)
        return _with_alpha(block, key) if isinstance(key, tuple) else block

    return _assembled(image, values, "RGBA" if isinstance(key, tuple) else image.mode)


def _raw_mode(image) -> tuple[str, str]:
    """Return what 16-bit colours are stored as and the order of their bytes, B or L; ("", "") for others."""
    args = image.tile[0].args if image.tile else ""
    stored = args if isinstance(args, str) else str(args[0]) if args else ""
    match = _DEEP_COLOR.fullmatch(stored)
    if match:
        order = match[2] if match[2] != "N" else "L" if sys.byteorder == "little" else "B"
        return match[1], order
    tags = getattr(image, "tag_v2", None)
    if (
        tags
        and len(stored) == 1
        and tags.get(_PLANES) == _SEPARATE
        and 16 in np.atleast_1d(tags.get(_BITS, 8))
    ):
        if image.mode == "CMYK":
            raise Refusal(Reason.UNSUPPORTED_MODE, "16-bit inks in separate planes are not supported")
        return "RGBA", "L" if tags.prefix == b"II" else "B"
    return "", ""


def _in_order(order: str) -> Callable[[str], str]:
    """Return what renames a raw mode so that the bytes of each number are taken in that order."""

    def renamed(stored: str) -> str:
        name = stored.split(";")[0]
        return f"{'RGBA' if name == 'RGBa' else name};16{order}"

    return renamed


def _load_as(image, renamed: Callable[[str], str]) -> None:
    """Load the pixels of an opened image with its raw modes renamed."""
    tiles = []
    for tile in image.tile:
        args = renamed(tile.args) if isinstance(tile.args, str) else (renamed(tile.args[0]), *tile.args[1:])
        tiles.append(tile._replace(args=args))
    image.tile = tiles
    image.load()


def _assembled(image, values: Callable, mode: str):
    """Round `values` of some rows at a time, so that little is held wider than a byte; return the image."""
    from PIL import Image

    width, height = image.size
    step = max(1, _PIXELS_AT_ONCE // width)
    pieces = []
    for top in range(0, height, step):
        box = (0, top, width, min(top + step, height))
        block = values(lambda source, box=box: np.asarray(source.crop(box)))
        pieces.append(((block.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    pixels = np.concatenate(pieces)
    if mode == "CMYK":
        return Image.frombytes(mode, (width, height), pixels.tobytes())
    return Image.fromarray(pixels)


def _words(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    return high.astype(np.uint16) << 8 | low


def _unmultiplied(block: np.ndarray) -> np.ndarray:
    """Divide uint16 colours by their alpha."""
    alpha = np.maximum(block[..., 3:].astype(np.float64), 1)
    colors = np.minimum(np.rint(block[..., :3] * (65535 / alpha)), 65535).astype(np.uint16)
    return np.concatenate([colors, block[..., 3:]], axis=-1)


def _with_alpha(block: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
    """Add alpha 0 where the colour is the key."""
    clear = (block == np.array(key)).all(-1, keepdims=True)
    return np.concatenate([block, np.where(clear, np.uint16(0), np.uint16(65535))], axis=-1)


def _grey(image):
    """Return one channel of 16-bit, 32-bit or float values as L, or LA under a colour key."""
    from PIL import Image

    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)) or low < 0:
        raise Refusal(Reason.UNKNOWN_RANGE, f"values run from {low} to {high}, which is no known range")
    scale = _full_scale(image, high)
    inverted = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    grey = np.empty(values.shape, np.uint8)
    step = max(1, _PIXELS_AT_ONCE // image.width)
    for top in range(0, len(grey), step):
        share = values[top : top + step].astype(np.float64) * (255 / scale)
        grey[top : top + step] = np.rint(255 - share if inverted else share)
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return Image.fromarray(grey)
    return Image.fromarray(np.stack([grey, np.where(values == key, np.uint8(0), np.uint8(255))], -1))


def _full_scale(image, high: float) -> float:
    """Return the value that means white: 1 or 255 for floats, else what the number of bits says."""
    tags = getattr(image, "tag_v2", {})
    bits, kind = (
        tuple(np.atleast_1d(tags.get(tag, default))) for tag, default in ((_BITS, 16), (_SAMPLE_FORMAT, 1))
    )
    if image.mode == "F":
        scale = 1.0 if high <= 1 else 255.0
    elif bits == (16,) and kind == (_SIGNED,):
        scale = 32767.0
    else:
        scale = 4095.0 if bits == (12,) else 65535.0
    if high > scale:
        raise Refusal(
            Reason.UNKNOWN_RANGE, f"the largest value is {high:g}, above {scale:g}, which would be white"
        )
    return scale
