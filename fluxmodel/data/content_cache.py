"""Values by content, kept between runs: what was computed once from the same bytes in the same way is not done again.

A cache's folder is DIRECTORY/NAME/RECIPE/, where the recipe says all that was done to the content, so whoever does it
otherwise meets another folder and never a stale value. In it lie segments (`cache_segments`): every process appends to
one that nobody else writes, so any number may write at once, and kill -9 loses what was not flushed and nothing else.
Values are checked whenever they are read; a damaged one is absent. A cache never fails a run: where nothing can be
written (a full or read-only disk, the quota) it says so in one line and keeps no more.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np

from fluxmodel.data.cache_quota import LIMIT, ROOM, cache_limit, trim
from fluxmodel.data.cache_segments import ENTRY, SegmentReader, SegmentWriter, prefix_of

RECIPE = "recipe.json"
LOCK = "lock"
SEGMENT_BYTES = 1 << 28
_PENDING_BYTES, _PENDING_VALUES = 8 << 20, 4096
_MERGE_ENTRIES = 1 << 16
_SEGMENT_SHIFT = 44

T = TypeVar("T")


def recipe_digest(recipe: Mapping[str, object]) -> str:
    """Return the name of a recipe's folder; equal recipes have equal names, whatever the order of their fields."""
    return hashlib.sha256(json.dumps(dict(recipe), sort_keys=True).encode()).hexdigest()[:24]


class ContentCache:
    """A map from the sha256 of a content to bytes, shared between runs and processes.

    It sees what others had flushed when it was opened. Opened on 10^6 values its index takes 16 MB; values put
    since take some 100 bytes each until 65 536 of them are merged. Threads may share it; a forked process goes on
    with what it has and writes a segment of its own.

    Attributes:
        folder: where the segments lie.
        trouble: why nothing more is kept, as a sentence; empty while all is well.
    """

    def __init__(self, directory: str | Path, recipe: Mapping[str, object]) -> None:
        """Open the cache of a recipe below `directory`, making it where it is missing.

        Args:
            directory: of all caches, as `run.home.root / "cache"`.
            recipe: all that is done to the content (transform, encoder's digest, version of the code); plain JSON. Its
                field `name` names the folder, by default "values".
        """
        self.root = Path(directory)
        self.recipe = dict(recipe)
        self.folder = self.root / str(recipe.get("name", "values")) / recipe_digest(recipe)
        self.trouble = ""
        self._lock = -1
        self._mutex = threading.RLock()
        self._pending: dict[bytes, bytes] = {}
        self._pending_bytes = 0
        self._recent: dict[int, list[int]] = {}
        self._prefixes, self._places = np.empty(0, np.uint64), np.empty(0, np.int64)
        self._readers: list[SegmentReader] = []
        self._used: set[int] = set()
        self._writer: SegmentWriter | None = None
        self._writer_number, self._segment_bytes = -1, SEGMENT_BYTES
        self._has_written = False
        self._pid = os.getpid()
        self._tried(self._open)

    def __contains__(self, key: str) -> bool:
        """Return whether a value of `key` (sha256 as hex) lies here; only `get` finds out whether it is whole."""
        raw = _raw(key)
        with self._mutex:
            return raw in self._pending or any(
                self._readers[place >> _SEGMENT_SHIFT].key_at(_offset(place)) == raw
                for place in self._find(raw)
            )

    def get(self, key: str) -> bytes | None:
        """Return the value of `key`, None where there is none or it is damaged."""
        raw = _raw(key)
        with self._mutex:
            if raw in self._pending:
                return self._pending[raw]
            for place in self._find(raw):
                number = place >> _SEGMENT_SHIFT
                if self._readers[number].key_at(_offset(place)) not in (None, raw):
                    continue  # the first 8 bytes are the same, the others not
                value = self._readers[number].value_at(_offset(place), raw)
                if value is not None:
                    self._mark_used(number)
                    return value
                self._forget(raw, place)
            return None

    def put(self, key: str, value: bytes) -> None:
        """Keep a value, durably after `flush`; where one lies already this changes nothing."""
        raw = _raw(key)
        if len(value) >= 1 << 32:
            raise ValueError(f"a value of {len(value)} bytes; a cache holds values of less than 4 GiB")
        with self._mutex:
            if self.trouble or key in self:
                return
            self._pending[raw] = bytes(value)
            self._pending_bytes += len(value)
            if self._pending_bytes >= _PENDING_BYTES or len(self._pending) >= _PENDING_VALUES:
                self.flush()

    def flush(self) -> None:
        """Write what was put to the disk; others that open the cache from now on see it."""
        with self._mutex:
            if self._pending and not self.trouble:
                self._tried(self._write)
            self._pending, self._pending_bytes = {}, 0

    def close(self) -> None:
        """Flush, and give up files and locks."""
        with self._mutex:
            self.flush()
            self._close_writer()
            for reader in self._readers:
                reader.close()
            if self._lock >= 0:
                os.close(self._lock)
            if self._has_written:
                trim(self.root, ROOM * cache_limit(self.root))
            self._lock, self._has_written = -1, False
            self._readers, self._recent = [], {}
            self._prefixes, self._places = np.empty(0, np.uint64), np.empty(0, np.int64)
            self.trouble = self.trouble or "closed"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of values; one that was damaged and put again may count twice."""
        return len(self._places) + sum(map(len, self._recent.values())) + len(self._pending)

    def _open(self) -> None:
        self._lock = locked_folder(self.folder)
        write_recipe(self.folder, self.recipe)
        found = [np.empty(0, ENTRY)]
        numbers = [np.empty(0, np.int64)]
        for path in sorted(self.folder.glob("*.values")):
            with suppress(OSError):
                reader = SegmentReader(path)
                found.append(reader.entries)
                numbers.append(np.full(len(reader.entries), len(self._readers), np.int64))
                reader.entries = found[0]
                self._readers.append(reader)
        entries, segments = np.concatenate(found), np.concatenate(numbers)
        self._merge(entries["prefix"], segments << _SEGMENT_SHIFT | entries["offset"].astype(np.int64) >> 4)

    def _write(self) -> None:
        if self._pid != os.getpid():  # forked: the segment is the parent's
            self._writer, self._pid = None, os.getpid()
        writer = self._writer or self._begin()
        self._has_written = True
        entries = writer.append(list(self._pending.items()))
        for prefix, offset in entries.tolist():
            self._recent.setdefault(prefix, []).append(self._writer_number << _SEGMENT_SHIFT | offset >> 4)
        if len(self._recent) >= _MERGE_ENTRIES:
            prefixes = [prefix for prefix, places in self._recent.items() for _ in places]
            places = [place for places in self._recent.values() for place in places]
            self._recent = {}
            self._merge(np.array(prefixes, np.uint64), np.array(places, np.int64))
        if writer.end >= self._segment_bytes:
            self._close_writer()

    def _begin(self) -> SegmentWriter:
        """Go on with a segment that nobody writes, else begin one.

        Raises:
            OSError: nothing can be written here, or the quota is used up.
            InputError: the quota is no number.
        """
        limit = cache_limit(self.root)
        if trim(self.root, ROOM * limit) + self._pending_bytes >= limit:
            raise OSError(
                f"the caches may hold {limit / 1e9:.3g} GB, and what they hold is in use or leaves no room for "
                f"{self._pending_bytes / 1e9:.3g} GB; see {LIMIT}"
            )
        self._segment_bytes = min(SEGMENT_BYTES, limit // 10)
        for number, reader in enumerate(self._readers):
            if reader.is_clean and reader.end < self._segment_bytes:
                with suppress(OSError):
                    self._writer, self._writer_number = SegmentWriter(reader.path, reader), number
                    reader.is_clean = False
                    return self._writer
        path = self.folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}.values"
        self._writer = SegmentWriter(path)
        self._writer_number = len(self._readers)
        self._readers.append(SegmentReader(path))
        self._readers[-1].is_clean = False
        return self._writer

    def _close_writer(self) -> None:
        if self._writer is not None and self._pid == os.getpid():
            self._writer.close()
        self._writer = None

    def _merge(self, prefixes: np.ndarray, places: np.ndarray) -> None:
        """Add entries to the sorted index; of one prefix the latest written comes last."""
        prefixes = np.concatenate([self._prefixes, prefixes])
        places = np.concatenate([self._places, places])
        order = np.argsort(prefixes, kind="stable")
        self._prefixes, self._places = prefixes[order], places[order]

    def _find(self, raw: bytes) -> list[int]:
        """Return the places where a value of the key may lie, the latest first."""
        prefix = np.uint64(prefix_of(raw))
        first = int(np.searchsorted(self._prefixes, prefix, "left"))
        last = int(np.searchsorted(self._prefixes, prefix, "right"))
        return [*self._recent.get(int(prefix), [])[::-1], *self._places[first:last][::-1].tolist()]

    def _forget(self, raw: bytes, place: int) -> None:
        """Drop a damaged value from the index, so that it can be put again."""
        prefix = prefix_of(raw)
        if place in self._recent.get(prefix, []):
            self._recent[prefix].remove(place)
        else:
            first = int(np.searchsorted(self._prefixes, np.uint64(prefix), "left"))
            at = first + self._places[first:].tolist().index(place)
            self._prefixes, self._places = np.delete(self._prefixes, at), np.delete(self._places, at)

    def _mark_used(self, number: int) -> None:
        """Leave the time of use at a segment, once: the quota takes those not used for longest."""
        if number not in self._used:
            self._used.add(number)
            with suppress(OSError):
                os.utime(self._readers[number].path)

    def _tried(self, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except OSError as error:
            self._close_writer()
            self.trouble = f"{self.folder}: nothing more is kept in this cache ({error})"
            logging.getLogger(__name__).warning(self.trouble)
        return None


def _raw(key: str) -> bytes:
    raw = bytes.fromhex(key)
    if len(raw) != 32:
        raise ValueError(f"a key must be a sha256 of 64 hexadecimal digits, not {key!r}")
    return raw


def _offset(place: int) -> int:
    """Return where a record begins in its segment; records begin at multiples of 16."""
    return (place & (1 << _SEGMENT_SHIFT) - 1) << 4


def write_recipe(folder: Path, recipe: Mapping[str, object]) -> None:
    """Write what a folder of the cache is about, where it does not say so yet."""
    if not (folder / RECIPE).exists():
        partial = folder / f".{RECIPE}-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            partial.write_text(json.dumps(dict(recipe), indent=2, sort_keys=True) + "\n")
            os.replace(partial, folder / RECIPE)
        finally:
            partial.unlink(missing_ok=True)


def locked_folder(folder: Path) -> int:
    """Make the folder and hold its lock, shared: while anybody does, the quota leaves the folder alone.

    Raises:
        OSError: it can neither be made nor read; where it lies on a disk that is read-only it can still be read.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = _opened_lock(folder / LOCK)
            fcntl.flock(lock, fcntl.LOCK_SH)
            if os.path.samestat(os.fstat(lock), os.stat(folder / LOCK)):
                return lock
            os.close(lock)
        except FileNotFoundError:  # the quota took the folder away just now
            continue


def _opened_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES) and path.exists():
            return os.open(path, os.O_RDONLY)
        raise
