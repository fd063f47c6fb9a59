"""WebDataset tars as a source: read as streams, members of one key following each other are one sample.

The key is the path up to the first dot of the name (`000/0012.seg.png` has the key `000/0012`). Captions come from
.txt and .caption, and from .json by the names of metadata.jsonl. A sample's id is SHARD/KEY. Whatever a tar holds is
accounted for, and only memory ever receives it.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from posixpath import split, splitext
from typing import IO

from fluxmodel.data.image_folder import IMAGE_SUFFIXES
from fluxmodel.data.metadata_rows import describe
from fluxmodel.data.records import Caption, RawSample, Reason, UnreadableFile
from fluxmodel.data.shard_files import ShardFiles
from fluxmodel.data.storage import fingerprint_of, one_line, printable
from fluxmodel.data.table_rows import UnsafePath, require_inside
from fluxmodel.data.tar_members import DamagedTar, Member, MissingEnd, read_members
from fluxmodel.errors import InputError

_CAPTION_SUFFIXES = (".txt", ".caption", ".json")
_MAX_CAPTION_BYTES = 1_000_000
_Item = RawSample | UnreadableFile


class TarSource:
    """The samples of tar files, in the order of the files and of their members."""

    is_procedural = False
    kind = "webdataset"

    def __init__(self, shards: ShardFiles, max_file_bytes: int = 256_000_000) -> None:
        """Look at the first header of the first file.

        Raises:
            InputError: a single file was named, and it is no tar.
        """
        self.files = shards
        self.max_file_bytes = max_file_bytes
        self.ignored: Counter[str] = Counter()
        self._num: int | None = None
        if len(shards.paths) == 1:
            try:
                with self._open(shards.paths[0]) as file:
                    next(read_members(file, 0), None)
            except (OSError, EOFError, DamagedTar, zlib.error) as error:
                raise InputError(
                    f"--data {printable(shards.spec)}: cannot be read as a tar file ({one_line(error)}); copy it again."
                ) from error

    @property
    def spec(self) -> str:
        """The absolute path, pattern or URI."""
        return self.files.spec

    @property
    def name(self) -> str:
        """What the artifact calls the source; it does not depend on where the files lie."""
        return f"webdataset:{self.files.name}"

    def __len__(self) -> int:
        """Images by a first pass over the tars of a disk, made once; 0 (unknown) where they lie elsewhere."""
        if self._num is None:
            local, ignored = self.files.storage.is_local, self.ignored.copy()
            self._num = sum(item.id != "" for item in self._images()) if local else 0
            self.ignored = ignored
        return self._num

    def __iter__(self) -> Iterator[_Item]:
        """Yield every sample of every tar, and what is wrong with the members."""
        self.ignored.clear()
        for shard in self.shards:
            yield from self.read_shard(shard)

    @property
    def shards(self) -> tuple[str, ...]:
        """The tars, which can be read one by one: `read_shard`."""
        return self.files.paths

    def read_shard(self, shard: str) -> Iterator[_Item]:
        """Yield every sample of one tar; a damaged one is read up to the damage."""
        name, group = printable(shard), None
        try:
            with self._open(shard) as file:
                for member in read_members(file, self.max_file_bytes):
                    found = self._place(member, name)
                    if found is None:
                        continue
                    if isinstance(found, UnreadableFile):
                        yield found
                        continue
                    key, suffix = found
                    if group is None or group.key != key:
                        if group is not None:
                            yield from group.items(self.name)
                        group = _Group(name, key)
                    group.take(member, suffix, self.max_file_bytes)
        except (OSError, EOFError, DamagedTar, zlib.error) as error:
            if group is not None:
                yield from group.items(self.name)
            reason = Reason.MISSING_END if isinstance(error, MissingEnd) else Reason.DAMAGED_SHARD
            yield UnreadableFile(name, name, reason, one_line(error), False)
        else:
            if group is not None:
                yield from group.items(self.name)

    def fingerprint(self) -> str:
        """Return the digest of the tars."""
        return fingerprint_of(
            self.kind, ((path, self.files.storage.digest(path)) for path in self.files.paths)
        )

    def _images(self) -> Iterator[_Item]:
        return (item for item in self if isinstance(item, RawSample) or item.is_image)

    def _place(self, member: Member, shard: str) -> tuple[str, str] | UnreadableFile | None:
        """Return key and suffix of a member, why it is refused, or None where it is of no concern."""
        if member.kind == "folder":
            return None
        path = printable(member.name).removeprefix("./")
        place, is_image = f"{shard}/{path}", _suffix(path) in IMAGE_SUFFIXES
        try:
            require_inside(path)
        except UnsafePath as error:
            return UnreadableFile(place, place, Reason.UNSAFE_PATH, str(error), is_image)
        if member.kind:
            return UnreadableFile(place, place, Reason.NOT_A_FILE, member.kind, is_image)
        folder, name = split(path)
        if name.startswith(".") or folder.split("/")[0] == "__MACOSX":
            self.ignored["hidden"] += 1
            return None
        stem = name.partition(".")[0]
        if not is_image and _suffix(path) not in _CAPTION_SUFFIXES:
            self.ignored[_suffix(path)] += 1
            return None
        return f"{folder}/{stem}" if folder else stem, _suffix(path)

    @contextlib.contextmanager
    def _open(self, shard: str) -> Iterator[IO[bytes]]:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(self.files.storage.open(shard))
            if not shard.lower().endswith(".tar"):
                file = stack.enter_context(gzip.GzipFile(fileobj=file))
            yield file  # pyright: ignore[reportReturnType]


@dataclass
class _Group:
    """The members of one key as they come."""

    shard: str
    key: str
    image: bytes | None = None
    path: str = ""
    has_image: bool = False
    texts: list[str] = field(default_factory=list)
    licence: str | None = None
    source: str | None = None
    problems: list[UnreadableFile] = field(default_factory=list)

    def take(self, member: Member, suffix: str, max_bytes: int) -> None:
        """Take up an image or a caption, or why it is refused."""
        path = f"{self.shard}/{printable(member.name).removeprefix('./')}"
        if suffix in IMAGE_SUFFIXES:
            self._take_image(member, path, max_bytes)
            return
        if member.missing or member.data is None or member.size > _MAX_CAPTION_BYTES:
            detail = f"{member.size} bytes, of which {member.missing} are missing; at most {_MAX_CAPTION_BYTES} pass"
            self._refuse(path, Reason.BAD_CAPTION_FILE, detail, False)
            return
        try:
            self._read(member.data.decode("utf-8-sig"), suffix)
        except (ValueError, RecursionError) as error:
            self._refuse(path, Reason.BAD_CAPTION_FILE, one_line(error), False)

    def items(self, origin: str) -> Iterator[_Item]:
        """Yield the sample and the problems."""
        if self.image is not None:
            captions = tuple(Caption(text, "given") for text in self.texts)
            place = f"{self.shard}/{self.key}"
            yield RawSample(place, self.image, self.source or origin, self.licence, captions, path=self.path)
        elif not self.has_image:
            self._refuse(f"{self.shard}/{self.key}", Reason.MISSING_FILE, "captions without an image", False)
        yield from self.problems

    def _take_image(self, member: Member, path: str, max_bytes: int) -> None:
        if self.has_image:
            detail = f"the key {self.key!r} has an image already"
            self._refuse(path, Reason.DUPLICATE_ID, detail, True)
        elif member.data is None:
            self._refuse(path, Reason.FILE_TOO_LARGE, f"{member.size} bytes, at most {max_bytes} pass", True)
        elif member.missing:
            detail = f"{member.missing} of its {member.size} bytes are missing"
            self._refuse(path, Reason.TRUNCATED, detail, True)
        else:
            self.image, self.path = member.data, path
        self.has_image = True

    def _read(self, text: str, suffix: str) -> None:
        if suffix != ".json":
            self.texts.append(text)
            return
        record = json.loads(text)
        if not isinstance(record, dict):
            raise ValueError(f"a JSON object is needed, not a {type(record).__name__}")
        described = describe(record)
        self.texts.extend(described.texts)
        self.licence, self.source = described.licence, described.source

    def _refuse(self, path: str, reason: Reason, detail: str, is_image: bool) -> None:
        self.problems.append(UnreadableFile(path, path, reason, detail, is_image))


def _suffix(path: str) -> str:
    return splitext(path)[1].lower()
