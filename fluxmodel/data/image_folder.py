"""A folder of images as a source: walked once by name, read one file at a time.

Captions come from a sidecar NAME.txt and from metadata.jsonl or metadata.csv in any folder of the tree; all
that are found are kept. An image's id is its path relative to the folder, so it does not change when the
folder moves.
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fluxmodel.data.folder_captions import FolderCaptions
from fluxmodel.data.metadata_rows import METADATA_NAMES, read_metadata
from fluxmodel.data.records import RawSample, Reason, UnreadableFile
from fluxmodel.data.storage import UNREADABLE, fingerprint_of, open_regular, printable
from fluxmodel.errors import InputError

IMAGE_SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .webp .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm .avif .ico .heic .heif .jxl".split()
)

ORPHANS = ".txt without an image"


class NoImageError(InputError):
    """A folder without images; `found` counts what it holds instead, by suffix."""

    def __init__(self, text: str, found: Counter[str]) -> None:
        super().__init__(text)
        self.found = found


class FolderSource:
    """The images below a folder, in the order of their paths."""

    is_procedural = False
    kind = "folder"

    def __init__(self, folder: str | Path, max_file_bytes: int = 256_000_000) -> None:
        """Walk the folder.

        Raises:
            InputError: there is no such folder, it holds no image, or a metadata file in it is unusable.
        """
        self.folder = Path(os.path.expanduser(folder))
        self.max_file_bytes = max_file_bytes
        self._require_folder()
        self._visited: set[tuple[int, int]] = set()
        self._images: list[str] = []
        self._metadata: list[str] = []
        self._sidecars: set[str] = set()
        self.ignored: Counter[str] = Counter()
        self.problems: list[UnreadableFile] = []
        self._walk("")
        if not self._images:
            raise NoImageError(self._no_image_sentence(), self.ignored)
        self._captions = FolderCaptions(
            self._images,
            self._metadata,
            self._sidecars,
            lambda path: read_metadata(self.folder / path),
            lambda path: open_regular(self.folder / path),
        )
        self.problems += self._captions.problems
        if self._captions.num_orphans:
            self.ignored[ORPHANS] += self._captions.num_orphans

    @property
    def spec(self) -> str:
        """The absolute path of the folder."""
        return str(self.folder.resolve())

    @property
    def name(self) -> str:
        """What the artifact calls the source; it does not depend on where the folder lies."""
        return f"folder:{printable(self.folder.resolve().name)}"

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[RawSample | UnreadableFile]:
        """Yield every image, then what is wrong with captions and folders."""
        problems: list[UnreadableFile] = []
        for path in self._images:
            yield self._read_image(path, problems)
        yield from self.problems
        yield from problems

    @property
    def files(self) -> list[str]:
        """Paths of all that counts, relative to the folder, sorted: images, metadata and captions."""
        return sorted([*self._images, *self._metadata, *self._sidecars])

    def fingerprint(self) -> str:
        """Return the SHA-256 over names and contents of all images and captions; reads every file once."""
        return fingerprint_of(self.kind, ((path, self.digest(path)) for path in self.files))

    def digest(self, path: str) -> str:
        """Return the SHA-256 of one of `files`; of one that cannot be read, `unreadable` and why."""
        try:
            with open_regular(self.folder / path) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]
        except OSError as error:
            return f"{UNREADABLE} {error.errno}"

    def _require_folder(self) -> None:
        if not os.path.exists(self.folder):
            raise InputError(f"--data {self.folder}: there is no such folder; check the path.")
        if not self.folder.is_dir():
            raise InputError(f"--data {self.folder}: this is a file; give the folder that holds the images.")

    def _no_image_sentence(self) -> str:
        held = self.ignored + Counter({".txt": len(self._sidecars)})
        found = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in held.most_common(4))
        seen = f"it holds {found}" if found else "it is empty"
        return (
            f"--data {self.folder}: no image in the folder ({seen}); images end in .png, .jpg, .webp, .gif, .bmp or "
            ".tif, tables in .parquet or .arrow, WebDataset shards in .tar; unpack other archives."
        )

    def _walk(self, relative: str) -> None:
        """Collect the files below a folder, following links, each folder once."""
        try:
            status = os.stat(self.folder / relative)
            if (status.st_dev, status.st_ino) in self._visited:
                return
            self._visited.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(self.folder / relative), key=lambda entry: entry.name)
        except OSError as error:
            detail = error.strerror or str(error)
            self.problems.append(
                UnreadableFile(
                    printable(relative), printable(relative), Reason.UNREADABLE_FOLDER, detail, False
                )
            )
            return
        for entry in entries:
            path = f"{relative}/{entry.name}" if relative else entry.name
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                self._walk(path)
            elif suffix in IMAGE_SUFFIXES:
                self._images.append(path)
            elif entry.name in METADATA_NAMES:
                self._add_metadata(path)
            elif suffix == ".txt":
                self._sidecars.add(path)
            else:
                self.ignored[printable(suffix)] += 1

    def _add_metadata(self, path: str) -> None:
        if os.path.isfile(self.folder / path):
            self._metadata.append(path)
            return
        name, detail = printable(path), "a broken link, pipe, socket or device"
        self.problems.append(UnreadableFile(name, name, Reason.NOT_A_FILE, detail, False))

    def _read_image(self, path: str, problems: list[UnreadableFile]) -> RawSample | UnreadableFile:
        name = printable(path)
        try:
            status = os.stat(self.folder / path)
            if not stat.S_ISREG(status.st_mode):
                return UnreadableFile(name, name, Reason.NOT_A_FILE, "a pipe, socket or device")
            if status.st_size > self.max_file_bytes:
                detail = f"{status.st_size} bytes, at most {self.max_file_bytes} pass"
                return UnreadableFile(name, name, Reason.FILE_TOO_LARGE, detail)
            data = (self.folder / path).read_bytes()
        except OSError as error:
            broken = os.path.islink(self.folder / path)
            reason = (
                Reason.NOT_A_FILE if broken and not os.path.exists(self.folder / path) else Reason.UNREADABLE
            )
            return UnreadableFile(name, name, reason, error.strerror or str(error))
        return self._captions.sample(path, data, self.name, problems)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
