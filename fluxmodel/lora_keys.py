"""The keys of a LoRA file taken apart: each is consumed, or named with the reason and the cure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from fluxmodel.errors import InputError
from fluxmodel.lora import Lora, LowRank, fuse, relative_difference, swap_halves
from fluxmodel.lora_layouts import PeftScales, Place, layer_shapes, places
from fluxmodel.mmdit.config import MMDiTConfig

TOLERANCE = 1e-6
"""Largest relative difference of a layer's change between a file and what was read from it or written to it."""
_MOST_NAMED = 8
_KEY = re.compile(
    r"(?P<stem>.+?)\.(?:(?P<a>lora_A|lora_down|lora\.down|down)|(?P<b>lora_B|lora_up|lora\.up|up))(?:\.default)?\.weight"
    r"|(?P<of>.+)\.alpha"
)
_TEXT = (
    "lora_te_",
    "lora_te1_",
    "lora_te2_",
    "lora_te3_",
    "text_encoder.",
    "text_encoder_2.",
    "text_encoders.",
)
_OTHER_KINDS = (
    (r"dora_scale|lora_magnitude_vector", "DoRA scales whole weights; train a plain LoRA"),
    (r"\.hada_", "LoHa is no product of two matrices; train a plain LoRA"),
    (r"\.lokr_", "LoKr is no product of two matrices; train a plain LoRA"),
    (
        r"\.lora_mid\.|\.conv",
        "LoCon changes convolutions, and FLUX.1 has none; use a LoRA made for FLUX.1",
    ),
    (
        r"\.(diff|diff_b|bias)$|_norm\.scale",
        "it changes a bias or norm, which a plain LoRA leaves alone",
    ),
)


@dataclass(frozen=True)
class Entry:
    """One pair of matrices of a file, as it stands there."""

    stem: str
    place: Place
    change: LowRank


def lora_of(
    tensors: Mapping[str, Tensor],
    config: MMDiTConfig,
    source: str,
    scales: PeftScales | None = None,
    ignore_text_encoder: bool = False,
) -> Lora:
    """Return the LoRA that a file's tensors make on an MM-DiT, its changes compared with the file's own.

    Args:
        tensors: by their names in the file.
        config: shape of the network.
        source: names the file in errors.
        scales: what the file's header, or adapter_config.json, says of alpha.
        ignore_text_encoder: leave out what is meant for a text encoder, instead of refusing the file.

    Raises:
        InputError: a key is unknown, its other half missing, its matrix misshapen or not finite; names the keys.
    """
    table, shapes, faults = places(config), layer_shapes(config), []
    halves: dict[str, dict[str, str]] = {}
    for key in tensors:
        if key.startswith(_TEXT):
            if not ignore_text_encoder:
                faults.append(
                    f"{key} is for a text encoder, which this network does not hold; "
                    "leave these out with ignore_text_encoder=True"
                )
            continue
        match = _KEY.fullmatch(key)
        stem = (match["stem"] or match["of"]) if match else ""
        if not match or stem not in table:
            faults.append(f"{key} {_why_unknown(key, bool(match))}")
            continue
        half = "a" if match["a"] else "b" if match["b"] else "alpha"
        first = halves.setdefault(stem, {}).setdefault(half, key)
        if first != key:
            faults.append(f"{first} and {key} are the same half twice; keep one of them in the file")
    entries = []
    for stem, keys in halves.items():
        found = _change(stem, keys, tensors, scales)
        if isinstance(found, str):
            faults.append(found)
        elif fault := _misfit(keys, found, table[stem], shapes[table[stem].module]):
            faults.append(fault)
        else:
            entries.append(Entry(stem, table[stem], found))
    faults += _overlaps(entries)
    if not (faults or entries):
        faults.append("it holds no LoRA of an MM-DiT; name another file")
    refuse(source, faults)
    return _assemble(entries, shapes, source)


def refuse(source: str, faults: list[str]) -> None:
    """Raise one error that names all faults, or the first few and their number.

    Raises:
        InputError: there are faults.
    """
    if faults:
        more = len(faults) - _MOST_NAMED
        told = "; ".join(faults[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise InputError(f"LoRA {source}: {told}")


def _why_unknown(key: str, has_form: bool) -> str:
    for pattern, why in _OTHER_KINDS:
        if re.search(pattern, key):
            return f"cannot be used: {why}"
    if has_form:
        return "is for no layer of this model; use the LoRA on the model it is for"
    return "is no key of a plain LoRA; leave it out of the file"


def _change(
    stem: str, keys: dict[str, str], tensors: Mapping[str, Tensor], scales: PeftScales | None
) -> LowRank | str:
    """Return a stem's change, or what is wrong with its keys."""
    if "a" not in keys or "b" not in keys:
        here = ", ".join(sorted(keys.values()))
        lost = " and ".join(name for half, name in (("a", "A (down)"), ("b", "B (up)")) if half not in keys)
        return f"{here} has no {lost} beside it; the file is damaged, get it again"
    for key in keys.values():
        if not bool(tensors[key].float().isfinite().all()):
            return f"{key} holds a number that is not finite; the training went wrong, take an earlier state of it"
    a, b = tensors[keys["a"]], tensors[keys["b"]]
    if a.ndim != 2 or b.ndim != 2 or not len(a) or len(a) != b.shape[1]:
        return (
            f"{keys['a']} is {tuple(a.shape)} and {keys['b']} {tuple(b.shape)}: no [rank, in] and [out, rank]"
        )
    alpha = float(len(a))
    if scales is not None:
        try:
            alpha = scales.alpha(stem, len(a))
        except ValueError as error:
            return f"{keys['a']} {error}; the file is damaged, get it again"
    if "alpha" in keys:
        if tensors[keys["alpha"]].numel() != 1:
            return f"{keys['alpha']} is {tuple(tensors[keys['alpha']].shape)}, not one number"
        told = float(tensors[keys["alpha"]])
        if scales is not None and not math.isclose(told, alpha, rel_tol=TOLERANCE):
            return f"{keys['alpha']} is {told:g}, but the file's metadata say {alpha:g}; take one of them out"
        alpha = told
    return LowRank(a, b, alpha)


def _misfit(keys: dict[str, str], change: LowRank, place: Place, shape: tuple[int, int]) -> str:
    want = (place.rows.stop - place.rows.start, shape[1])
    for key, got, wanted, side in (
        (keys["a"], change.a.shape[1], want[1], "in"),
        (keys["b"], change.b.shape[0], want[0], "out"),
    ):
        if got != wanted:
            return f"{key} is {got} wide ({side}), the model's layer {wanted}; use the LoRA on the model it is for"
    return ""


def _overlaps(entries: Iterable[Entry]) -> list[str]:
    in_order = sorted(entries, key=lambda entry: (entry.place.module, entry.place.rows.start))
    return [
        f"{x.stem} and {y.stem} change the same rows; keep one of the two layouts in the file"
        for x, y in pairwise(in_order)
        if x.place.module == y.place.module and y.place.rows.start < x.place.rows.stop
    ]


def _assemble(entries: list[Entry], shapes: Mapping[str, tuple[int, int]], source: str) -> Lora:
    by_module: dict[str, list[Entry]] = {}
    for entry in entries:
        by_module.setdefault(entry.place.module, []).append(entry)
    modules = {}
    for module in (name for name in shapes if name in by_module):
        pieces = sorted(by_module[module], key=lambda entry: entry.place.rows.start)
        turned = [swap_halves(e.change) if e.place.is_swapped else e.change for e in pieces]
        rows = [entry.place.rows for entry in pieces]
        modules[module] = fuse(list(zip(rows, turned, strict=True)), shapes[module][0])
        _compare(pieces, modules[module], source)
    return Lora(modules)


def _compare(pieces: list[Entry], module: LowRank, source: str) -> None:
    """Hold what was put together against the file's own pairs, rows of no pair included."""
    untouched = module.b.new_ones(len(module.b))
    for entry in pieces:
        untouched[entry.place.rows] = 0
        got = module.rows(entry.place.rows)
        got = swap_halves(got) if entry.place.is_swapped else got
        difference = relative_difference(entry.change, got)
        if not difference <= TOLERANCE:
            raise InputError(
                f"LoRA {source}: {entry.stem} changed by {difference:.1e} while it was read; report this file"
            )
    if bool((module.b[untouched.bool()] != 0).any()):
        raise InputError(
            f"LoRA {source}: {pieces[0].place.module} got rows the file has not; report this file"
        )


def largest_difference(source: Lora, other: Lora) -> float:
    """Return the largest relative difference of any layer's change; infinite where a layer is missing."""
    if source.modules.keys() != other.modules.keys():
        return float("inf")
    return max(
        (relative_difference(change, other.modules[name]) for name, change in source.modules.items()),
        default=0.0,
    )
