"""A folder of bad and odd files, built by code: every kind with what must become of it.

What a good file shows is derived here from the numbers that were written, never from a decoder.
"""

import gzip
import io
import struct
import zipfile
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fluxmodel.data.records import Reason
from tests.fluxmodel.data import odd_images as odd
from tests.fluxmodel.data.pictures import encoded, flipped, picture, raw_png

SIDE = 32
BOMB = 30_000


@dataclass(frozen=True)
class Kind:
    """One kind of file: why it is refused, or the pixels it must give within `tolerance` levels."""

    name: str
    data: bytes
    reason: Reason | None = None
    pixels: np.ndarray | None = None
    tolerance: float = 0


def deep(seed: int, channels: int = 3) -> np.ndarray:
    """Random uint16 values [SIDE, SIDE, channels]; a byte cut off instead of rounded shows."""
    return np.random.default_rng(seed).integers(0, 65536, (SIDE, SIDE, channels), np.uint16)


def flat(*color: float) -> np.ndarray:
    """Return one colour, [1, 1, 3]; it compares with an image of any size."""
    return np.array(color if len(color) == 3 else color * 3, np.float64).reshape(1, 1, 3)


def rounded(values: np.ndarray, white: float = 65535) -> np.ndarray:
    """Return values at 0..255 to the nearest integer, grey as three equal channels."""
    scaled = np.rint(values.astype(np.float64) * (255 / white))
    return np.repeat(scaled, 3, axis=2) if scaled.shape[2] == 1 else scaled


def over_white(color: np.ndarray, alpha: np.ndarray, white: float = 65535) -> np.ndarray:
    """Return what colour and alpha [h, w, 1] show over white, 0..255, unrounded."""
    share = alpha.astype(np.float64) / white
    shown = share * color.astype(np.float64) + (1 - share) * white
    return np.repeat(shown, 3 // shown.shape[2], axis=2) * (255 / white)


def good_png_kinds() -> list[Kind]:
    """Kinds of PNG that are kept."""
    photo, rgb, rgba, grey, la = picture(1), deep(2), deep(3, 4), deep(4, 1), deep(5, 2)
    some = np.random.default_rng(6).integers(0, 4, (SIDE, SIDE), np.uint8)
    packed = (some.reshape(SIDE, -1, 4) << np.array([6, 4, 2, 0], np.uint8)).sum(2).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    clear = odd.png_chunk(b"tRNS", struct.pack(">H", 2))
    key = odd.png_chunk(b"tRNS", struct.pack(">HHH", *map(int, rgb[3, 5])))
    keyed = rounded(rgb)
    keyed[3, 5] = 255
    bits = np.random.default_rng(7).integers(0, 2, (SIDE, SIDE), np.uint8)
    palette = Image.fromarray(some, "P")
    palette.putpalette([255, 0, 0, 0, 0, 200, 9, 9, 9, 40, 50, 60])
    colors = np.array([[255, 127.5, 127.5], [0, 0, 200], [255, 255, 255], [40, 50, 60]])
    text = odd.png_chunk(b"zTXt", b"Comment\0\0" + _deflated(2_000_000))
    second = odd.png_chunk(b"acTL", struct.pack(">II", 2, 0))
    return [
        Kind("rgb.png", encoded(photo), pixels=photo),
        Kind("trailing garbage.png", encoded(picture(8)) + b"garbage" * 99, pixels=picture(8)),
        Kind("16-bit rgb.png", odd.png_of(rgb, 2), pixels=rounded(rgb)),
        Kind(
            "16-bit rgba.png",
            odd.png_of(rgba, 6),
            pixels=over_white(rgba[..., :3], rgba[..., 3:]),
            tolerance=1.5,
        ),
        Kind("16-bit grey.png", odd.png_of(grey, 0), pixels=rounded(grey)),
        Kind("16-bit la.png", odd.png_of(la, 4), pixels=over_white(la[..., :1], la[..., 1:]), tolerance=1.5),
        Kind("16-bit colour key.png", odd.png_of(rgb, 2, before=key), pixels=keyed),
        Kind(
            "2-bit colour key.png",
            odd.png(SIDE, SIDE, 2, 0, rows, before=clear),
            pixels=np.where(some == 2, 255, some * 85.0)[..., None],
        ),
        Kind(
            "palette alpha.png",
            encoded(palette, transparency=bytes([128, 255, 0, 255])),
            pixels=colors[some],
            tolerance=1,
        ),
        Kind("1-bit.png", encoded(Image.fromarray(bits * 255).convert("1")), pixels=bits[..., None] * 255),
        Kind("hidden colour.png", encoded(Image.new("RGBA", (SIDE, SIDE), (9, 8, 7, 0))), pixels=flat(255)),
        Kind("grey alpha.png", encoded(Image.new("LA", (SIDE, SIDE), (10, 51))), pixels=flat(206)),
        Kind("text bomb.png", _with_chunk(encoded(picture(9)), text), pixels=picture(9)),
        Kind("animated.png", _with_chunk(encoded(picture(10)), second), pixels=picture(10)),
        Kind(
            "jpeg named.png",
            encoded(picture(11), "JPEG", quality=98, subsampling=0),
            pixels=picture(11),
            tolerance=12,
        ),
    ]


def _deflated(num_bytes: int) -> bytes:
    import zlib

    return zlib.compress(bytes(num_bytes))


def _with_chunk(png: bytes, chunk: bytes) -> bytes:
    """Return a PNG with a chunk after its header."""
    return png[:33] + chunk + png[33:]


def colour_kinds() -> list[Kind]:
    """Kinds with other colour models or an embedded profile."""
    photo, grey = picture(20), picture(21)[..., :1]
    p3, linear = odd.rgb_profile(odd.DISPLAY_P3, 2.2), odd.rgb_profile(odd.SRGB, 1.0)
    plain = encoded(Image.new("CMYK", (SIDE, SIDE), (0, 255, 0, 0)), "TIFF")
    inks = Image.new("CMYK", (SIDE, SIDE), (255, 0, 0, 0))
    paper = Image.new("CMYK", (SIDE, SIDE), (255, 255, 0, 255))  # stored as 0, 0, 255, 0
    lab = np.full((SIDE, SIDE, 3), 0, np.uint8)
    lab[..., 0] = 128
    ycc = Image.new("YCbCr", (SIDE, SIDE), (76, 85, 255))
    return [
        Kind(
            "p3.png",
            encoded(photo, icc_profile=p3),
            None,
            odd.through_profile(photo, odd.DISPLAY_P3, 2.2),
            1.6,
        ),
        Kind(
            "linear.tif",
            encoded(picture(22), "TIFF", icc_profile=linear),
            None,
            odd.through_profile(picture(22), odd.SRGB, 1),
            1.6,
        ),
        Kind(
            "grey profile.png",
            encoded(Image.fromarray(grey[..., 0]), icc_profile=odd.grey_profile(1.0)),
            None,
            odd.srgb_of(grey / 255),
            1.6,
        ),
        Kind("damaged profile.png", encoded(picture(23), icc_profile=b"\0" * 200), None, picture(23)),
        Kind("foreign profile.png", encoded(picture(24), icc_profile=odd.cmyk_profile()), None, picture(24)),
        Kind("cmyk.tif", plain, None, flat(255, 0, 255)),
        Kind("cmyk.jpg", encoded(inks, "JPEG"), None, flat(0, 255, 255), 3),
        Kind("cmyk not of adobe.jpg", _without_adobe(encoded(paper, "JPEG")), None, flat(255, 255, 0), 3),
        Kind(
            "cmyk profile.tif",
            encoded(inks, "TIFF", icc_profile=odd.cmyk_profile()),
            None,
            flat(185.3),  # L* = 75 is Y = 0.4828, in sRGB 0.7266
            1.6,
        ),
        Kind("lab.tif", odd.tiff(lab, 8), None, flat(119.2), 2),  # L* = 50.2, a = b = 0
        Kind("ycbcr.tif", encoded(ycc, "TIFF"), None, flat(254, 0, 0), 2),
    ]


def _without_adobe(jpeg: bytes) -> bytes:
    """Return a JPEG without the segment APP14 in which Adobe's programs name themselves."""
    place = jpeg.index(b"\xff\xee")
    return jpeg[:place] + jpeg[place + 2 + int.from_bytes(jpeg[place + 2 : place + 4]) :]


def deep_tiff_kinds() -> list[Kind]:
    """Kinds of TIFF with other numbers than bytes."""
    rgb, rgba, grey = deep(40), deep(41, 4), deep(42, 1)
    packed = np.random.default_rng(43).integers(0, 4096, (SIDE, SIDE, 1), np.uint16)
    twelve = b"".join(_pack_12(row) for row in packed[..., 0])
    part = (deep(49, 1) / 65535).astype(np.float32)
    photo = picture(44, SIDE, SIDE)
    alpha = {338: ("H", (2,))}
    return [
        Kind("16-bit rgb.tif", odd.tiff(rgb, 2), None, rounded(rgb)),
        Kind("16-bit rgb big endian.tif", odd.tiff(deep(45), 2, order=">"), None, rounded(deep(45))),
        Kind("16-bit rgb deflated.tif", odd.tiff(deep(46), 2, deflate=True), None, rounded(deep(46))),
        Kind("16-bit rgb planes.tif", odd.tiff(deep(47), 2, planar=True), None, rounded(deep(47))),
        Kind(
            "16-bit rgba.tif",
            odd.tiff(rgba, 2, tags=alpha),
            None,
            over_white(rgba[..., :3], rgba[..., 3:]),
            1.5,
        ),
        Kind("16-bit grey.tif", odd.tiff(grey, 1), None, rounded(grey)),
        Kind("16-bit white is zero.tif", odd.tiff(deep(48, 1), 0), None, 255 - rounded(deep(48, 1))),
        Kind("12-bit.tif", odd.tiff(twelve, 1, bits=12, size=(SIDE, SIDE)), None, rounded(packed, 4095)),
        Kind("float.tif", odd.tiff(part, 1), None, rounded(part, 1)),
        Kind("multi-page.tif", odd.tiff(photo, 2, num_frames=3), None, photo),
        Kind("nan.tif", odd.tiff(np.full((SIDE, SIDE), np.nan, np.float32), 1), Reason.UNKNOWN_RANGE),
        Kind("float 1e6.tif", odd.tiff(np.full((SIDE, SIDE), 1e6, np.float32), 1), Reason.UNKNOWN_RANGE),
        Kind("negative.tif", odd.tiff(np.full((SIDE, SIDE), -5, np.int32), 1), Reason.UNKNOWN_RANGE),
        Kind("float rgb.tif", odd.tiff(np.ones((SIDE, SIDE, 3), np.float32), 2), Reason.UNSUPPORTED_MODE),
        Kind("double.tif", odd.tiff(np.ones((SIDE, SIDE), np.float64), 1), Reason.UNSUPPORTED_MODE),
    ]


def _pack_12(row: np.ndarray) -> bytes:
    first, second = row[::2].astype(int), row[1::2].astype(int)
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()


def other_kinds() -> list[Kind]:
    """Animations, icons and photographs that are kept."""
    marked = np.zeros((SIDE, SIDE + 16, 3), np.uint8)
    marked[:8, :8] = (255, 0, 0)
    turned = np.zeros((SIDE + 16, SIDE, 3), np.uint8)
    turned[:8, -8:] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.new("RGB", (SIDE, SIDE), color) for color in ("red", "blue", "lime")]
    moving = {"save_all": True, "append_images": frames[1:]}
    pair = Image.fromarray(picture(31))
    small, large = encoded(Image.new("RGB", (16, 16), (1, 2, 3))), odd.icon_bitmap(SIDE)
    partial = np.full((20, 20, 3), 255.0)
    partial[:4, :4] = 0
    return [
        Kind("turned.jpg", encoded(marked, "JPEG", exif=exif, quality=98, subsampling=0), None, turned, 6),
        Kind("animated.gif", encoded(frames[0], "GIF", **moving), None, flat(255, 0, 0)),
        Kind("animated.webp", encoded(frames[2], "WEBP", lossless=True, **moving), None, flat(0, 255, 0)),
        Kind("part of the screen.gif", _small_frame(), None, partial),
        Kind(
            "pair.mpo.jpg", encoded(pair, "MPO", quality=98, subsampling=0, **moving), None, picture(31), 12
        ),
        Kind("best of two.ico", odd.ico((16, 24, small), (SIDE, 32, large)), None, flat(200, 100, 50)),
        Kind("float map.pgm", b"Pf\n2 1\n-1.0\n" + struct.pack("<2f", 0.5, 1.0), Reason.TOO_SMALL),
        Kind("1x1.png", encoded(Image.new("RGB", (1, 1), (1, 2, 3))), Reason.TOO_SMALL),
        Kind("10000x2.png", encoded(Image.new("RGB", (10_000, 2))), Reason.TOO_SMALL),
        Kind("10000x20.png", encoded(Image.new("RGB", (10_000, 20))), Reason.TOO_ELONGATED),
    ]


def _small_frame() -> bytes:
    """A GIF whose one frame covers 4 x 4 of 20 x 20 pixels in black; the rest was never drawn."""
    data = bytearray(encoded(Image.new("L", (4, 4), 0), "GIF"))
    data[6:10] = struct.pack("<HH", 20, 20)
    return bytes(data)


def refused_kinds() -> list[Kind]:
    """Damaged files and files that are something else."""
    whole = {
        name: encoded(picture(50), name) for name in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF")
    }
    ending = {"PNG": "png", "JPEG": "jpg", "GIF": "gif", "WEBP": "webp", "TIFF": "tif", "BMP": "bmp"}
    cut = [
        Kind(f"cut.{suffix}", whole[name][: len(whole[name]) * 2 // 3], Reason.TRUNCATED)
        for name, suffix in ending.items()
    ]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.png", whole["PNG"])
    return [
        *cut,
        Kind("cut.avif", whole["AVIF"][: len(whole["AVIF"]) * 2 // 3], Reason.TRUNCATED),
        Kind(
            "12-bit.jpg",
            whole["JPEG"].replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
            Reason.UNSUPPORTED_MODE,
        ),
        Kind("65535 tags.tif", b"II*\0\x08\0\0\0\xff\xff" + bytes(range(256)) * 512, Reason.CORRUPT),
        Kind("endless segments.jpg", b"\xff\xd8" + b"\xff\xe1\0\x02" * 50_000, Reason.CORRUPT),
        Kind("endless padding.jpg", b"\xff\xd8" + b"\xff" * 50_000, Reason.CORRUPT),
        Kind("endless comments.gif", b"GIF89a\x20\0\x20\0\0\0\0" + b"!\xfe\x01a\0" * 50_000, Reason.CORRUPT),
        Kind("one bit flipped.png", flipped(whole["PNG"], 900), Reason.CORRUPT),
        Kind("broken header.jpg", whole["JPEG"][:40], Reason.TRUNCATED),
        Kind("empty.png", b"", Reason.EMPTY_FILE),
        Kind("page.jpg", b"<!DOCTYPE html><title>404</title>", Reason.NOT_AN_IMAGE),
        Kind("drawing.png", b'<?xml version="1.0"?><svg xmlns="x"/>', Reason.NOT_AN_IMAGE),
        Kind("archive.png", archive.getvalue(), Reason.NOT_AN_IMAGE),
        Kind("gzip.png", gzip.compress(whole["PNG"]), Reason.NOT_AN_IMAGE),
        Kind("words.png", "pâté\n".encode() * 99, Reason.NOT_AN_IMAGE),
        Kind("postscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", Reason.NOT_AN_IMAGE),
        Kind("taller than its data.jpg", _taller(whole["JPEG"]), Reason.TRUNCATED),
        Kind("fewer rows.png", raw_png(64, 64, 8, 2, bytes(900)), Reason.TRUNCATED),
        Kind("many strips.tif", strip_bomb(), Reason.CORRUPT),
        *bombs(),
    ]


def _taller(jpeg: bytes) -> bytes:
    """Return a JPEG whose frame header promises half as many rows again."""
    place = jpeg.index(b"\xff\xc0") + 5
    (height,) = struct.unpack_from(">H", jpeg, place)
    return jpeg[:place] + struct.pack(">H", height * 3 // 2) + jpeg[place + 2 :]


def strip_bomb() -> bytes:
    """A TIFF of 160 KB that asks to unpack 20 000 strips of almost the whole of 900 x 900 pixels."""
    strips = {273: ("I", (8, 9) * 10_000), 278: ("I", (899,)), 279: ("I", (811_000,) * 20_000)}
    return odd.tiff(bytes(811_000), 1, bits=8, size=(900, 900), tags=strips)


def bombs(side: int = BOMB) -> list[Kind]:
    """Files of at most a few hundred bytes that promise side x side pixels."""
    inner = raw_png(side, side, 8, 2, bytes(100))
    tag = odd.tiff(bytes(100), 1, bits=8, size=(side, side))
    jpeg = encoded(Image.new("L", (16, 16)), "JPEG")
    place = jpeg.index(b"\xff\xc0") + 5
    wide = jpeg[:place] + struct.pack(">HH", side, side) + jpeg[place + 4 :]
    data = {
        "bomb.png": inner,
        "bomb.jpg": wide,
        "bomb.gif": odd.gif_declaring(side, side),
        "bomb frame.gif": odd.gif_declaring(0, 0, frame=(side, side)),
        "bomb.webp": odd.webp_declaring(min(side, 16_384), min(side, 16_384)),
        "bomb.tif": tag,
        "bomb.bmp": odd.bitmap_declaring(side, side),
        "bomb.ppm": b"P6 %d %d 255\n" % (side, side),
        "bomb png.ico": odd.ico((16, 32, inner)),
        "bomb bitmap.ico": odd.ico((16, 32, odd.icon_bitmap(16, (side, 2 * side)))),
    }
    return [Kind(name, content, Reason.TOO_LARGE) for name, content in data.items()]


def all_kinds() -> list[Kind]:
    """Every kind of image file."""
    return [*good_png_kinds(), *colour_kinds(), *deep_tiff_kinds(), *other_kinds(), *refused_kinds()]
