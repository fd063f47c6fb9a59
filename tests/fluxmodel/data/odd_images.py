"""Image files and colour profiles written byte by byte from their specifications, for what Pillow cannot save.

Sources: PNG (ISO/IEC 15948), TIFF 6.0, GIF89a, ICC.1:2001-04 (version 2 profiles), the WebP container
(RFC 9649), Windows icons and bitmaps.
"""

import struct
import zlib

import numpy as np

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Colorants in the D50 connection space, one column a primary.
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
DISPLAY_P3 = np.array(
    [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
)


def png_chunk(name: bytes, data: bytes) -> bytes:
    """One chunk with its checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, bits: int, color_type: int, rows: bytes, *, before: bytes = b"") -> bytes:
    """A PNG of the given header and raw rows, with chunks `before` the pixel data."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return PNG_SIGNATURE + header + before + body


def png_of(values: np.ndarray, color_type: int, *, before: bytes = b"") -> bytes:
    """A PNG of uint8 or uint16 values [height, width, channels], every row unfiltered."""
    height, width = values.shape[:2]
    big = values.astype(values.dtype.newbyteorder(">"))
    rows = b"".join(b"\0" + row.tobytes() for row in big)
    return png(width, height, values.dtype.itemsize * 8, color_type, rows, before=before)


_TIFF_TYPES = {"B": 1, "H": 3, "I": 4}


def tiff(
    values: np.ndarray | bytes,
    photometric: int,
    *,
    bits: int | None = None,
    size: tuple[int, int] | None = None,
    order: str = "<",
    planar: bool = False,
    deflate: bool = False,
    tags: dict[int, tuple[str, tuple[int, ...]]] | None = None,
    num_frames: int = 1,
) -> bytes:
    """An uncompressed or deflated TIFF of values [height, width, channels], one strip a plane.

    `tags` adds or replaces entries: tag -> (struct letter, values). With `num_frames` the same directory is
    chained that often.
    """
    data, width, height, channels, bits, kind = _strips(values, bits, size, order, planar, deflate)
    offsets, position = [], 8
    for strip in data:
        offsets.append(position)
        position += len(strip)
    entries: dict[int, tuple[str, tuple[int, ...]]] = {
        256: ("I", (width,)),
        257: ("I", (height,)),
        258: ("H", (bits,) * channels),
        259: ("H", (8 if deflate else 1,)),
        262: ("H", (photometric,)),
        273: ("I", tuple(offsets)),
        277: ("H", (channels,)),
        278: ("I", (height,)),
        279: ("I", tuple(len(strip) for strip in data)),
        284: ("H", (2 if planar else 1,)),
        339: ("H", (kind,) * channels),
    } | (tags or {})
    marker = b"II" if order == "<" else b"MM"
    first = position + position % 2
    body = marker + struct.pack(order + "HI", 42, first) + b"".join(data)
    for index in range(num_frames):
        body += b"\0" * (len(body) % 2)
        body += _directory(entries, len(body), order, is_last=index == num_frames - 1)
    return body


def _strips(values, bits, size, order, planar, deflate):
    """Return the strips and what the directory says of them."""
    if isinstance(values, bytes):
        assert size
        planes, (width, height), channels, kind = [values], size, 1, 1
    else:
        values = values if values.ndim == 3 else values[..., None]
        height, width, channels = values.shape
        kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
        bits = values.dtype.itemsize * 8
        stored = values.astype(values.dtype.newbyteorder(order))
        planes = [stored[..., index].tobytes() for index in range(channels)] if planar else [stored.tobytes()]
    strips = [zlib.compress(plane) if deflate else plane for plane in planes]
    return strips, width, height, channels, bits, kind


def _directory(entries, start: int, order: str, *, is_last: bool) -> bytes:
    """Return an image file directory that begins at `start`, with its values after it."""
    size = 2 + 12 * len(entries) + 4
    table, extra = struct.pack(order + "H", len(entries)), b""
    for tag, (letter, values) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(packed) > 4:
            place = struct.pack(order + "I", start + size + len(extra))
            extra += packed + b"\0" * (len(packed) % 2)
        else:
            place = packed.ljust(4, b"\0")
        table += struct.pack(order + "HHI", tag, _TIFF_TYPES[letter], len(values)) + place
    following = start + size + len(extra)
    return table + struct.pack(order + "I", 0 if is_last else following + following % 2) + extra


def gif_declaring(width: int, height: int, *, frame: tuple[int, int] | None = None) -> bytes:
    """A GIF of a few bytes whose screen, or whose first frame, promises width x height pixels."""
    screen = (1, 1) if frame else (width, height)
    extent = frame or (width, height)
    # Disposal to background makes Pillow allocate the frame's area when the file is opened.
    control = b"!\xf9\x04\x08\0\0\0\0"
    palette = bytes([0, 0, 0, 250, 60, 10])
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", *screen, 0x80, 0, 0)
        + palette
        + control
        + struct.pack("<BHHHHB", 0x2C, 0, 0, *extent, 0)
        + b"\x02\x02\x4c\x01\0;"
    )


def webp_declaring(width: int, height: int) -> bytes:
    """An extended WebP header of width x height pixels before an animation of no frame."""
    extended = (
        struct.pack("<I", 0x02) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    )
    chunks = b"VP8X" + struct.pack("<I", 10) + extended + b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def ico(*entries: tuple[int, int, bytes]) -> bytes:
    """An icon of (side, bits, payload) entries, payloads PNG or headerless bitmaps."""
    header, offset = struct.pack("<HHH", 0, 1, len(entries)), 6 + 16 * len(entries)
    for side, bits, payload in entries:
        header += struct.pack("<BBBBHHII", side % 256, side % 256, 0, 0, 1, bits, len(payload), offset)
        offset += len(payload)
    return header + b"".join(payload for _, _, payload in entries)


def icon_bitmap(side: int, declared: tuple[int, int] | None = None) -> bytes:
    """A 32-bit icon bitmap of opaque (200, 100, 50), its header declaring another size if asked."""
    width, height = declared or (side, 2 * side)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 32, 0, 0, 0, 0, 0, 0)
    return header + bytes([50, 100, 200, 255]) * side * side + bytes((side + 31) // 32 * 4 * side)


def bitmap_declaring(width: int, height: int) -> bytes:
    """A Windows bitmap of a few bytes that promises width x height pixels."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 100, 0, 0, 54) + header + bytes(100)


def _profile(device: bytes, connection: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr") -> bytes:
    """An ICC profile of version 2 with the given tags."""
    place, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name, place + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    size = place + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"\0" * 4, 0x02100000, kind, device, connection)
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp"
    header = header.ljust(68, b"\0") + _fixed(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + table + body


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _curve(gamma: float) -> bytes:
    return b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256)) + b"\0\0"


def _described(tags: dict[bytes, bytes]) -> dict[bytes, bytes]:
    words = b"a test profile\0"
    text = b"desc" + struct.pack(">II", 0, len(words)) + words + bytes(78)
    return {b"desc": text, b"cprt": b"text\0\0\0\0none\0", b"wtpt": _xyz(0.9642, 1.0, 0.8249)} | tags


def rgb_profile(colorants: np.ndarray, gamma: float) -> bytes:
    """A matrix profile: XYZ = colorants @ rgb ** gamma."""
    tags = {name + b"XYZ": _xyz(*colorants[:, index]) for index, name in enumerate((b"r", b"g", b"b"))}
    tags |= {name + b"TRC": _curve(gamma) for name in (b"r", b"g", b"b")}
    return _profile(b"RGB ", b"XYZ ", _described(tags))


def grey_profile(gamma: float) -> bytes:
    """A grey profile: Y = grey ** gamma."""
    return _profile(b"GRAY", b"XYZ ", _described({b"kTRC": _curve(gamma)}))


def cmyk_profile() -> bytes:
    """A press whose every ink is the same pale grey: L* = 100 - 25 (c + m + y + k), each ink from 0 to 1."""
    identity = bytes(range(256))
    corners = [bits.bit_count() for bits in range(16)]
    table = b"".join(bytes([round(255 * (4 - inks) / 4), 128, 128]) for inks in corners)
    matrix = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    to_lab = b"mft1" + struct.pack(">IBBBB", 0, 4, 3, 2, 0) + matrix + identity * 4 + table + identity * 3
    return _profile(b"CMYK", b"Lab ", _described({b"A2B0": to_lab}), kind=b"prtr")


def srgb_of(linear: np.ndarray) -> np.ndarray:
    """Return sRGB values 0..255 of linear light 0..1 (IEC 61966-2-1), unrounded."""
    clipped = np.clip(linear, 0, 1)
    return 255 * np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** (1 / 2.4) - 0.055)


def through_profile(pixels: np.ndarray, colorants: np.ndarray, gamma: float) -> np.ndarray:
    """Return what uint8 RGB pixels of a matrix profile are in sRGB, 0..255, unrounded."""
    light = (pixels / 255) ** gamma
    return srgb_of(light @ (np.linalg.inv(SRGB) @ colorants).T)
