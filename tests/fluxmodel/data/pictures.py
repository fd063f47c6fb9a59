"""Pictures and damaged files for the tests of data: each a function of a seed or a name."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 80, height: int = 64) -> np.ndarray:
    """A smooth background with a few discs, uint8 RGB [height, width, 3]; no two seeds look alike."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8))
    canvas = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).copy()
    y, x = np.mgrid[0:height, 0:width] / height
    for _ in range(random.integers(3, 8)):
        center_x, center_y, radius = random.random(3) * (1.2, 1, 0.3)
        canvas[(x - center_x) ** 2 + (y - center_y) ** 2 < radius**2] = random.integers(0, 256, 3)
    return canvas


def encoded(pixels: np.ndarray | Image.Image, format: str = "PNG", **options) -> bytes:
    """The file bytes of an image in a format of Pillow."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def png_declaring(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises width x height pixels."""
    return raw_png(width, height, bits=8, color_type=2, rows=bytes(1000))


def raw_png(width: int, height: int, bits: int, color_type: int, rows: bytes) -> bytes:
    """A PNG with the given header and rows (each led by its filter byte), even if they do not match."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def flipped(data: bytes, position: int) -> bytes:
    """The same bytes with one bit flipped."""
    return data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]


class Listed:
    """A source over items at hand."""

    is_procedural = False
    spec = name = "listed"

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        return iter(self.items)

    def fingerprint(self):
        return "0"
