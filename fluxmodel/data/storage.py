"""Where the files of a source lie: a disk, or whatever fsspec reaches by a URI (`s3://`, `memory://`, ...).

The one file that imports fsspec for data. Credentials are those the storage package finds by itself (its
environment variables and configuration files); a URI that carries a password is refused, for it would be recorded.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fluxmodel.data.steady_file import SteadyFile, steadily
from fluxmodel.errors import InputError

UNREADABLE = "unreadable"
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")
# What storages call the version of an object's content; with it a change is seen without reading the object.
_VERSIONS = "ETag etag md5Hash content_md5 sha256 crc32c contentHash VersionId generation".split()
_TIMES = "LastModified last_modified mtime updated modified created".split()
_MAX_EXPANDED = 1_000_000


def fingerprint_of(kind: str, digests: Iterable[tuple[str, str]]) -> str:
    """Return the fingerprint of files by (path, digest) of each, in the order of their paths.

    It begins with the kind of the source, for one file can be read in several ways: a shard of a curated data set is
    a table as well.
    """
    total = hashlib.sha256(f"{kind}\n".encode())
    for path, digest in digests:
        total.update(os.fsencode(path) + b"\0" + digest.encode() + b"\n")
    return total.hexdigest()


def printable(path: str) -> str:
    """Return a path as text that can be stored: bytes that are no UTF-8 come as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_uri(text: str) -> bool:
    """Return whether `text` names a place by protocol, as `s3://bucket/folder` does."""
    return _URI.match(text) is not None


class TooLarge(ValueError):
    """A file with more bytes than may pass."""


@dataclass(frozen=True)
class Storage:
    """A folder or file on a file system of fsspec; all paths given and returned are relative to `root`."""

    files: Any
    root: str
    is_local: bool
    protocol: str

    def path(self, relative: str = "") -> str:
        """Return the path as the file system knows it."""
        return f"{self.root.rstrip('/')}/{relative}" if relative else self.root

    def url(self, relative: str = "") -> str:
        """Return the path as `--data` may name it."""
        return (
            self.path(relative) if self.is_local else f"{self.protocol}://{self.path(relative).lstrip('/')}"
        )

    def is_folder(self) -> bool:
        """Return whether the root is a folder; InputError where that cannot be asked."""
        return self._is(self.files.isdir)

    def exists(self) -> bool:
        """Return whether there is anything at the root; InputError where that cannot be asked."""
        return self._is(self.files.exists)

    def find(self) -> list[str]:
        """Return the paths of all files below the root, sorted, hidden ones passed over."""
        if self.is_local:
            found = _walk(Path(self.root))
        else:
            base = self.root.strip("/")
            found = (path.lstrip("/").removeprefix(base).lstrip("/") for path in self.files.find(self.root))
        return sorted(path for path in found if not any(part.startswith(".") for part in path.split("/")))

    def open(self, relative: str = "") -> IO[bytes]:
        """Open a file to be read.

        Raises:
            OSError: it cannot be read, or is no regular file.
            InputError: it lies elsewhere, and could not be reached however often it was tried; so does reading it.
        """
        path = self.path(relative)
        if self.is_local:
            return open_regular(path)
        return SteadyFile(lambda: self.files.open(path, "rb"), self.url(relative))  # pyright: ignore[reportReturnType]

    def read(self, relative: str, limit: int) -> bytes:
        """Return the bytes of a file; see `open` for what is raised besides.

        Raises:
            TooLarge: there are more than `limit`.
        """
        if (size := self.size(relative)) > limit:
            raise TooLarge(f"{size} bytes, at most {limit} pass")
        with self.open(relative) as file:
            return file.read()

    def size(self, relative: str = "") -> int:
        """Return the number of bytes of a file; OSError where there is none."""
        if self.is_local:
            return os.stat(self.path(relative)).st_size
        return int(self._info(relative)["size"] or 0)

    def digest(self, relative: str = "") -> str:
        """Return what stands for the content of a file.

        On a disk the SHA-256 of its bytes; elsewhere its size with the version the storage tells (an ETag, a
        checksum), else with the time it was written, and its bytes only where the storage tells neither.
        """
        try:
            if not self.is_local:
                info = self._info(relative)
                for names in (_VERSIONS, _TIMES):
                    told = {name: str(info[name]) for name in names if info.get(name)}
                    if told:
                        text = json.dumps(told | {"size": info.get("size")}, sort_keys=True)
                        return hashlib.sha256(text.encode()).hexdigest()
            with self.open(relative) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]
        except OSError as error:
            return f"{UNREADABLE} {error.errno}"

    def _is(self, ask: Callable[[str], bool]) -> bool:
        """Ask about the root; InputError where there is no answer."""
        if self.is_local:
            return bool(ask(self.root))
        try:
            return bool(steadily(self.url(), lambda: ask(self.root)))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise InputError(
                f"--data {self.url()}: cannot be looked at ({one_line(error)}); check its name and your rights."
            ) from error

    def _info(self, relative: str) -> dict[str, Any]:
        return steadily(self.url(relative), lambda: self.files.info(self.path(relative)))


def open_regular(path: str | Path) -> IO[bytes]:
    """Open a file of the disk to be read; OSError where it is no regular file: a pipe would be waited for for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("a pipe, socket or device")
    return open(path, "rb")


def storage_at(text: str) -> Storage:
    """Return the storage a path or URI names; nothing is looked at yet.

    Raises:
        InputError: the protocol is unknown, its package is missing, the URI holds a password, or the path a zero byte.
    """
    if "\0" in text:
        raise InputError(f"--data {text!r}: no path holds a zero byte; write the name anew.")
    if not is_uri(text):
        from fsspec.implementations.local import LocalFileSystem

        # Links are not resolved: the caches of hubs link x.parquet to a file that is named by its digest alone.
        return Storage(LocalFileSystem(), os.path.abspath(os.path.expanduser(text)), True, "file")
    if _PASSWORD.search(text):
        shown = _PASSWORD.sub("://...@", text)
        raise InputError(
            f"--data {shown}: a password in a URI would be recorded with every run; leave it out and give "
            "it by the environment variables or the configuration file of the storage."
        )
    protocol = text.split("://", 1)[0].lower()
    files, root = _file_system(protocol, text)
    if protocol in ("file", "local"):
        return storage_at(root)
    return Storage(files, root, False, protocol)


def _file_system(protocol: str, text: str) -> tuple[Any, str]:
    import fsspec
    from fsspec.registry import known_implementations

    known = known_implementations.get(protocol)
    if known is None and protocol not in fsspec.available_protocols():
        raise InputError(
            f"--data {text}: the protocol {protocol!r} is unknown; use a path, s3://, gs://, az://, hf: or "
            "another one of fsspec."
        )
    try:
        return fsspec.url_to_fs(text)
    except ImportError as error:
        needed = error.name or str((known or {}).get("err", protocol))
        extra = "pip install 'fluxline[store]'" if protocol in ("s3", "s3a") else "install it with pip"
        raise InputError(
            f"--data {text}: {protocol}:// needs a package that is missing ({needed}); {extra}."
        ) from error
    except Exception as error:  # every storage package raises its own kinds, of credentials above all
        raise InputError(f"--data {text}: {protocol}:// cannot be used ({one_line(error)}).") from error


def expanded(text: str) -> list[str]:
    """Return the paths of a pattern with braces: `shard-{000..010}.tar`, `{a,b}.tar`, also several in one.

    Raises:
        InputError: a range runs backwards, or the pattern gives more than a million paths.
    """
    parts = re.split(r"\{([^{}]*(?:\.\.|,)[^{}]*)\}", text)
    choices: list[list[str]] = []
    count = 1
    for place, part in enumerate(parts):
        choices.append([part] if place % 2 == 0 else _alternatives(part, text))
        count *= len(choices[-1])
        if count > _MAX_EXPANDED:
            raise InputError(
                f"--data {text}: the braces give more than {_MAX_EXPANDED} files; narrow the range."
            )
    return ["".join(each) for each in itertools.product(*choices)]


def _alternatives(inside: str, text: str) -> list[str]:
    numbers = re.fullmatch(r"(\d{1,12})\.\.(\d{1,12})", inside)
    if numbers is None:
        return inside.split(",")
    first, last = int(numbers[1]), int(numbers[2])
    if last < first or last - first >= _MAX_EXPANDED:
        raise InputError(
            f"--data {text}: the range {{{inside}}} runs backwards or is too long; write {{FIRST..LAST}}."
        )
    width = len(numbers[1]) if numbers[1].startswith("0") or len(numbers[1]) == len(numbers[2]) else 0
    return [f"{number:0{width}d}" for number in range(first, last + 1)]


def one_line(error: BaseException) -> str:
    """Return what an error says as one line of bounded length, for a sentence around it."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300].rstrip(" .")


def _walk(root: Path) -> Iterator[str]:
    """Yield the files below a local folder, following links, each folder once."""
    visited: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        with contextlib.suppress(OSError):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in visited:
                subfolders.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
        subfolders.sort()
        relative = os.path.relpath(folder, root)
        yield from (name if relative == "." else f"{relative}/{name}" for name in names)
