"""What a folder says of its images: sidecars NAME.txt, and rows of metadata.jsonl and metadata.csv anywhere in it.

All captions that are found are kept; what cannot be used is noted and never ends the reading. Of a sidecar that is
longer than any caption the first million bytes are read.
"""

import codecs
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import IO

from fluxmodel.data.metadata_rows import BadRow, MetadataRow
from fluxmodel.data.records import Caption, RawSample, Reason, UnreadableFile
from fluxmodel.data.storage import one_line, printable

_MAX_CAPTION_BYTES = 1_000_000


class FolderCaptions:
    """The captions of images by their paths, which are relative to the folder."""

    def __init__(
        self,
        images: Iterable[str],
        metadata: Iterable[str],
        sidecars: Iterable[str],
        read_rows: Callable[[str], list[MetadataRow | BadRow]],
        open_file: Callable[[str], IO[bytes]],
    ) -> None:
        """Read the metadata; `problems` names the rows of no use, `num_orphans` counts sidecars without an image.

        Args:
            images: paths of the images.
            metadata: paths of the metadata files.
            sidecars: paths of the text files.
            read_rows: reads a metadata file.
            open_file: opens a file to read bytes.
        """
        self._open = open_file
        self.problems: list[UnreadableFile] = []
        known = frozenset(images)
        self._sidecars: dict[str, list[str]] = defaultdict(list)
        for path in sorted(sidecars):
            self._sidecars[_stem(path)].append(path)
        stems = {_stem(path) for path in known}
        self.num_orphans = sum(len(paths) for stem, paths in self._sidecars.items() if stem not in stems)
        rows: dict[str, list[MetadataRow]] = defaultdict(list)
        for path in metadata:
            for row in read_rows(path):
                named = self._image_of(path, row, known)
                if named is not None and isinstance(row, MetadataRow):
                    rows[named].append(row)
        self._rows = dict(rows)

    def sample(self, path: str, image: bytes, source: str, problems: list[UnreadableFile]) -> RawSample:
        """Return an image with all that is said of it; a sidecar that cannot be read is added to `problems`."""
        rows = self._rows.get(path, [])
        texts = [text for row in rows for text in row.texts]
        for sidecar in self._sidecars.get(_stem(path), ()):
            try:
                with self._open(sidecar) as file:
                    texts.append(_text(file.read(_MAX_CAPTION_BYTES)))
            except (OSError, UnicodeDecodeError) as error:
                name = printable(sidecar)
                problems.append(UnreadableFile(name, name, Reason.BAD_CAPTION_FILE, one_line(error), False))
        return RawSample(
            id=printable(path),
            image=image,
            source=next((row.source for row in rows if row.source), source),
            licence=next((row.licence for row in rows if row.licence), None),
            captions=tuple(Caption(text, "given") for text in texts),
            path=printable(path),
        )

    def _image_of(self, path: str, row: MetadataRow | BadRow, known: frozenset[str]) -> str | None:
        """Return the image that a row names; where there is none, note why."""
        reason, detail = Reason.BAD_METADATA_ROW, f"line {row.line}: "
        if isinstance(row, BadRow):
            detail += row.detail
        else:
            named = os.path.normpath(os.path.join(os.path.dirname(path), row.file_name))
            if named in known:
                return named
            reason, detail = Reason.MISSING_FILE, f"{detail}no image {row.file_name!r} in the folder"
        name = printable(path)
        self.problems.append(UnreadableFile(f"{name}:{row.line}", name, reason, detail, False))
        return None


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]


def _text(data: bytes) -> str:
    """Decode what was read of a sidecar; where that is not all, the character it ends in may be cut."""
    return codecs.getincrementaldecoder("utf-8-sig")().decode(data, final=len(data) < _MAX_CAPTION_BYTES)
