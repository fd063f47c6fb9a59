"""A data set of the Hugging Face hub, or any that `datasets` reads, as a stream of undecoded rows.

    hf:org/name?split=train&config=default&revision=main&image=image&text=caption

The one file that imports `datasets`. Decoding is switched off there: one bad image would end its stream. The revision
is resolved to a commit when the source is opened, and the specification then names the commit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from fluxmodel.data.records import RawSample, Reason, UnreadableFile
from fluxmodel.data.steady_file import is_passing, wait
from fluxmodel.data.storage import fingerprint_of, one_line, storage_at
from fluxmodel.data.table_rows import RowReader, UnsafePath, find_columns
from fluxmodel.errors import InputError

_FIELDS = ("split", "config", "revision", "image", "text")
_FORM = "hf:org/name?split=train&config=..&revision=..&image=..&text=.."


class HubSource:
    """The rows of one split, in their order."""

    is_procedural = False

    def __init__(self, spec: str, max_file_bytes: int = 256_000_000) -> None:
        """Resolve the revision and look at the columns; no image is read.

        Raises:
            InputError: the specification is wrong, or the data set, its split or a column is not there.
        """
        self.path, self._fields = _parsed(spec)
        self.max_file_bytes = max_file_bytes
        self.split = self._fields.setdefault("split", "train")
        folder = os.path.expanduser(self.path)
        self._is_local = os.path.isdir(folder)
        if self._is_local:
            self.path = os.path.realpath(folder)
        else:
            self._fields["revision"] = _commit(self.path, self._fields.get("revision"), spec)
        self._rows, self._num_rows = _opened(self.path, self._fields, self.split, spec)
        schema = self._rows.features.arrow_schema
        wanted = (self._fields.get("image"), self._fields.get("text"))
        self._columns = find_columns(schema, f"--data {spec}", *wanted)

    @property
    def spec(self) -> str:
        """The specification with the commit in it."""
        fields = {name: self._fields[name] for name in _FIELDS if name in self._fields}
        return f"hf:{self.path}?{urlencode(fields, safe='/')}"

    @property
    def name(self) -> str:
        """The data set and its split."""
        path = Path(self.path).name if self._is_local else self.path
        config = self._fields.get("config")
        return f"hf:{path}?split={self.split}" + (f"&config={config}" if config else "")

    def __len__(self) -> int:
        """As the data set's card tells; 0 where it does not."""
        return self._num_rows

    def __iter__(self) -> Iterator[RawSample | UnreadableFile]:
        """Yield every row; a stream that ends at damage ends with a refusal that says where.

        Raises:
            InputError: the stream broke off for want of the network, and went on at no attempt.
        """
        reader = RowReader(self._columns, self.name, self.max_file_bytes, self._read_file)
        rows, number, failures = _undecoded(self._rows, self._columns.names), 0, 0
        while True:
            try:
                for row in rows.skip(number) if number else rows:
                    yield from reader.read(row, f"{self.split}#{number:09d}")
                    number, failures = number + 1, 0
                return
            except InputError:
                raise
            except Exception as error:  # its builders raise every kind of error
                if not is_passing(error):
                    place = f"{self.split}#{number:09d}"
                    yield UnreadableFile(place, place, Reason.DAMAGED_SHARD, one_line(error), False)
                    return
                wait(failures, f"{self.spec}, row {number}", error)
                failures += 1

    def fingerprint(self) -> str:
        """Return the digest of the specification, which names a commit; of a folder, with that of its files."""
        files: list[tuple[str, str]] = []
        if self._is_local:
            storage = storage_at(self.path)
            files = [(path, storage.digest(path)) for path in storage.find()]
        what = "local" if self._is_local else self.path
        return fingerprint_of("hub", [("spec", f"{what} {sorted(self._fields.items())}"), *files])

    def _read_file(self, path: str) -> bytes:
        """Read an image that `datasets` names by path; a row may not name a file outside its data set."""
        inside = path.startswith(f"{self.path}/") and ".." not in path.split("/") if self._is_local else False
        if not inside and not (path.startswith("hf://") or "::hf://" in path):
            raise UnsafePath(f"{path[:200]!r} is not a file of the data set")
        return storage_at(path).read("", self.max_file_bytes)


def _parsed(spec: str) -> tuple[str, dict[str, str]]:
    path, _, query = spec.split(":", 1)[1].partition("?")
    path = path.removeprefix("//datasets/").strip()
    fields = dict(parse_qsl(query, keep_blank_values=True))
    unknown = [name for name in fields if name not in _FIELDS]
    empty = [name for name, value in fields.items() if not value]
    if not path or unknown or empty:
        wrong = (
            "no data set"
            if not path
            else f"unknown field {unknown[0]!r}"
            if unknown
            else f"{empty[0]!r} is empty"
        )
        raise InputError(f"--data {spec}: {wrong}; write {_FORM}.")
    return path, fields


def _commit(path: str, revision: str | None, spec: str) -> str:
    """Return the commit a revision stands for; one that is a commit already is not asked for."""
    if revision and len(revision) == 40 and set(revision) <= set("0123456789abcdef"):
        return revision
    from huggingface_hub import HfApi

    try:
        found = HfApi().dataset_info(path, revision=revision, timeout=30).sha
    except Exception as error:  # offline, missing, private, ill-named: each has a class of its own
        raise InputError(
            f"--data {spec}: the data set {path!r} cannot be reached on the hub ({one_line(error)}); check its name, "
            "the network and, for a private or gated one, HF_TOKEN."
        ) from error
    if not found:
        raise InputError(f"--data {spec}: the hub names no commit of {path!r}; give one by revision=.")
    return found


def _opened(path: str, fields: dict[str, str], split: str, spec: str) -> tuple[Any, int]:
    """Return the stream of a split with known columns, and how many rows it is said to have."""
    import datasets

    options: dict[str, Any] = {"name": fields.get("config"), "revision": fields.get("revision")}
    try:
        rows = datasets.load_dataset(path, split=split, streaming=True, **options)
        rows = rows if rows.features else rows._resolve_features()
    except Exception as error:  # its builders raise every kind of error
        reached = "" if os.path.isdir(path) else ", the network and, for a private or gated one, HF_TOKEN"
        raise InputError(
            f"--data {spec}: cannot be opened ({one_line(error)}); check its name, split and configuration{reached}, "
            f"and write {_FORM}."
        ) from error
    splits = rows.info.splits or {}
    return rows, int(splits[split].num_examples or 0) if split in splits else 0


def _undecoded(rows: Any, names: list[str]) -> Any:
    """Return the columns that are read, images as bytes and path."""
    import datasets

    rows = rows.select_columns(names)
    for name in names:
        if isinstance(rows.features[name], datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
    return rows
