"""What `--data` may name, each as a stream of undecoded samples."""

import os
import re
from collections.abc import Iterator
from typing import Protocol

from fluxmodel.data.curated_dataset import RECORD
from fluxmodel.data.records import Caption, RawSample, UnreadableFile
from fluxmodel.data.shard_files import TABLE_SUFFIXES, TAR_SUFFIXES, ShardFiles, files_in, files_named
from fluxmodel.data.storage import Storage, is_uri, one_line, storage_at
from fluxmodel.errors import InputError

_SUPPORTED = (
    "supported are a folder of images, .parquet and .arrow files, WebDataset .tar files, folders of either, a curated "
    "data set, a .yaml file of several of these, hf:org/name and procedural:shapes?level=demo&n=20000&seed=0"
)
_MAX_FILE_BYTES = 256_000_000
_PROCEDURAL_BATCH = 512


class Source(Protocol):
    """A stream of samples that can be read again from the start."""

    is_procedural: bool

    @property
    def spec(self) -> str:
        """The canonical form of what `--data` named."""
        ...

    @property
    def name(self) -> str:
        """What the artifact calls the source, the same wherever it lies."""
        ...

    def __len__(self) -> int:
        """How many images are to come, for progress alone: an estimate where counting is dear, 0 where unknown."""
        ...

    def __iter__(self) -> Iterator[RawSample | UnreadableFile]: ...

    def fingerprint(self) -> str:
        """Return a digest of all that the stream gives."""
        ...


def open_source(data: str, max_file_bytes: int = _MAX_FILE_BYTES) -> Source:
    """Open what `--data` names.

    Raises:
        InputError: the scheme is unknown, or what is named is missing, empty or ill-formed.
    """
    text = str(data).strip()
    if not text:
        raise InputError(f"--data is empty; {_SUPPORTED}.")
    if is_uri(text) and not text.lower().startswith("hf://"):
        return _open_place(text, max_file_bytes)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", text)
    if scheme is None:
        return _open_place(text, max_file_bytes)
    name = scheme.group(1).lower()
    if name == "procedural":
        return ProceduralScenes(text)
    if name == "hf":
        from fluxmodel.data.hub_source import HubSource

        return HubSource(text, max_file_bytes)
    raise InputError(
        f"--data {text}: the scheme {name!r} is unknown (a path with a colon is written ./{text}); {_SUPPORTED}."
    )


def _open_place(text: str, max_file_bytes: int) -> Source:
    """Open a path or URI by what is there."""
    lower = text.lower().rstrip("/")
    if lower.endswith(TABLE_SUFFIXES + TAR_SUFFIXES) and not _is_folder(text):
        return _shards(files_named(text), max_file_bytes)
    if lower.endswith((".yaml", ".yml")) and not _is_folder(text):
        from fluxmodel.data.mixture import MixtureSource

        return MixtureSource(text, max_file_bytes)
    storage = storage_at(text)
    if storage.is_local:
        return _open_folder(storage, text, max_file_bytes)
    return _open_remote_folder(storage, text, max_file_bytes)


def _open_folder(storage: Storage, text: str, max_file_bytes: int) -> Source:
    from fluxmodel.data.image_folder import FolderSource, NoImageError

    if os.path.isfile(storage.path(RECORD)):
        from fluxmodel.data.curated_source import CuratedSource

        return CuratedSource(storage.root)
    try:
        return FolderSource(storage.root if is_uri(text) else text, max_file_bytes)
    except NoImageError:
        paths = storage.find()
        if not any(path.lower().endswith(TABLE_SUFFIXES + TAR_SUFFIXES) for path in paths):
            raise
    return _open_shard_folder(storage, paths, max_file_bytes)


def _open_shard_folder(storage: Storage, paths: list[str], max_file_bytes: int) -> Source:
    tables, tars = files_in(storage, paths, TABLE_SUFFIXES), files_in(storage, paths, TAR_SUFFIXES)
    if tables.paths and tars.paths:
        raise InputError(
            f"--data {storage.url()}: the folder holds {len(tables.paths)} tables and {len(tars.paths)} tar files; "
            "name one kind, or list both in a .yaml file."
        )
    return _shards(tables if tables.paths else tars, max_file_bytes)


def _shards(files: ShardFiles, max_file_bytes: int) -> Source:
    if files.paths[0].lower().endswith(TAR_SUFFIXES):
        from fluxmodel.data.tar_source import TarSource

        return TarSource(files, max_file_bytes)
    from fluxmodel.data.table_source import TableSource

    return TableSource(files, max_file_bytes)


def _open_remote_folder(storage: Storage, text: str, max_file_bytes: int) -> Source:
    from fluxmodel.data.image_folder import NoImageError
    from fluxmodel.data.remote_folder import RemoteFolderSource

    paths = _listed(storage, text)
    if RECORD in paths:
        raise InputError(
            f"--data {text}: this is a curated data set, and such are read from a disk only; copy the folder to a disk "
            "and name it there."
        )
    try:
        return RemoteFolderSource(storage, paths, max_file_bytes)
    except NoImageError:
        if not any(path.lower().endswith(TABLE_SUFFIXES + TAR_SUFFIXES) for path in paths):
            raise
    return _open_shard_folder(storage, paths, max_file_bytes)


def _listed(storage: Storage, text: str) -> list[str]:
    try:
        paths = storage.find()
    except Exception as error:  # every storage package raises its own kinds, of credentials above all
        raise InputError(
            f"--data {text}: cannot be listed ({one_line(error)}); check its name and your rights."
        ) from error
    if not paths:
        raise InputError(f"--data {text}: there is nothing there; check the name.")
    return paths


def _is_folder(text: str) -> bool:
    return storage_at(text).is_folder()


class ProceduralScenes:
    """Scenes drawn on demand, each a function of (level, seed, index)."""

    is_procedural = True

    def __init__(self, spec: str) -> None:
        """Parse the specification; InputError names the field that is wrong."""
        from fluxmodel.data.procedural import ProceduralSource

        self._source = ProceduralSource.parse(spec)

    @property
    def spec(self) -> str:
        """The specification with every field written out."""
        level = getattr(self._source.level, "name", self._source.level)
        return f"procedural:shapes?level={level}&n={self._source.n}&seed={self._source.seed}"

    @property
    def name(self) -> str:
        """The specification: it says all."""
        return self.spec

    def __len__(self) -> int:
        return self._source.n

    def __iter__(self) -> Iterator[RawSample]:
        """Yield the scenes as PNG with their ground truth and three kinds of caption."""
        from fluxmodel.data import procedural
        from fluxmodel.data.decode import encode_png

        level = self._source.level
        level = procedural.LEVELS[level] if isinstance(level, str) else level
        spec, seed = self.spec, self._source.seed
        for start in range(0, len(self), _PROCEDURAL_BATCH):
            indices = range(start, min(start + _PROCEDURAL_BATCH, len(self)))
            scenes = [procedural.draw_scene(level, seed, index) for index in indices]
            for index, scene, image in zip(indices, scenes, procedural.render(scenes), strict=True):
                captions = (
                    Caption(procedural.detailed_caption(scene), "detailed"),
                    Caption(procedural.short_caption(scene), "short"),
                    Caption(procedural.alt_text(scene, seed, index), "alt"),
                )
                yield RawSample(f"{index:09d}", encode_png(image), spec, "CC0-1.0", captions, scene.to_json())

    def fingerprint(self) -> str:
        """Return the digest of the specification; the code that draws it counts elsewhere."""
        import hashlib

        return hashlib.sha256(self.spec.encode()).hexdigest()
