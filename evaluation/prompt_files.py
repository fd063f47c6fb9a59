"""Prompts out of a user's file: lines of text, JSON lines or CSV, GenEval's own metadata among them. No torch here.

.txt     one prompt a line
.csv     a header line with `prompt` and, where wanted, `seed` and `group`
.jsonl   an object a line with the same fields; a line with `tag` and `include` is a task in the form of GenEval
         (Ghosh et al. 2023, arXiv:2310.11513): what has to be seen, how often, in which colour, and where.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fluxmodel.errors import InputError, first_fault

SUFFIXES = (".txt", ".csv", ".jsonl")
MAX_SEED = 2**63 - 1
RELATIONS = ("left of", "right of", "above", "below")


class Wanted(BaseModel):
    """One thing that has to be seen (or, excluded, must not)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field(alias="class", min_length=1, description="What it is.")
    count: int = Field(default=1, ge=1, description="How many of it, at least.")
    color: str | None = Field(default=None, description="Colour of all of them.")
    position: tuple[Literal["left of", "right of", "above", "below"], int] | None = Field(
        default=None, description="Where: a relation, and the number of the entry it is related to."
    )


class Task(BaseModel):
    """What a picture has to show, in the form of GenEval's metadata."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tag: str = Field(min_length=1)
    include: tuple[Wanted, ...] = Field(min_length=1)
    exclude: tuple[Wanted, ...] = ()


class FilePrompt(BaseModel):
    """One prompt of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(min_length=1, max_length=4000)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, description="Of its noise; none counts up.")
    group: str = Field(default="", description="What its result is reported under.")
    task: Task | None = None


def read_prompts(path: Path) -> list[FilePrompt]:
    """Read a file of prompts; blank lines are passed over.

    Raises:
        InputError: it cannot be read, or a line is wrong; names file, line and field.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"{path}: the name ends in {path.suffix or 'nothing'}; "
            f"prompts are read from {', '.join(SUFFIXES[:-1])} and {SUFFIXES[-1]} files."
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a file of prompts.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: is not UTF-8; save the file as UTF-8.") from error
    reader = {".txt": _lines, ".csv": _csv, ".jsonl": _jsonl}[path.suffix]
    found = [(line, _checked(path, line, fields)) for line, fields in reader(path, text)]
    if not found:
        raise InputError(f"{path}: holds no prompts; write one a line.")
    _refuse_twins(path, found)
    return [each for _, each in found]


def _lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, {"prompt": line.strip()}


def _jsonl(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: is no JSON; write one object a line.") from error
        if not isinstance(fields, dict):
            raise InputError(
                f'{path}, line {number}: is no object; write one like {{"prompt": "a red circle top left"}}.'
            )
        yield number, fields


def _csv(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        head = rows.fieldnames or ()
        if "prompt" not in head:
            raise InputError(
                f"{path}, line 1: there is no column prompt; begin with a header such as prompt,seed,group."
            )
        for fields in rows:
            if None in fields or None in fields.values():
                raise InputError(
                    f"{path}, line {rows.line_num}: has not the header's {len(head)} fields; "
                    "put a prompt with commas in quotes."
                )
            # An empty cell is a field not given.
            yield rows.line_num, {name: _number(name, value) for name, value in fields.items() if value}
    except csv.Error as error:
        raise InputError(f"{path}, line {rows.reader.line_num}: is no CSV ({error}); correct it.") from error


def _number(name: str, value: str) -> int | str:
    return int(value) if name == "seed" and value.strip().isdecimal() else value


def _checked(path: Path, line: int, fields: dict[str, Any]) -> FilePrompt:
    """Return one line's prompt; a tag makes it a task, and is its group where it names none."""
    fields = dict(fields)
    if isinstance(fields.get("prompt"), str):
        fields["prompt"] = fields["prompt"].strip()
    task = {name: fields.pop(name) for name in ("tag", "include", "exclude") if name in fields}
    try:
        if task:
            fields["task"] = Task.model_validate(task)
            fields = {"group": fields["task"].tag, **fields}
        found = FilePrompt.model_validate(fields, strict=True)
    except ValidationError as error:
        raise InputError(f"{path}, line {line}: {first_fault(error)}; correct it.") from error
    for number, wanted in enumerate(found.task.include if found.task else ()):
        if wanted.position is not None and not 0 <= wanted.position[1] < number:
            raise InputError(
                f"{path}, line {line}: include.{number}.position: is related to entry {wanted.position[1]}; "
                "name one that stands before it, counted from 0."
            )
    return found


def _refuse_twins(path: Path, found: list[tuple[int, FilePrompt]]) -> None:
    """Refuse a prompt given twice with the same seed: it would be the same image, counted twice."""
    first: dict[tuple[str, int], int] = {}
    for line, each in found:
        if each.seed is not None and (key := (each.prompt, each.seed)) in first:
            raise InputError(
                f"{path}, line {line}: seed: {each.seed} stands with the same prompt on line {first[key]}; "
                "give each its own."
            )
        elif each.seed is not None:
            first[(each.prompt, each.seed)] = line
