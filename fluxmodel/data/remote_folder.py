"""A folder of images on a storage of fsspec: listed once, read one object at a time.

Captions are found as in a folder on a disk: a sidecar NAME.txt, metadata.jsonl and metadata.csv.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from posixpath import basename, splitext

from fluxmodel.data.folder_captions import FolderCaptions
from fluxmodel.data.image_folder import IMAGE_SUFFIXES, ORPHANS, NoImageError
from fluxmodel.data.metadata_rows import METADATA_NAMES, BadRow, MetadataRow, read_metadata
from fluxmodel.data.records import RawSample, Reason, UnreadableFile
from fluxmodel.data.storage import Storage, TooLarge, fingerprint_of, one_line, printable
from fluxmodel.errors import InputError


class RemoteFolderSource:
    """The images below a folder of a storage, in the order of their paths."""

    is_procedural = False
    kind = "folder"

    def __init__(self, storage: Storage, paths: list[str], max_file_bytes: int = 256_000_000) -> None:
        """Sort the paths by what they are, and read the metadata.

        Raises:
            NoImageError: there is no image among them.
            InputError: a metadata file is unusable.
        """
        self.storage = storage
        self.max_file_bytes = max_file_bytes
        self._images = [path for path in paths if _suffix(path) in IMAGE_SUFFIXES]
        self._metadata = [path for path in paths if basename(path) in METADATA_NAMES]
        self._sidecars = {path for path in paths if _suffix(path) == ".txt"}
        known = {*self._images, *self._metadata, *self._sidecars}
        self.ignored = Counter(_suffix(path) for path in paths if path not in known)
        if not self._images:
            found = ", ".join(
                f"{count} {suffix or 'without suffix'}" for suffix, count in self.ignored.items()
            )
            raise NoImageError(
                f"--data {storage.url()}: no image, table or tar file in the folder (it holds {found or 'captions'}).",
                self.ignored,
            )
        self._captions = FolderCaptions(
            self._images, self._metadata, self._sidecars, self._metadata_rows, self.storage.open
        )
        if self._captions.num_orphans:
            self.ignored[ORPHANS] += self._captions.num_orphans

    @property
    def spec(self) -> str:
        """The URI of the folder."""
        return self.storage.url()

    @property
    def name(self) -> str:
        """What the artifact calls the source; it does not depend on where the folder lies."""
        return f"folder:{printable(basename(self.storage.root.rstrip('/')))}"

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[RawSample | UnreadableFile]:
        """Yield every image, then what is wrong with captions."""
        problems: list[UnreadableFile] = []
        for path in self._images:
            yield self._read_image(path, problems)
        yield from self._captions.problems
        yield from problems

    @property
    def paths(self) -> list[str]:
        """Paths of all that counts, relative to the folder, sorted: images, metadata and captions."""
        return sorted([*self._images, *self._metadata, *self._sidecars])

    def fingerprint(self) -> str:
        """Return the digest over names and versions of all images and captions."""
        return fingerprint_of(self.kind, ((path, self.storage.digest(path)) for path in self.paths))

    def _metadata_rows(self, path: str) -> list[MetadataRow | BadRow]:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / basename(path)
            try:
                with self.storage.open(path) as file:
                    copy.write_bytes(file.read())
            except OSError as error:
                raise InputError(f"{self.storage.url(path)}: cannot be read ({one_line(error)}).") from error
            try:
                return read_metadata(copy)
            except InputError as error:
                raise InputError(str(error).replace(str(copy), self.storage.url(path))) from error

    def _read_image(self, path: str, problems: list[UnreadableFile]) -> RawSample | UnreadableFile:
        try:
            image = self.storage.read(path, self.max_file_bytes)
        except TooLarge as error:
            return UnreadableFile(path, path, Reason.FILE_TOO_LARGE, str(error))
        except OSError as error:
            return UnreadableFile(path, path, Reason.UNREADABLE, one_line(error))
        return self._captions.sample(path, image, self.name, problems)


def _suffix(path: str) -> str:
    return splitext(path)[1].lower()
