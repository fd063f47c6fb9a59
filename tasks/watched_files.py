"""The files of a data set that is watched: what they are, and what tells cheaply that one has changed.

A folder of images, parquet, arrow and tar files, on a disk or on a storage. On a disk a file's size and times are
looked at, and its content where they changed; a storage tells the version of an object without its content.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fluxmodel.data.image_folder import FolderSource
from fluxmodel.data.records import Reason
from fluxmodel.data.remote_folder import RemoteFolderSource
from fluxmodel.data.sources import open_source
from fluxmodel.data.storage import Storage, is_uri, storage_at
from fluxmodel.data.table_source import TableSource
from fluxmodel.data.tar_source import TarSource
from fluxmodel.errors import InputError


@dataclass(frozen=True)
class WatchedFiles:
    """Files and how to look at one.

    Attributes:
        spec: what `--data` names, absolute.
        kind: of the source, with which a fingerprint begins.
        paths: of the files, sorted.
        digest: of a file by its path: what stands for its content.
        place: where a file lies on a disk, empty on a storage.
    """

    spec: str
    kind: str
    paths: Sequence[str]
    digest: Callable[[str], str]
    place: Callable[[str], str]

    def stat(self, path: str) -> list[int] | None:
        """Return size, times and inode of a file on a disk; None where they cannot be had."""
        try:
            status = os.stat(place) if (place := self.place(path)) else None
        except OSError:
            return None
        return status and [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def watched_files(data: str) -> WatchedFiles:
    """Return the files of what `--data` names.

    Raises:
        InputError: it is gone, cannot be read whole, never changes, or is of a kind that is not watched.
    """
    if is_uri(data):
        storage_at(data).files.invalidate_cache()  # a process that looks again would see what it saw
    source = open_source(data)
    if source.is_procedural:
        raise InputError(f"data is {data!r}, which never changes; name a folder of images to watch.")
    if isinstance(source, FolderSource):
        _require_whole(source)
        return WatchedFiles(
            source.spec, source.kind, source.files, source.digest, lambda path: str(source.folder / path)
        )
    if isinstance(source, RemoteFolderSource):
        return _of(source, source.storage, source.paths)
    if isinstance(source, TarSource) or (isinstance(source, TableSource) and not source.names_paths):
        _require_listed(source.files.storage)
        return _of(source, source.files.storage, source.files.paths)
    raise InputError(
        f"data is {data!r}; folders of images, tar files, and tables that hold their images are watched, no hub, "
        "mixture or curated data set and no table of paths; put `retrain` on a schedule instead: it does nothing "
        "while the data are the same."
    )


def _of(
    source: RemoteFolderSource | TarSource | TableSource, storage: Storage, paths: Sequence[str]
) -> WatchedFiles:
    return WatchedFiles(
        source.spec, source.kind, paths, storage.digest, storage.path if storage.is_local else lambda _: ""
    )


def _require_whole(source: FolderSource) -> None:
    """Refuse a folder of which a part cannot be listed: its files would seem to be removed."""
    unreadable = [each for each in source.problems if each.reason == Reason.UNREADABLE_FOLDER]
    if unreadable:
        raise _unlisted(source.spec, unreadable[0].path or ".", unreadable[0].detail)


def _require_listed(storage: Storage) -> None:
    """The same of the folder that files lie in."""

    def refuse(error: OSError) -> None:
        raise _unlisted(
            storage.root, os.path.relpath(error.filename, storage.root), error.strerror or str(error)
        )

    if storage.is_local:
        for _ in os.walk(storage.root, onerror=refuse):
            pass


def _unlisted(spec: str, folder: str, detail: str) -> InputError:
    return InputError(
        f"{spec}: the folder {folder!r} in it cannot be read ({detail}); give the user "
        "Fluxline runs as the right to read it."
    )
