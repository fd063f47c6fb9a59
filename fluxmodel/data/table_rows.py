"""Rows of a table as samples: which column holds the image, which the captions, and what one row gives.

The image is a struct of bytes and path (as `datasets` writes it), bytes alone, or the path of a file below the
table's folder. Captions, licence and source have the names they have in metadata.jsonl.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from fluxmodel.data.metadata_rows import (
    FILE_FIELDS,
    LICENCE_FIELDS,
    SOURCE_FIELDS,
    TEXT_FIELDS,
    description,
)
from fluxmodel.data.records import Caption, RawSample, Reason, UnreadableFile
from fluxmodel.data.storage import TooLarge
from fluxmodel.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

_IMAGE_FIELDS = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes")
_PATH_FIELDS = (*FILE_FIELDS, "image_path", "img_path")
_FIELDS = {"text": TEXT_FIELDS, "licence": LICENCE_FIELDS, "source": SOURCE_FIELDS}
_MAX_NAMED = 400
ReadFile = Callable[[str], bytes]
Kind = Literal["struct", "bytes", "path"]


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are read; None where there is none."""

    image: str
    kind: Kind
    text: tuple[str, ...] = ()
    licence: tuple[str, ...] = ()
    source: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys((self.image, *self.text, *self.licence, *self.source)))


@dataclass(frozen=True)
class RowReader:
    """Turns rows into samples.

    Attributes:
        columns: what is read of a row.
        origin: what a sample without a source of its own comes from.
        max_bytes: of an image.
        read_file: reads a file by its path, relative to the table; OSError where it cannot.
    """

    columns: Columns
    origin: str
    max_bytes: int
    read_file: ReadFile

    def read(self, row: Mapping, row_id: str) -> Iterator[RawSample | UnreadableFile]:
        """Yield the row's sample, or why there is none, and what is wrong with its captions."""
        image = self._image(row, row_id)
        if isinstance(image, UnreadableFile):
            yield image
            return
        try:
            roles = (self.columns.text, self.columns.licence, self.columns.source)
            described = description(*([_plain(row.get(name)) for name in names] for names in roles))
        except ValueError as error:
            yield RawSample(row_id, image[0], self.origin, path=image[1])
            yield UnreadableFile(row_id, row_id, Reason.BAD_METADATA_ROW, str(error), False)
            return
        captions = tuple(Caption(text, "given") for text in described.texts)
        source = described.source or self.origin
        yield RawSample(row_id, image[0], source, described.licence, captions, path=image[1])

    def _image(self, row: Mapping, row_id: str) -> tuple[bytes, str] | UnreadableFile:
        value = row.get(self.columns.image)
        path = None
        if isinstance(value, Mapping):
            path, value = value.get("path"), value.get("bytes")
        if value is None:
            value = path
        if value is None or value == "":
            return UnreadableFile(row_id, row_id, Reason.NOTHING_THERE, f"{self.columns.image!r} is empty")
        if isinstance(value, bytes):
            if len(value) > self.max_bytes:
                detail = f"{len(value)} bytes, at most {self.max_bytes} pass"
                return UnreadableFile(row_id, row_id, Reason.FILE_TOO_LARGE, detail)
            return value, _without_place(path) if path else row_id
        try:
            return self.read_file(str(value)), _without_place(str(value))
        except UnsafePath as error:
            return UnreadableFile(row_id, row_id, Reason.UNSAFE_PATH, str(error))
        except TooLarge as error:
            return UnreadableFile(row_id, row_id, Reason.FILE_TOO_LARGE, str(error))
        except FileNotFoundError:
            return UnreadableFile(row_id, row_id, Reason.MISSING_FILE, f"there is no file {str(value)!r}")
        except OSError as error:
            detail = f"{str(value)!r}: {error.strerror or error}"
            return UnreadableFile(row_id, row_id, Reason.UNREADABLE, detail)


class UnsafePath(ValueError):
    """A path that leads out of the folder it belongs to."""


def require_inside(path: str) -> str:
    """Return a relative path as it is.

    Raises:
        UnsafePath: it is absolute, a URL, or leads out of its folder.
    """
    if "://" in path:
        raise UnsafePath(f"{path[:200]!r} is a URL; download the images and name them by their paths")
    if path.startswith(("/", "\\")) or path[1:2] == ":" or ".." in path.replace("\\", "/").split("/"):
        raise UnsafePath(f"{path[:200]!r} leads out of its folder")
    if "\0" in path:
        raise UnsafePath(f"{path[:200]!r} is no name of a file")
    return path


def find_columns(schema: pa.Schema, place: str, image: str | None = None, text: str | None = None) -> Columns:
    """Choose the columns to read of a table.

    Args:
        schema: of the table.
        place: what a sentence calls the table.
        image: the image column, if it was named.
        text: the caption column, if it was named.

    Raises:
        InputError: no column holds images, a column that was named is not there, or one is there twice.
    """
    kinds: dict[str, Kind] = {field.name: kind for field in schema if (kind := _kind(field.type))}
    for wanted, what in ((image, "image"), (text, "text")):
        if wanted is not None and wanted not in schema.names:
            raise InputError(
                f"{place}: there is no column {wanted!r} to be the {what}; it has {_listed(schema)}."
            )
    if image is not None and image not in kinds:
        raise InputError(
            f"{place}: the column {image!r} is {schema.field(image).type}; images are bytes, a struct of "
            "bytes and path, or paths."
        )
    chosen = image or _likely(schema, kinds)
    if chosen is None:
        raise InputError(
            f"{place}: no column holds images; name one 'image' (bytes, or a struct of bytes and path) or 'file_name' "
            f"(paths). It has {_listed(schema)}."
        )
    named = {
        role: tuple(
            name for field in fields for name in schema.names if name.lower() == field and name != chosen
        )
        for role, fields in _FIELDS.items()
    }
    columns = Columns(chosen, kinds[chosen], **named)
    columns = replace(columns, text=(text,)) if text else columns
    for name in columns.names:
        if (count := schema.names.count(name)) > 1:
            raise InputError(f"{place}: the column {name!r} is there {count} times; rename the others.")
    return columns


def _likely(schema: pa.Schema, kinds: Mapping[str, Kind]) -> str | None:
    """Return the column that holds the images: by its name, else the only one of bytes, else one of paths."""
    lower = {name.lower(): name for name in reversed(schema.names)}
    for fields, allowed in (
        (_IMAGE_FIELDS, ("struct", "bytes")),
        (_PATH_FIELDS, ("struct", "bytes", "path")),
    ):
        for field in fields:
            if field in lower and kinds.get(lower[field]) in allowed:
                return lower[field]
    of_bytes = [name for name, kind in kinds.items() if kind in ("struct", "bytes")]
    return of_bytes[0] if len(of_bytes) == 1 else None


def _kind(type_: pa.DataType) -> Kind | None:
    import pyarrow as pa

    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if isinstance(type_, pa.BaseExtensionType):
        type_ = type_.storage_type
    if pa.types.is_struct(type_):
        inside = {field.name: field.type for field in type_}
        fits = all(
            inside[name] == pa.null() or _kind(inside[name]) == ("path" if name == "path" else name)
            for name in inside
        )
        return "struct" if inside and fits and inside.keys() <= {"bytes", "path"} else None
    is_binary = pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_)
    if is_binary or pa.types.is_fixed_size_binary(type_):
        return "bytes"
    is_text = pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)
    return "path" if is_text else None


def _without_place(path: str) -> str:
    """Return a relative path as it is; of an absolute one or a URL the last part, which moves with the data."""
    return path.rpartition("/")[2] if path.startswith("/") or "://" in path else path


def _plain(value: object) -> object:
    """Return a caption, or the texts of a list of captions, as `datasets` and curated data sets keep them."""
    if isinstance(value, list):
        return [each.get("text") if isinstance(each, dict) else each for each in value if each is not None]
    return value


def _listed(schema: pa.Schema) -> str:
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    return f"the columns {columns[:_MAX_NAMED]}" if columns else "no column"
