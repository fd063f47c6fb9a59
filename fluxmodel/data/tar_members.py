"""Members of a tar as a stream of headers and bounded reads; nothing is ever written, nothing declared is trusted.

`tarfile` reads long names and pax headers of any declared size into memory and ends at a truncated member without a
word; here each header is parsed by `tarfile.TarInfo` alone, and the walk is ours: a member is read up to a limit, and
what a damaged file still promised is said.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

_BLOCK = 512
_SKIP_BYTES = 1 << 20
_MAX_NAME_BYTES = 1 << 20
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _SOLARIS = b"L", b"K", b"x", b"g", b"X"
# Bytes of an old GNU sparse header, and of a block behind it, that say whether a block with more extents follows.
_IS_EXTENDED, _IS_EXTENDED_AGAIN = 482, 504
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


class DamagedTar(ValueError):
    """The archive is no tar, or is damaged or ends early at this place."""


class MissingEnd(DamagedTar):
    """The archive ends where a member or its end mark would begin.

    All that is there was read. Writers that are killed and tools that join tars leave this, and so does a copy that
    was cut off just there, which nobody can tell from the others.
    """


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a tar; `kind` says what it is instead of a file, empty for files and `folder` for folders.

    `missing` counts the bytes that the archive declares and does not hold; `data` is None where more than the limit
    are declared.
    """

    name: str
    size: int
    kind: str
    data: bytes | None = None
    missing: int = 0


def read_members(file: IO[bytes], limit: int) -> Iterator[Member]:
    """Yield every member in order, the data of files of at most `limit` bytes with it.

    Raises:
        DamagedTar: a header cannot be read, or the archive ends in the middle of a member (which was yielded).
        MissingEnd: it ends without its end mark.
    """
    long_name, position = "", 0
    fields: dict[str, str] = {}
    while header := _header(file, position):
        info, extents = header
        position += _BLOCK * (1 + extents)
        if info.type in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _SOLARIS):
            more = _small(file, info.size, position)
            position += info.size + -info.size % _BLOCK
            if info.type == _LONG_NAME:
                long_name = more.rstrip(b"\0").decode("utf-8", "backslashreplace")
            elif info.type in (_PAX, _SOLARIS):
                fields = _pax_fields(more)
            continue
        size = _size(info, fields)
        name = fields.get("path") or long_name or info.name
        kind = "folder" if info.isdir() else _KINDS.get(info.type, "")
        kind = "a sparse file" if any(field.startswith("GNU.sparse") for field in fields) else kind
        long_name, fields = "", {}
        stored = 0 if kind and kind != "a sparse file" else size
        data = file.read(stored) if not kind and stored <= limit else None
        held = len(data) if data is not None else _skip(file, stored)
        yield Member(name, size, kind, data, stored - held)
        if held < stored:
            raise DamagedTar(f"it ends after {held} of the {stored} bytes of {name!r}")
        if _skip(file, -stored % _BLOCK) < -stored % _BLOCK:
            raise DamagedTar(f"it ends within the zeros after {name!r}")
        position += stored + -stored % _BLOCK


def _header(file: IO[bytes], position: int) -> tuple[tarfile.TarInfo, int] | None:
    """Read one header with the blocks of extents behind it, which are counted; None at the end of the archive."""
    block = file.read(_BLOCK)
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except tarfile.EOFHeaderError:  # pyright: ignore[reportAttributeAccessIssue]
        return None
    except (tarfile.HeaderError, ValueError) as error:
        if not block and position:
            raise MissingEnd(f"byte {position}: it ends without the mark of an end") from error
        what = "it ends without the mark of an end" if len(block) < _BLOCK else "no header of a tar"
        raise DamagedTar(f"byte {position}: {what}") from error
    return info, _skip_extents(file, block, position) if info.type == tarfile.GNUTYPE_SPARSE else 0


def _skip_extents(file: IO[bytes], block: bytes, position: int) -> int:
    """Pass over the blocks that name the extents of an old GNU sparse file beyond the first four; return how many."""
    count, is_extended = 0, block[_IS_EXTENDED]
    while is_extended:
        block = file.read(_BLOCK)
        if len(block) < _BLOCK:
            raise DamagedTar(f"byte {position}: the archive ends within a header")
        count, is_extended = count + 1, block[_IS_EXTENDED_AGAIN]
    return count


def _small(file: IO[bytes], size: int, position: int) -> bytes:
    """Read a long name or an extended header, which a hostile tar may declare to be of any size."""
    if not 0 <= size <= _MAX_NAME_BYTES:
        raise DamagedTar(f"byte {position}: a name or extended header of {size} bytes")
    data = file.read(size)
    _skip(file, -size % _BLOCK)
    if len(data) < size:
        raise DamagedTar(f"byte {position}: the archive ends within a header")
    return data


def _size(info: tarfile.TarInfo, fields: dict[str, str]) -> int:
    text = fields.get("size", "")
    size = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else info.size
    if size < 0:
        raise DamagedTar(f"{info.name!r} declares {size} bytes")
    return size


def _skip(file: IO[bytes], num_bytes: int) -> int:
    """Pass over bytes; return how many there were."""
    passed = 0
    while passed < num_bytes and (chunk := file.read(min(_SKIP_BYTES, num_bytes - passed))):
        passed += len(chunk)
    return passed


def _pax_fields(data: bytes) -> dict[str, str]:
    """Parse records `LENGTH KEY=VALUE`; an ill-formed rest is passed over, the plain header then holds."""
    fields, position = {}, 0
    while position < len(data):
        length, space, _ = data[position : position + 20].partition(b" ")
        if not space or not length.isdigit() or int(length) <= len(length) + 1:
            break
        record = data[position + len(length) + 1 : position + int(length)].rstrip(b"\n")
        key, _, value = record.partition(b"=")
        fields[key.decode("utf-8", "backslashreplace")] = value.decode("utf-8", "backslashreplace")
        position += int(length)
    return fields
