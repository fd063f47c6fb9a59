"""How much the caches of a home may hold, and what goes when they hold more: the segments not used for longest.

Whoever has a cache open holds a lock on its folder, and nothing goes from a folder somebody holds. So a stage's own
values stay while it runs; where they alone fill the quota it keeps no more and says so, and makes room when it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxmodel.errors import InputError

LIMIT = "FLUXLINE_CACHE_LIMIT"
DEFAULT_BYTES = 20_000_000_000
DEFAULT_SHARE = 0.1
"""Without a setting: 20 GB, or a tenth of the disk where that is less."""
_COUNTED = (".values", ".index", ".parquet")
KEPT_LONGEST = ("captions",)
"""What took a model hours or was paid for: little room, never too old, gone when nothing else is left."""
ROOM = 0.9
"""A cache that wrote leaves a tenth of the quota free when it is closed, so that the next run can keep something."""


@dataclass(frozen=True)
class Held:
    """What lies under one recipe.

    Attributes:
        folder: DIRECTORY/NAME/RECIPE.
        name: what is kept, as "latents".
        num_bytes: on the disk.
        used: Unix time of the last use.
        recipe: what was done to the content; empty where it cannot be read.
        is_open: a process has it open.
    """

    folder: Path
    name: str
    num_bytes: int
    used: float
    recipe: dict[str, Any]
    is_open: bool


def cache_limit(root: str | Path) -> int:
    """Return how many bytes the caches below `root` may hold: FLUXLINE_CACHE_LIMIT, else the default; 0 keeps nothing.

    Raises:
        InputError: the setting is no number of bytes.
    """
    said = os.environ.get(LIMIT, "").strip()
    if not said:
        place = next(
            each for each in (Path(root).absolute(), *Path(root).absolute().parents) if each.exists()
        )
        return int(min(DEFAULT_BYTES, DEFAULT_SHARE * shutil.disk_usage(place).total))
    try:
        limit = int(float(said))
    except (ValueError, OverflowError):
        limit = -1
    if limit < 0:
        raise InputError(f"{LIMIT} is {said!r}; give a number of bytes, as 20e9, or 0 for no cache.")
    return limit


def holdings(root: str | Path) -> list[Held]:
    """Return what lies in the caches below `root`, in the order in which it would go."""
    found = []
    for folder in Path(root).glob("*/*/"):
        sizes = [(_size(path), _used(path)) for path in _files(folder)]
        try:
            recipe = json.loads((folder / "recipe.json").read_text())
        except (OSError, ValueError):
            recipe = {}
        used = max((used for _, used in sizes), default=0.0)
        with _alone(folder) as is_ours:
            num_bytes = sum(size for size, _ in sizes)
            found.append(Held(folder, folder.parent.name, num_bytes, used, recipe, not is_ours))
    return sorted(found, key=lambda held: (held.name in KEPT_LONGEST, held.used))


def held_bytes(root: str | Path) -> int:
    """Return how many bytes the caches below `root` hold."""
    return sum(_size(path) for folder in Path(root).glob("*/*/") for path in _files(folder))


def trim(root: str | Path, limit: float) -> int:
    """Remove segments nobody holds, longest unused first, captions last, until `limit` bytes are left; return those."""
    left = held_bytes(root)
    files = (path for folder in Path(root).glob("*/*/") for path in _files(folder))
    segments = [path for path in files if path.suffix != ".index"] if left > limit else []
    for segment in sorted(segments, key=lambda path: (path.parts[-3] in KEPT_LONGEST, _used(path))):
        if left <= limit:
            break
        with _alone(segment.parent) as is_ours, suppress(OSError):  # another user's file may not go
            if is_ours:
                for path in (segment.with_suffix(".index"), segment):
                    num_bytes = _size(path)
                    path.unlink(missing_ok=True)
                    left -= num_bytes
                if not any(path.suffix != ".index" for path in _files(segment.parent)):
                    shutil.rmtree(segment.parent, ignore_errors=True)
    return left


def remove(folder: str | Path) -> None:
    """Remove what lies under one recipe.

    Raises:
        OSError: a process has it open, or it cannot be removed.
    """
    with _alone(Path(folder)) as is_ours:
        if not is_ours:
            raise OSError(f"{folder}: a process has it open")
        shutil.rmtree(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Hold a folder's lock so that nobody opens it meanwhile; False where somebody has it open."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = True
        except OSError:
            is_ours = False
        yield is_ours
    finally:
        os.close(lock)


def _files(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from (path for path in folder.iterdir() if path.suffix in _COUNTED)


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _used(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0
