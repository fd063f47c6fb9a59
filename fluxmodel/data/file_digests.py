"""The sha256 of large files, kept by what the disk says of them, so that gigabytes are not read to know their name.

A file is known again by its path, device, inode, size and both its times. The time of change (ctime) cannot be set
back: whatever writes to a file, or puts another in its place, changes it. One that changed in the last seconds may
change again within the same tick of the disk's clock, so its digest is not kept yet.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from fluxmodel.data.content_cache import ContentCache

_RACY_NS = 2_000_000_000


def kept_digests(paths: Sequence[Path], cache: str | Path) -> list[str]:
    """Return the sha256 of each file as hex; those that were read before and have not changed are not read.

    Args:
        paths: files.
        cache: folder of all caches.

    Raises:
        OSError: a file cannot be read.
    """
    with ContentCache(cache, {"name": "files", "digest": "sha256"}) as kept:
        return [_digest(path, kept) for path in paths]


def _digest(path: Path, kept: ContentCache) -> str:
    before, now = _told(path), time.time_ns()
    key = hashlib.sha256(json.dumps(before).encode()).hexdigest()
    value = kept.get(key)
    if value is not None and len(value) == 32:
        return value.hex()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    is_settled = now - max(before[-2:]) > _RACY_NS
    if is_settled and _told(path) == before:
        kept.put(key, digest.digest())
    return digest.hexdigest()


def _told(path: Path) -> list:
    """Return what the disk says of a file; its times of writing and of change come last."""
    status = os.stat(path)
    return [
        os.path.realpath(path),
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    ]
