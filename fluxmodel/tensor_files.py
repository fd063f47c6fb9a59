"""Tensors in safetensors files: read and written one at a time, so that no second copy of a network is ever held.

A file is 8 bytes of length, a JSON header of that length, then the tensors' bytes; of several files an index says
which holds what. Anything else (pickle above all) is refused, never opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fluxmodel.errors import InputError, first_fault

# In the order in which a safetensors file holds its tensors.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
_CONVERT = (
    "a pickle can run code when it is read; convert it where you trust it, with "
    '`safetensors.torch.save_file(torch.load(old, map_location="cpu", weights_only=True), new)`'
)
_GGUF = "it is a GGUF file, whose weights are quantised", "take the safetensors weights it was made from"
_AGAIN = "train or download them again"
_MOST_NAMED = 20


class Entry(NamedTuple):
    """A tensor as its file's header tells it; `dtype` is safetensors' word, such as BF16."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


class Pending(NamedTuple):
    """A tensor that will be written; `make` is called when it is its turn, and what it gives is cast then."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


class TensorFiles:
    """The tensors of a file, or of the shards that an index names; a context, for it holds the files open.

    Raises:
        InputError: a file is missing, damaged or none of safetensors, or index and shards do not agree.
    """

    def __init__(self, path: Path):
        self.path = path
        self._stack = ExitStack()
        self._open: dict[Path, Any] = {}
        try:
            self.entries = self._read_index() if path.suffix == ".json" else self._read_header(path)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> TensorFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self.entries.items()}

    @property
    def metadata(self) -> dict[str, str]:
        """What the header of a single file says beside its tensors."""
        return dict(self._open[self.path].metadata() or {}) if self.path in self._open else {}

    def read(self, name: str) -> Tensor:
        """Return a tensor as it is in the file, in memory of its own."""
        entry = self.entries[name]
        try:
            return self._open[entry.file].get_tensor(name)
        except (OSError, SafetensorError) as error:
            refuse(entry.file, f"{name}: {error}", _AGAIN)

    def _read_header(self, path: Path) -> dict[str, Entry]:
        refuse_foreign(path)
        try:
            # Not mapped: pages of a mapped file stay in memory beside the tensors made from them.
            file = self._stack.enter_context(safe_open(str(path), "pt", backend="pread"))
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError) as error:
            refuse(path, f"it is cut short or damaged: {error}", _AGAIN)
        self._open[path] = file
        return {
            name: Entry(path, str(each.get_dtype()), tuple(each.get_shape())) for name, each in slices.items()
        }

    def _read_index(self) -> dict[str, Entry]:
        homes = _read_weight_map(self.path)
        entries: dict[str, Entry] = {}
        for shard in sorted(set(homes.values())):
            for name, entry in self._read_header(self.path.with_name(shard)).items():
                if name in entries:
                    refuse(
                        self.path,
                        f"{name} is in both {entries[name].file.name} and {shard}",
                        "remove one of them",
                    )
                entries[name] = entry
        astray = [
            f"{name} is not in {shard}"
            for name, shard in homes.items()
            if name not in entries or entries[name].file.name != shard
        ]
        astray += [
            f"{entries[name].file.name} has {name}, which it does not name"
            for name in entries.keys() - homes.keys()
        ]
        if astray:
            refuse(self.path, "index and shards do not agree: " + shortened(astray), "download both again")
        return entries


class _Index(BaseModel):
    weight_map: dict[str, str]


def _read_weight_map(path: Path) -> dict[str, str]:
    """Return the shard of every tensor as an index tells them."""
    refuse_foreign(path)
    try:
        homes = _Index.model_validate_json(path.read_bytes()).weight_map
    except OSError as error:
        refuse(path, error.strerror or str(error), _AGAIN)
    except ValidationError as error:
        refuse(path, f"it is no index of safetensors shards: {first_fault(error)}", _AGAIN)
    for shard in homes.values():
        if "\0" in shard or Path(shard).name != shard or not shard.endswith(".safetensors"):
            refuse(path, f"it names {json.dumps(shard)}, which is no safetensors file beside it", _AGAIN)
    return homes


def refuse(path: Path, reason: str, cure: str) -> NoReturn:
    """Raise InputError: these weights cannot be read, why, and what to do."""
    raise InputError(f"weights {path}: cannot be read ({reason}); {cure}")


def refuse_foreign(path: Path) -> None:
    """Raise InputError unless, by its name and first bytes, a file may be of safetensors or an index of such."""
    if path.suffix in PICKLES:
        refuse(path, f"by its name ({path.suffix}) it is a pickle", _CONVERT)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        refuse(path, error.strerror or str(error), _AGAIN)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        refuse(path, "it is empty", _AGAIN)
    if start[8:9] == b"{" or text.startswith(b"{"):  # a header follows its length; an index is JSON itself
        length = int.from_bytes(start[:8], "little")
        if start[8:9] == b"{" and path.suffix != ".json" and 8 + length > size:
            refuse(path, f"it is cut short: {size:,} bytes end within its header", _AGAIN)
        return
    if text.startswith(b"version https://git-lfs"):
        refuse(path, "it is a git-lfs pointer, not the weights", "fetch them with `git lfs pull`")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        refuse(
            path,
            "it is a web page, not weights; many need a login or an accepted licence",
            "download them again",
        )
    if start.startswith(b"GGUF") or path.suffix == ".gguf":
        refuse(path, *_GGUF)
    if start.startswith((b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))):
        refuse(path, "by its content it is a pickle", _CONVERT)
    refuse(path, "it is no safetensors file", _AGAIN)


def shortened(faults: Iterable[str]) -> str:
    """Return the faults in one line: all of a small list, the first and a count of a long one."""
    faults = list(faults)
    rest = len(faults) - _MOST_NAMED
    return "; ".join(faults[:_MOST_NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def misfits(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return one line for each kind of fault between two sets of named shapes; none where all fits."""
    kinds = (
        [f"missing {name}" for name in wanted if name not in found],
        [f"unknown {name}" for name in found if name not in wanted],
        [
            f"{name} is {tuple(found[name])}, not {tuple(shape)}"
            for name, shape in wanted.items()
            if name in found and tuple(found[name]) != tuple(shape)
        ],
    )
    return [shortened(kind) for kind in kinds if kind]


def write_tensors(path: Path, tensors: Iterable[Pending], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, one tensor after the other, over `path`: whole or not at all.

    The bytes are those `safetensors.torch.save_file` gives, which wants all tensors at once.

    Raises:
        InputError: the file cannot be written there, or a dtype has no place in it.
    """
    words, ranks = {dtype: word for word, dtype in DTYPES.items()}, list(DTYPES.values())
    pending = list(tensors)
    if odd := [each.name for each in pending if each.dtype not in words]:
        raise InputError(f"weights {path}: {odd[0]} cannot be written in that dtype; choose one of {ranks}")
    pending.sort(key=lambda each: (ranks.index(each.dtype), each.name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for each in pending:
        start, end = end, end + each.num_bytes
        header[each.name] = {
            "dtype": words[each.dtype],
            "shape": list(each.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for each in pending:
                tensor = each.make().detach().to("cpu", each.dtype).contiguous()
                assert tuple(tensor.shape) == tuple(each.shape), each.name
                file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise InputError(
            f"weights {path}: cannot be written ({error.strerror}); choose another place"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
