"""A folder of backups: each file once by its content, and for each backup a manifest, written last.

```
FOLDER/objects/ab/abcdef...                    files by their sha256, shared by all backups
FOLDER/backups/20261123-114500.250000-1a2b3c4d.json
                                               what a backup holds; the end of its name is its own digest
```
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fluxmodel.errors import ArtifactError, InputError

_CHUNK = 1 << 20
_TRIES = 3


class Entry(BaseModel):
    """A file of a backup; `mtime` is in nanoseconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    sha256: str
    bytes: int
    mtime: int


class DatabaseEntry(BaseModel):
    """A database of a backup: an SQLite file or a dump of PostgreSQL."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    owner: str
    dialect: str
    revision: str = Field(description="Schema revision; empty for a database without tables.")
    sha256: str
    bytes: int


class Manifest(BaseModel):
    """What a backup holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    made: float = Field(description="Unix time at which the backup began.")
    home: str = Field(description="The home's folder then.")
    store: str = Field(
        description="Artifact store outside of the home, which is no part of the backup; empty for none."
    )
    tracking: str = Field(
        description="MLflow server whose database is no part of the backup; empty for none."
    )
    versions: dict[str, str]
    databases: list[DatabaseEntry]
    files: list[Entry]


class Pool:
    """A folder of backups."""

    def __init__(self, root: Path):
        self.root = root

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other backups out of the folder.

        Raises:
            InputError: it cannot be written to, or another backup is being written.
        """
        try:
            (self.root / "objects").mkdir(parents=True, exist_ok=True)
            (self.root / "backups").mkdir(exist_ok=True)
            lock = (self.root / "lock").open("a")
        except OSError as error:
            raise InputError(
                f"{self.root} cannot be written to ({error.strerror}); name a folder you own."
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(
                    f"Another backup is being written to {self.root}; wait until it has ended."
                ) from error
            for left in [*self.root.glob(".database-*"), *(self.root / "objects").glob(".partial-*")]:
                shutil.rmtree(left) if left.is_dir() else left.unlink()  # of one that was cut off
            yield

    def manifests(self) -> list[Path]:
        """Return the manifests of all backups, oldest first."""
        return sorted((self.root / "backups").glob("*.json"))

    def place(self, sha256: str) -> Path:
        """Return where the content with this digest lies."""
        return self.root / "objects" / sha256[:2] / sha256

    def keep(self, source: Path) -> tuple[str, int, int, int]:
        """Copy a file's content into the pool; return its digest, size, time of change (ns), and bytes that were new.

        A file that changes while it is read is read again; one that keeps growing is kept as it was read last.
        """
        for _ in range(_TRIES):
            before = source.stat()
            sha256, size, new = self._copy(source)
            after = source.stat()
            if (before.st_size, before.st_mtime_ns) == (
                after.st_size,
                after.st_mtime_ns,
            ) and size == after.st_size:
                break
        return sha256, size, before.st_mtime_ns, new

    def write(self, manifest: Manifest) -> Path:
        """Write a manifest: from here on there is a backup."""
        text = manifest.model_dump_json()
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        stamp = datetime.fromtimestamp(manifest.made, UTC).strftime("%Y%m%d-%H%M%S.%f")
        path = self.root / "backups" / f"{stamp}-{digest}.json"
        partial = path.with_suffix(".partial")
        with partial.open("w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
        return path

    def prune(self, keep: int) -> int:
        """Drop all but the newest `keep` backups and what only they held; return how many went."""
        going = self.manifests()[:-keep]
        for path in going:
            path.unlink()
        if going:
            kept = [read_manifest(path) for path in self.manifests()]
            needed = {each.sha256 for one in kept for each in [*one.files, *one.databases]}
            for path in (self.root / "objects").glob("*/*"):
                if path.name not in needed:
                    path.unlink()
        return len(going)

    def _copy(self, source: Path) -> tuple[str, int, int]:
        digest, size = hashlib.sha256(), 0
        partial = self.root / "objects" / f".partial-{os.getpid()}"
        with source.open("rb") as stream, partial.open("wb") as target:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                target.write(chunk)
            target.flush()
            place = self.place(digest.hexdigest())
            if place.is_file() and place.stat().st_size == size:
                partial.unlink()
                return digest.hexdigest(), size, 0
            os.fsync(target.fileno())
        place.parent.mkdir(exist_ok=True)
        os.replace(partial, place)
        _sync_folder(place.parent)
        return digest.hexdigest(), size, size


def read_manifest(path: Path) -> Manifest:
    """Return a backup's manifest.

    Raises:
        ArtifactError: it was changed or damaged.
        InputError: it is of another format.
    """
    try:
        text = path.read_text()
        if hashlib.sha256(text.encode()).hexdigest()[:8] != path.stem.rpartition("-")[2]:
            raise ArtifactError(
                f"{path} is damaged: it differs from the digest in its name; take another backup."
            )
        if json.loads(text).get("format") != 1:
            raise InputError(
                f"{path} is of a format that this Fluxline does not know; use the one that wrote it."
            )
        return Manifest.model_validate_json(text)
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({type(error).__name__}); take another backup."
        ) from error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
