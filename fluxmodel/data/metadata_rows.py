"""Readers of metadata.jsonl and metadata.csv: one row an image, one broken row never loses the others.

A row names its image in `file_name` (relative to the metadata file) and its caption in `text`, as in the
image folders of Hugging Face `datasets`; `licence` and `source` are kept where given.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fluxmodel.data.storage import open_regular
from fluxmodel.errors import InputError

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
FILE_FIELDS = ("file_name", "file", "filename", "image", "path")
TEXT_FIELDS = ("text", "caption", "captions", "prompt")
LICENCE_FIELDS = ("licence", "license")
SOURCE_FIELDS = ("source", "url")
# A quoted CSV field may span lines; one that is never closed must not swallow the rest of the file.
_MAX_LINES_OF_A_ROW = 50


@dataclass(frozen=True, slots=True)
class MetadataRow:
    """What one row says of one image; `file_name` is as written."""

    line: int
    file_name: str
    texts: tuple[str, ...]
    licence: str | None = None
    source: str | None = None


class Description(NamedTuple):
    """What a record says of its image."""

    texts: tuple[str, ...]
    licence: str | None
    source: str | None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be understood, with the line it begins on and why."""

    line: int
    detail: str


def read_metadata(path: Path) -> list[MetadataRow | BadRow]:
    """Read a metadata file, each row by itself.

    Raises:
        InputError: the file cannot be read, its header lacks a needed column, or no row of it can be used.
    """
    try:
        with open_regular(path) as file:
            lines = file.read().splitlines(keepends=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions."
        ) from error
    parse = _csv_rows if path.suffix == ".csv" else _jsonl_rows
    rows = list(parse(path, lines))
    first = next((row for row in rows if isinstance(row, BadRow)), None)
    if first and not any(isinstance(row, MetadataRow) for row in rows):
        raise InputError(f"{path}, line {first.line}: {first.detail}; no row of the file can be used.")
    return rows


def _jsonl_rows(path: Path, lines: list[bytes]) -> Iterator[MetadataRow | BadRow]:
    for number, line in enumerate(lines, 1):
        try:
            text = _text_of(line, number)
            if text.strip():
                record = json.loads(text)
                _require_whole_characters(text, record)
                yield _row(number, record)
        except json.JSONDecodeError as error:
            yield BadRow(number, f"not a JSON object ({error.msg}, column {error.colno}); correct the line")
        except (ValueError, RecursionError) as error:
            yield BadRow(number, str(error))


def _require_whole_characters(text: str, record: object) -> None:
    """Refuse what JSON can write and nothing can store: one half of a surrogate pair."""
    try:
        if "\\ud" in text.lower():
            json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("half of a character (\\ud800 to \\udfff alone) is no text; correct it") from error


def _csv_rows(path: Path, lines: list[bytes]) -> Iterator[MetadataRow | BadRow]:
    header, after = _header(path, lines)
    position = after
    while position < len(lines):
        try:
            values, end = _csv_record(lines, position)
            if values and len(values) != len(header):
                raise ValueError(
                    f"{len(values)} fields where the header names {len(header)}; quote texts with commas"
                )
            if values:
                yield _row(position + 1, dict(zip(header, values, strict=True)))
            position = end
        except ValueError as error:
            yield BadRow(position + 1, str(error))
            position += 1


def _header(path: Path, lines: list[bytes]) -> tuple[list[str], int]:
    """Return the column names of a CSV file and the index of the first line after them."""
    try:
        header, after = _csv_record(lines, 0) if lines else ([], 0)
    except ValueError as error:
        raise InputError(f"{path}, line 1: {error}; the first line must name the columns.") from error
    names = [name.strip().lower() for name in header]
    for wanted in (FILE_FIELDS, TEXT_FIELDS):
        if not any(field in names for field in wanted):
            found = ", ".join(names)[:200] or "nothing"
            raise InputError(
                f"{path}, line 1: no column {wanted[0]!r} among {found}; name the columns there."
            )
    if len(set(names)) != len(names):
        raise InputError(f"{path}, line 1: a column is named twice in {', '.join(names)[:200]}; rename one.")
    return names, after


def _csv_record(lines: list[bytes], start: int) -> tuple[list[str], int]:
    """Parse the record that begins at a line; return its fields and the index of the line after it."""
    text = ""
    for end in range(start, min(start + _MAX_LINES_OF_A_ROW, len(lines))):
        text += _text_of(lines[end], end + 1)
        try:
            records = list(csv.reader(io.StringIO(text, newline=""), strict=True))
            return (records[0] if records else []), end + 1
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                continue
            if end == start:
                raise ValueError(f"ill-formed ({error}); double the quotes inside a quoted text") from error
            break
    raise ValueError("a quote is opened and never closed; close or double it")


def _text_of(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} of the line is no UTF-8; save the file as UTF-8") from error


def _row(line: int, record: object) -> MetadataRow:
    """Check one record and give it its form; ValueError says what is wrong."""
    if not isinstance(record, dict):
        raise ValueError(f"a JSON object is needed, not a {type(record).__name__}")
    file_name = _first(record, FILE_FIELDS)
    if not isinstance(file_name, str) or not file_name.strip():
        raise ValueError(f"{FILE_FIELDS[0]!r} is missing or no text; name the image there")
    described = describe(record)
    return MetadataRow(line, file_name.strip(), described.texts, described.licence, described.source)


def describe(record: Mapping[str, object]) -> Description:
    """Return captions, licence and source of a record; see `description`."""
    return description(
        *([record.get(field) for field in fields] for fields in (TEXT_FIELDS, LICENCE_FIELDS, SOURCE_FIELDS))
    )


def description(texts: list[object], licences: list[object], sources: list[object]) -> Description:
    """Return the captions of all values, and the first licence and source; what is blank is not there.

    Raises:
        ValueError: a caption is neither text nor texts, and no other value gives one.
    """
    found: dict[str, None] = {}
    is_whole = True
    for value in texts:
        each = value if isinstance(value, list) else [] if value is None else [value]
        strings = [text for text in each if isinstance(text, str)]
        if len(strings) == len(each):
            found |= dict.fromkeys(text for text in strings if text.strip())
        else:
            is_whole = False
    if not (is_whole or found):
        raise ValueError(f"{TEXT_FIELDS[0]!r} must be a text or a list of texts")
    return Description(tuple(found), _first_text(licences), _first_text(sources))


def _first_text(values: list[object]) -> str | None:
    return next((value for value in values if isinstance(value, str) and value.strip()), None)


def _first(record: Mapping[str, object], fields: tuple[str, ...]) -> object:
    return next((record[field] for field in fields if record.get(field) is not None), None)
