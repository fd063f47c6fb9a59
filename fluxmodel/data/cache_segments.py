"""One file of a content cache: records appended one after another, and beside it an index of where they begin.

    NAME.values   16 bytes of magic, then records: header (48 bytes), value, zeros up to the next multiple of 16
    NAME.index    blocks: header (16 bytes), then 16 bytes a record: the key's first 8, where the record begins

A record's header holds magic, length, key, the value's CRC-32 and the CRC-32 of the header itself; a block's holds
magic, number of entries, their CRC-32 and its own. A value is written before its entry, so an index lags or is missing,
but never promises: what it does not name is found by walking the records from the last one it names. Whatever is torn
or damaged ends the walk; nothing is ever cut off or written over.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MAGIC = b"fluxline values1"
_RECORD = struct.Struct("<4sI32sII")
_RECORD_MAGIC = b"valu"
_BLOCK = struct.Struct("<4sIII")
_BLOCK_MAGIC = b"indx"
ENTRY = np.dtype([("prefix", "<u8"), ("offset", "<u8")])


def prefix_of(key: bytes) -> int:
    """Return the first 8 bytes of a key as a number: what the index knows a key by."""
    return int.from_bytes(key[:8], "little")


def record_of(key: bytes, value: bytes) -> bytes:
    """Return a record: header, value and the zeros after it."""
    head = struct.pack("<4sI32sI", _RECORD_MAGIC, len(value), key, zlib.crc32(value))
    return b"".join((head, struct.pack("<I", zlib.crc32(head)), value, bytes(-len(value) % 16)))


def _parse(header: bytes) -> tuple[bytes, int, int] | None:
    """Return key, length and CRC-32 of a record's value, None where the header is torn or damaged."""
    if len(header) != _RECORD.size:
        return None
    magic, length, key, value_sum, own_sum = _RECORD.unpack(header)
    if magic != _RECORD_MAGIC or own_sum != zlib.crc32(header[:-4]):
        return None
    return key, length, value_sum


class SegmentReader:
    """The records a segment held when it was opened; what others append later is not seen.

    Attributes:
        entries: prefix and offset of each record, in the order of writing.
        end: where the last whole record ends.
        index_end: where the last whole block of the index ends.
        is_clean: nothing is torn and the index names every record, so that it may be gone on with.
    """

    def __init__(self, path: Path) -> None:
        """Open the file and read its index.

        Raises:
            OSError: it cannot be read.
        """
        self.path = path
        self._file = os.open(path, os.O_RDONLY)
        size = os.fstat(self._file).st_size
        found, self.index_end = _read_index(path.with_suffix(".index"))
        self.end = len(MAGIC)
        if len(found):
            last = int(found["offset"].max())
            header = _parse(self._at(last, _RECORD.size))
            is_whole = header is not None and _after(last, header[1]) <= size
            found, self.end = (
                (found, _after(last, header[1])) if header and is_whole else (found[:0], self.end)
            )
        is_ours = self._at(0, len(MAGIC)) == MAGIC
        walked = list(self._walk(size)) if is_ours else []
        self.entries = np.concatenate([found, np.array(walked, ENTRY)]) if walked else found
        is_whole = self.end == size and self.index_end == _size(path.with_suffix(".index"))
        self.is_clean = is_ours and is_whole and not walked

    def _walk(self, size: int):
        """Yield the entries of the records the index does not name."""
        while header := _parse(self._at(self.end, _RECORD.size)):
            end = _after(self.end, header[1])
            if end > size:
                return
            yield prefix_of(header[0]), self.end
            self.end = end

    def key_at(self, offset: int) -> bytes | None:
        """Return the key of the record that begins at `offset`, None where its header is damaged."""
        header = _parse(self._at(offset, _RECORD.size))
        return header[0] if header else None

    def value_at(self, offset: int, key: bytes) -> bytes | None:
        """Return the value of the record that begins at `offset`, None where it is damaged or of another key."""
        header = _parse(self._at(offset, _RECORD.size))
        if header is None or header[0] != key:
            return None
        value = self._at(offset + _RECORD.size, header[1])
        return value if len(value) == header[1] and zlib.crc32(value) == header[2] else None

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _at(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._file, length, offset)
        except OSError:  # a bad block of the disk: as good as damaged
            return b""


class SegmentWriter:
    """The only one that appends to a segment; it holds the file's lock until it is closed."""

    def __init__(self, path: Path, reader: SegmentReader | None = None) -> None:
        """Begin a segment, or with its `reader` go on where it ends.

        Raises:
            OSError: somebody else writes it or has written since, or nothing can be written there.
        """
        self.path = path
        flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if reader is None else 0)
        self._file = os.open(path, flags, 0o644)
        self._index = -1
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._index = os.open(path.with_suffix(".index"), os.O_RDWR | os.O_CREAT, 0o644)
            if reader is None:
                _write_all(self._file, MAGIC, 0)
            self.end = len(MAGIC) if reader is None else reader.end
            self._index_end = 0 if reader is None else reader.index_end
            if os.fstat(self._file).st_size != self.end or os.fstat(self._index).st_size != self._index_end:
                raise OSError(f"{path}: somebody else has written there since")
        except OSError:
            self.close()
            raise

    def append(self, records: Sequence[tuple[bytes, bytes]]) -> np.ndarray:
        """Write keys with their values to the disk and return their entries.

        Raises:
            OSError: they could not be written whole; nothing may be appended after that.
        """
        entries, parts, at = np.empty(len(records), ENTRY), [], self.end
        for number, (key, value) in enumerate(records):
            entries[number] = (prefix_of(key), at)
            parts.append(record_of(key, value))
            at += len(parts[-1])
        _write_all(self._file, b"".join(parts), self.end)
        os.fdatasync(self._file)
        body = entries.tobytes()
        head = struct.pack("<4sII", _BLOCK_MAGIC, len(entries), zlib.crc32(body))
        block = b"".join((head, struct.pack("<I", zlib.crc32(head)), body))
        _write_all(self._index, block, self._index_end)
        self.end, self._index_end = at, self._index_end + len(block)
        return entries

    def close(self) -> None:
        """Close the file and give up its lock."""
        for file in (self._index, self._file):
            if file >= 0:
                os.close(file)
        self._file = self._index = -1


def _after(offset: int, length: int) -> int:
    """Return where the record after one of `length` bytes at `offset` begins."""
    return offset + _RECORD.size + length + -length % 16


def _read_index(path: Path) -> tuple[np.ndarray, int]:
    """Return the entries of the whole blocks and where the last of them ends."""
    blocks, at = [np.empty(0, ENTRY)], 0
    try:
        raw = path.read_bytes()
    except OSError:
        return blocks[0], 0
    while len(head := raw[at : at + _BLOCK.size]) == _BLOCK.size:
        magic, num, body_sum, own_sum = _BLOCK.unpack(head)
        body = raw[at + _BLOCK.size : at + _BLOCK.size + num * ENTRY.itemsize]
        if magic != _BLOCK_MAGIC or own_sum != zlib.crc32(head[:-4]) or body_sum != zlib.crc32(body):
            break
        if len(body) != num * ENTRY.itemsize:
            break
        blocks.append(np.frombuffer(body, ENTRY))
        at += _BLOCK.size + len(body)
    return np.concatenate(blocks), at


def _write_all(file: int, content: bytes, offset: int) -> None:
    left = memoryview(content)
    while left:
        num = os.pwrite(file, left, offset)
        left, offset = left[num:], offset + num


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
