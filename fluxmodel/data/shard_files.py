"""The files of a sharded source: listed once in the order of their paths, opened one at a time."""

from dataclasses import dataclass

from fluxmodel.data.storage import Storage, expanded, is_uri, printable, storage_at
from fluxmodel.errors import InputError

TABLE_SUFFIXES = (".parquet", ".arrow", ".feather")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class ShardFiles:
    """Files of one kind below one place.

    Attributes:
        spec: what `--data` names, so that it can be opened again from anywhere.
        name: the last part of it, which does not say where it lies.
        storage: the folder they are in.
        paths: relative to the folder, sorted.
    """

    spec: str
    name: str
    storage: Storage
    paths: tuple[str, ...]


def files_named(text: str) -> ShardFiles:
    """Return the files that a pattern with braces, or the path of one file, names.

    Raises:
        InputError: one of them is not there, or the pattern is wrong.
    """
    whole = storage_at(text)
    names = [text] if whole.exists() else expanded(text)
    places = [whole] if whole.exists() else [storage_at(name) for name in names]
    missing = [name for name, place in zip(names, places, strict=True) if not place.exists()]
    if missing and len(names) == 1:
        raise InputError(f"--data {text}: there is no such file; check the path.")
    if missing:
        raise InputError(
            f"--data {text}: {len(missing)} of the {len(names)} files are missing, the first {missing[0]}; correct the "
            "range in the braces."
        )
    folders = {place.root.rpartition("/")[0] for place in places}
    if len(folders) > 1:
        raise InputError(
            f"--data {text}: the braces name several folders; name one, or list them in a YAML file."
        )
    folder = Storage(places[0].files, folders.pop(), whole.is_local, whole.protocol)
    paths = tuple(sorted({place.root.rpartition("/")[2] for place in places}))
    return ShardFiles(whole.url() if is_uri(text) else whole.root, printable(_last(text)), folder, paths)


def files_in(storage: Storage, paths: list[str], suffixes: tuple[str, ...]) -> ShardFiles:
    """Return those of `paths` in a folder that end in one of `suffixes`."""
    chosen = tuple(sorted(path for path in paths if path.lower().endswith(suffixes)))
    return ShardFiles(storage.url(), printable(_last(storage.root)), storage, chosen)


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
