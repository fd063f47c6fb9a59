"""Backup of a home while it works: its files, both databases, and a manifest, written last (see `backup_pool`).

What refers is copied before what it refers to (databases' records of runs before their files, records before
artifacts, how far a spool was sent before the spool), so that a backup taken while a stage runs is what a machine that
lost its power at that moment would hold: the next run goes on from it.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fluxmodel.errors import ArtifactError, InputError
from tasks.artifacts import MANIFEST
from tasks.backup_pool import DatabaseEntry, Entry, Manifest, Pool, read_manifest
from tasks.database_copies import copy_database
from tasks.databases import mlflow_database, prefect_database, require_database, shown_address
from tasks.home import Home
from tasks.in_use import in_use

_DATABASES = ("prefect", "mlflow.db", "databases.json")
_PROCESSES = ("locks", "slots", "present", "servers.json")
_REPLACEABLE = ("logs", "fetched", "features")
LEFT_OUT = (*_DATABASES, *_PROCESSES, *_REPLACEABLE)
"""Of a home: databases, which are copied apart; what belongs to processes; what may be deleted at any time."""
DATABASE_FILES = {"Prefect": "prefect/prefect.db", "MLflow": "mlflow.db"}
_ORDER = ("results", "pipelines", "owed", "runs", "work", "", "mlartifacts", "artifacts")
_WORK_ORDER = ("finished", "tracking.json")


@dataclass(frozen=True)
class Made:
    """A finished backup: its manifest's file, what it holds, and how many bytes of that were new."""

    path: Path
    manifest: Manifest
    new_bytes: int
    seconds: float

    @property
    def num_bytes(self) -> int:
        """Of all its files and databases."""
        return sum(each.bytes for each in [*self.manifest.files, *self.manifest.databases])


def back_up(home: Home, folder: Path, keep: int = 0) -> Made:
    """Back a home up into a folder of backups, while runs and servers work; with `keep`, drop all but the newest.

    Cut off at any moment it leaves the backups before it, and files that the next one need not copy again.

    Raises:
        InputError: there is no such home, the folder lies in it or cannot be written to, a database cannot be read.
        StageError: a database is damaged.
    """
    if not home.root.is_dir():
        raise InputError(f"There is no home at {home.root}; set FLUXLINE_HOME to the one to back up.")
    if folder.resolve().is_relative_to(home.root.resolve()):
        raise InputError(
            f"{folder} lies in the home it is to save; name a folder elsewhere, best on another disk."
        )
    started, begun = time.monotonic(), time.time()
    pool = Pool(folder)
    with pool.locked(), in_use(home):
        known = _known_files(pool, home)
        databases = _Databases(home, pool)
        prefect = databases.copy("Prefect")
        files, new = [], 0
        mlflow: list[DatabaseEntry] = []
        for name in _ORDER:
            if name == "mlartifacts":  # whatever the database names was written before
                mlflow = databases.copy("MLflow")
            for path in _files(home, name):
                entry, num_new = _entry(pool, home, path, known)
                files += [entry] if entry else []
                new += num_new
        is_local = home.artifacts == str(home.root / "artifacts")
        manifest = Manifest(
            made=begun,
            home=str(home.root),
            store="" if is_local else home.artifacts,
            tracking=databases.elsewhere,
            versions=_versions(),
            databases=[*prefect, *mlflow],
            files=sorted(files, key=lambda each: each.path),
        )
        path = pool.write(manifest)
        if keep:
            pool.prune(keep)
    return Made(path, manifest, new + databases.new, time.monotonic() - started)


class _Databases:
    """Copies of both databases."""

    def __init__(self, home: Home, pool: Pool):
        self.home, self.pool, self.new = home, pool, 0
        tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
        is_ours = not tracking or _is_served_here(home, tracking)
        self.elsewhere = "" if is_ours else shown_address(tracking)

    def copy(self, owner: str) -> list[DatabaseEntry]:
        """Copy the database of `owner` into the pool; nothing where there is none."""
        if owner == "MLflow" and self.elsewhere:
            return []
        database = {"Prefect": prefect_database, "MLflow": mlflow_database}[owner](self.home)
        if database.is_sqlite and not database.file.is_file():
            return []
        revision = require_database(database, self.home, is_any_schema=True)  # before an upgrade one is due
        with tempfile.TemporaryDirectory(dir=self.pool.root, prefix=".database-") as folder:
            copy = Path(folder) / "copy"
            copy_database(database, copy)
            sha256, size, _, new = self.pool.keep(copy)
        self.new += new
        return [
            DatabaseEntry(owner=owner, dialect=database.dialect, revision=revision, sha256=sha256, bytes=size)
        ]


def _is_served_here(home: Home, tracking: str) -> bool:
    with suppress(OSError, ValueError, AttributeError):
        return json.loads(home.servers.read_text()).get("mlflow_url", "").rstrip("/") == tracking.rstrip("/")
    return False


def _known_files(pool: Pool, home: Home) -> dict[str, Entry]:
    """What the newest backup of this home holds: a file of the same size and time need not be read again."""
    for path in reversed(pool.manifests()):
        with suppress(ArtifactError, InputError):
            manifest = read_manifest(path)
            if manifest.home == str(home.root):
                return {each.path: each for each in manifest.files}
    return {}


def _entry(pool: Pool, home: Home, path: Path, known: dict[str, Entry]) -> tuple[Entry | None, int]:
    name = path.relative_to(home.root).as_posix()
    try:
        before, now = known.get(name), path.stat()
        is_same = before and (before.bytes, before.mtime) == (now.st_size, now.st_mtime_ns)
        if before and is_same and pool.place(before.sha256).is_file():
            return before, 0
        sha256, size, mtime, new = pool.keep(path)
    except FileNotFoundError:  # a run tidied up meanwhile
        return None, 0
    return Entry(path=name, sha256=sha256, bytes=size, mtime=mtime), new


def _files(home: Home, name: str) -> Iterator[Path]:
    """Files below one folder of the home; for the empty name those of all folders that have no place of their own."""
    if name:
        tops = [home.root / name]
    else:
        tops = [p for p in sorted(home.root.glob("*")) if p.name not in (*LEFT_OUT, *_ORDER)]
    found = [path for top in tops if not top.name.startswith("mlflow.db") for path in _walk(top)]
    kept = (path for path in found if _is_state(path.relative_to(home.root)))
    if name == "artifacts":
        kept = (path for path in kept if _is_whole(home.root / Path(*path.relative_to(home.root).parts[:3])))
    yield from sorted(kept, key=_rank) if name == "work" else kept


def _walk(top: Path) -> Iterator[Path]:
    if top.is_file():
        yield top
        return
    seen: set[str] = set()
    for folder, inner, names in os.walk(top, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner.sort()
        yield from (path for name in sorted(names) if (path := Path(folder, name)).is_file())


def _rank(path: Path) -> tuple[int, str]:
    """Of scratch: marks that something is finished or sent, then checkpoints, then spools, which hold the most."""
    if path.name in _WORK_ORDER:
        return 0, str(path)
    return (2 if path.suffix == ".jsonl" else 1), str(path)


def _is_state(path: Path) -> bool:
    """Whether a file is what a run left on purpose: no lock, nothing half-written."""
    if path.parts[0] in ("artifacts", "mlartifacts"):  # inside of an artifact every name is content
        return not any(part.startswith(".") for part in path.parts[:3])
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.name != "lock" and path.suffix not in (".lock", ".tmp", ".partial")


def _is_whole(artifact: Path) -> bool:
    return (artifact / MANIFEST).is_file()


def _versions() -> dict[str, str]:
    found = {}
    for name in ("fluxline", "prefect", "mlflow"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
