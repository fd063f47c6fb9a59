"""What an image file says before its pixels: declared sizes, whole chunks, and what else the bytes may be.

Pillow takes memory by the declared size already when it opens a GIF, a WebP or an icon, so their headers are
read here first. Sources: GIF89a; RFC 9649 (WebP); ISO/IEC 15948 (PNG); ITU-T T.81 (JPEG); Windows icons.
"""

import re
import struct
import zlib
from collections.abc import Iterator

from fluxmodel.data.records import Reason
from fluxmodel.data.refusal import Refusal

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ICO_SIGNATURE = b"\0\0\1\0"
_MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<svg")
_FOREIGN = {
    b"PK\3\4": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript document",
    b"8BPS": "a Photoshop document",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\0ftyphei": "HEIC",
}
# Far more than any file has before its picture (a profile of 16 MB takes 256 segments); Pillow reads them one by
# one, 15 s for 20 MB of empty ones.
_MAX_SEGMENTS = 20_000
# Marker segments of a JPEG that carry no length.
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse a declared size above `max_pixels`, or of no pixel."""
    if width * height > max_pixels:
        raise Refusal(
            Reason.TOO_LARGE, f"the header declares {width} x {height} pixels, at most {max_pixels} pass"
        )


def check_declared(data: bytes, max_pixels: int) -> None:
    """Refuse what declares too much or is cut off, where Pillow would allocate first or name another reason."""
    if data.startswith(b"GIF8"):
        check_size(*_gif_size(data), max_pixels)
    elif data.startswith(b"\xff\xd8\xff"):
        for _ in _jpeg_segments(data):
            pass
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        _check_webp(data, max_pixels)
    elif data[4:8] == b"ftyp":
        _check_boxes(data)
    elif data.startswith(PNG_SIGNATURE):
        width, height = struct.unpack_from(">II", data.ljust(24, b"\0"), 16)
        check_size(width, height, max_pixels)
        for _ in png_chunks(data):
            pass


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of each chunk up to IEND; every checksum is verified, which Pillow skips."""
    position = len(PNG_SIGNATURE)
    while True:
        if position + 12 > len(data):
            raise Refusal(Reason.TRUNCATED, f"the PNG ends at byte {len(data)}, before its last chunk")
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise Refusal(
                Reason.TRUNCATED, f"the PNG ends at byte {len(data)}, chunk {name!r} needs {end + 4}"
            )
        if zlib.crc32(memoryview(data)[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise Refusal(
                Reason.CORRUPT, f"the checksum of PNG chunk {name!r} at byte {position} does not match"
            )
        yield name, position, end + 4
        if name == b"IEND":
            return
        position = end + 4


def png_without_texts(data: bytes) -> bytes:
    """Return a PNG without its text chunks, which Pillow unpacks and may find too large."""
    texts = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
    kept = [data[start:end] for name, start, end in png_chunks(data) if name not in texts]
    return PNG_SIGNATURE + b"".join(kept)


def best_of_icon(data: bytes, max_pixels: int) -> bytes:
    """Return the largest, then deepest picture of an icon: a PNG, or an icon of that one picture."""
    if not data.startswith(_ICO_SIGNATURE):
        return data
    (count,) = struct.unpack_from("<H", data.ljust(6, b"\0"), 4)
    table = data[6 : 6 + 16 * count]
    entries = [table[start : start + 16] for start in range(0, len(table) - 15, 16)]
    if not entries:
        raise Refusal(Reason.TRUNCATED, f"the icon ends at byte {len(data)}, before its first picture")
    best = max(entries, key=lambda entry: ((entry[0] or 256) * (entry[1] or 256), entry[6]))
    size, offset = struct.unpack_from("<II", best, 8)
    payload = data[offset : offset + size]
    if len(payload) < max(size, 16):
        raise Refusal(Reason.TRUNCATED, f"the icon ends at byte {len(data)}, its picture at {offset + size}")
    if payload.startswith(PNG_SIGNATURE):
        return payload
    width, height = struct.unpack_from("<ii", payload, 4)
    check_size(abs(width), abs(height) // 2, max_pixels)
    return _ICO_SIGNATURE + b"\1\0" + best[:12] + struct.pack("<I", 22) + payload


def _gif_size(data: bytes) -> tuple[int, int]:
    """Return the area that a GIF's screen and its first frame need together."""
    header = data[:13].ljust(13, b"\0")
    width, height, flags = struct.unpack_from("<HHB", header, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    budget = _MAX_SEGMENTS
    while position < len(data):
        kind, position = data[position], position + 1
        if kind == 0x2C:
            left, top, wide, high = struct.unpack_from("<4H", data[position : position + 8].ljust(8, b"\0"))
            return max(width, left + wide), max(height, top + high)
        if kind == 0x21:
            position += 1
            while position < len(data) and data[position]:
                position, budget = position + data[position] + 1, budget - 1
            position, budget = position + 1, budget - 1
            if budget < 0:
                raise _endless("GIF")
        elif kind == 0x3B:
            break
    return width, height


def _check_webp(data: bytes, max_pixels: int) -> None:
    """Refuse a WebP that is cut off or too large; libwebp takes memory for its canvas when it is opened."""
    (size,) = struct.unpack_from("<I", data, 4)
    start = data[:30].ljust(30, b"\0")
    if start[12:16] == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", start, 26))
    elif start[12:16] == b"VP8L":
        (packed,) = struct.unpack_from("<I", start, 21)
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(start[place : place + 3], "little") + 1 for place in (24, 27))
    check_size(width, height, max_pixels)
    if 8 + size > len(data):
        raise Refusal(Reason.TRUNCATED, f"the WebP ends at byte {len(data)}, its header says {8 + size}")


def _check_boxes(data: bytes) -> None:
    """Refuse an AVIF whose outermost boxes (ISO/IEC 14496-12) reach beyond the data."""
    position = 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4])
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16])
        if size < 8:  # 0: up to the end; less than its own head: damaged, for the decoder to say
            return
        position += size
    if position > len(data):
        raise Refusal(Reason.TRUNCATED, f"the file ends at byte {len(data)}, its last box at {position}")


def jpeg_with_other_end(data: bytes) -> bytes | None:
    """Return a JPEG of one scan with other bytes where its scan ends; None where there is not one such scan.

    A scan that holds every block never reads them; one cut short before its end marker does.
    """
    for marker, start in _jpeg_segments(data):
        if marker == 0xDA:
            end = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]").search(data, start)
            is_last = end is not None and data[end.start() + 1] == 0xD9
            return data[: end.start()] + b"\x55" * 4096 + b"\xff\xd9" if end and is_last else None
    return None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield each marker of a JPEG up to its first scan, with the place after its segment."""
    position = 2
    for _ in range(_MAX_SEGMENTS):
        if position + 4 > len(data) or data[position] != 0xFF:
            return
        marker = data[position + 1]
        if marker == 0xFF or marker in _BARE_MARKERS:
            position += 1 if marker == 0xFF else 2
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
        yield marker, position
        if marker == 0xDA:
            return
    raise _endless("JPEG")


def _endless(format: str) -> Refusal:
    return Refusal(Reason.CORRUPT, f"the {format} has more than {_MAX_SEGMENTS} segments before its picture")


def unidentified(data: bytes, said: str) -> Refusal:
    """Name what the bytes look like instead of an image; `said` is what the plugin of their signature found."""
    if data[:512].lstrip().lower().startswith(_MARKUP):
        return Refusal(Reason.NOT_AN_IMAGE, "the content is a web page or other markup")
    if said:
        return Refusal(reason_of(said), said)
    masked = b"\0\0\0\0" + data[4:] if data[4:8] == b"ftyp" else data
    for signature, name in _FOREIGN.items():
        if masked.startswith(signature):
            return Refusal(Reason.NOT_AN_IMAGE, f"the content is {name}, which is not read here")
    return Refusal(
        Reason.NOT_AN_IMAGE, f"the content begins with {data[:8]!r}, which no supported format does"
    )


_UNSUPPORTED = re.compile("unsupported|not (yet )?supported|unknown pixel mode|cannot handle|not implemented")
_CUT = re.compile("truncat|unexpected end|reached eof|not enough (image )?data|buffer has wrong size")


def reason_of(text: str) -> Reason:
    """Return the reason behind what a decoder said."""
    text = text.lower()
    if _CUT.search(text):
        return Reason.TRUNCATED
    return Reason.UNSUPPORTED_MODE if _UNSUPPORTED.search(text) else Reason.CORRUPT
