"""A home back from a backup, there or elsewhere: each file checked against its digest, its addresses moved along."""

import hashlib
import os
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from fluxmodel.errors import ArtifactError, InputError
from tasks.backup import DATABASE_FILES
from tasks.backup_pool import DatabaseEntry, Manifest, Pool, read_manifest
from tasks.database_copies import Mover, is_empty, load_database, move_addresses
from tasks.databases import (
    Database,
    known_revisions,
    mlflow_database,
    prefect_database,
    remember,
    require_database,
)
from tasks.home import Home

_CONTENT = ("artifacts", "mlartifacts")
"""Named by digests: never rewritten."""
_LARGEST_TEXT = 1 << 24
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Restored:
    """A home that stands again.

    Attributes:
        home: where.
        manifest: of the backup it is from.
        path: of that manifest.
        kept: where the home that stood there was moved to; None where there was none.
        notes: what to do next, a sentence each.
    """

    home: Home
    manifest: Manifest
    path: Path
    kept: Path | None
    notes: list[str]


def restore_home(home: Home, source: Path, is_forced: bool = False) -> Restored:
    """Restore a home from a folder of backups (the newest) or from one manifest of it.

    Nothing appears at the home's place before all of it is there and checked; with `is_forced`, what stood there is
    moved aside, and a PostgreSQL database's tables are replaced.

    Raises:
        InputError: there is no backup, the home is not empty, or the installed tools cannot use the databases.
        ArtifactError: the backup is damaged.
    """
    path = _manifest_path(source)
    manifest, pool = read_manifest(path), Pool(path.parent.parent)
    targets = {each.owner: _target(each, home) for each in manifest.databases}
    for each in manifest.databases:
        _require_usable(each, targets[each.owner], home, is_forced)
    if home.root.is_dir() and any(home.root.iterdir()) and not is_forced:
        raise InputError(
            f"{home.root} is not empty; name another place by --home, or add --force to move what is there aside."
        )
    home.root.parent.mkdir(parents=True, exist_ok=True)
    staged = home.root.with_name(f".{home.root.name}-restoring-{uuid.uuid4().hex[:8]}")
    try:
        _fill(staged, manifest, pool, home)
        dumps = [each for each in manifest.databases if each.dialect == "postgresql"]
        for each in dumps:
            load_database(targets[each.owner], staged / _file(each), is_replaced=is_forced)
        shutil.rmtree(staged / ".dumps", ignore_errors=True)
        kept = _put_in_place(staged, home)
        for each in dumps:
            remember(targets[each.owner], home)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return Restored(home, manifest, path, kept, list(_notes(manifest, targets)))


def _manifest_path(source: Path) -> Path:
    if source.is_file():
        return source.absolute()
    found = Pool(source).manifests()
    if not found:
        raise InputError(f"There is no finished backup in {source}; `fluxline backup {source}` makes one.")
    return found[-1].absolute()


def _target(entry: DatabaseEntry, home: Home) -> Database:
    return {"Prefect": prefect_database, "MLflow": mlflow_database}[entry.owner](home)


def _require_usable(entry: DatabaseEntry, target: Database, home: Home, is_forced: bool) -> None:
    if entry.dialect != target.dialect:
        cure = (
            f"set {target.variable} to an empty PostgreSQL database"
            if target.is_sqlite
            else f"unset {target.variable}"
        )
        raise InputError(
            f"The backup holds {entry.owner}'s database as {entry.dialect}, and {target.variable} asks for "
            f"{target.dialect}; {cure}."
        )
    if target.is_sqlite and os.environ.get(target.variable):
        raise InputError(
            f"{target.variable} names a file, but {entry.owner}'s database is restored into the home; unset it."
        )
    known, _ = known_revisions(target)
    if entry.revision and known and entry.revision not in known:
        raise InputError(
            f"The backup's {entry.owner} database has the schema {entry.revision}, which the installed {entry.owner} "
            "does not know; install the version that wrote it, or a newer one."
        )
    if not target.is_sqlite:
        require_database(target, home, is_any_schema=True)
        if not is_forced and not is_empty(target):
            raise InputError(
                f"The database {target.shown} is not empty; name an empty one by {target.variable}, or add --force to "
                "replace its tables."
            )


def _fill(staged: Path, manifest: Manifest, pool: Pool, home: Home) -> None:
    old, new = Path(manifest.home), home.root
    moved = Mover(old, new) if old != new else None
    for entry in manifest.files:
        target = staged / entry.path
        if not target.resolve().is_relative_to(staged.resolve()):
            raise ArtifactError(
                f"The backup names a file outside of the home ({entry.path}); it is not restored."
            )
        _copy(pool, entry.sha256, target, entry.path)
        if moved and not entry.path.startswith(tuple(f"{name}/" for name in _CONTENT)):
            _move_text(target, moved)
        os.utime(target, ns=(entry.mtime, entry.mtime))
    for each in manifest.databases:
        target = staged / _file(each)
        _copy(pool, each.sha256, target, f"{each.owner}'s database")
        if moved:
            move_addresses(target, old, new)


def _file(entry: DatabaseEntry) -> str:
    return DATABASE_FILES[entry.owner] if entry.dialect == "sqlite" else f".dumps/{entry.owner}.sql"


def _copy(pool: Pool, sha256: str, target: Path, name: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    try:
        with pool.place(sha256).open("rb") as source, target.open("wb") as sink:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                sink.write(chunk)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"The backup lacks {name} ({pool.place(sha256)}); restore an older one."
        ) from error
    if digest.hexdigest() != sha256:
        raise ArtifactError(f"The backup's {name} is damaged ({pool.place(sha256)}); restore an older one.")


def _move_text(path: Path, moved: Mover) -> None:
    if path.stat().st_size > _LARGEST_TEXT:
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:  # images, weights, checkpoints: they name no places
        return
    if (told := moved(text)) != text:
        path.write_text(told, encoding="utf-8")


def _put_in_place(staged: Path, home: Home) -> Path | None:
    kept = None
    if home.root.is_dir() and any(home.root.iterdir()):
        kept = home.root.with_name(f"{home.root.name}.before-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}")
        os.rename(home.root, kept)
    try:
        os.replace(staged, home.root)  # over an empty folder it may
    except OSError as error:
        raise InputError(
            f"{home.root} cannot be replaced ({error.strerror}; a mount point perhaps); name a folder in it by --home."
        ) from error
    return kept


def _notes(manifest: Manifest, targets: dict[str, Database]):
    if manifest.store:
        yield f"Its artifacts are in {manifest.store}, which is no part of the backup: set FLUXLINE_STORE to it."
    if manifest.tracking:
        yield f"Its runs are in MLflow at {manifest.tracking}: set MLFLOW_TRACKING_URI to it."
    for each in manifest.databases:
        _, head = known_revisions(targets[each.owner])
        if each.owner == "MLflow" and each.revision and head and each.revision != head:
            yield "Its MLflow database is of an older schema: the next command says how to upgrade it."
