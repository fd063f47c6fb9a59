"""Names and numbers as a comparison writes them: what a metric is called, and a difference in points or in its unit."""

from __future__ import annotations

import re
from typing import Any

from .compare import Difference
from .report_numbers import number
from .wording import is_share

_NAMES = {
    "all_correct": "images all correct",
    "attr_acc": "attributes right",
    "retrieval": "own caption found",
    "undecided": "judge undecided",
    "extra_objects": "images with extras",
    "clip": "CLIP score",
    "fd": "Frechet distance",
    "kid": "kernel distance (KID)",
    "mind": "Monge distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "memorised": "memorised images",
    "contrast": "contrast",
    "latency_ms": "time of one image",
    "peak_memory_mib": "peak memory",
}
_SAID = (
    "held_out/all_correct",
    "held_out/attr_acc",
    "all_correct",
    "attr_acc",
    "extra_objects",
    "fd",
    "kid",
    "clip",
)
_SETS = {"held_out": "held-out", "detailed": "in full"}
_LORA = {
    "adoption/triggered_on": "style with its trigger",
    "adoption/plain_on": "style without it",
    "following/triggered_on": "prompts followed, with trigger",
    "following/plain_on": "prompts followed, without",
}
_UNITS = {"latency_ms": " ms", "peak_memory_mib": " MiB"}
MOST_CHARACTERS = 60


def metric_words(name: str) -> tuple[str, str]:
    """Return what a number is called, and of which set it is; the set is empty for the headline's."""
    if name.startswith("lora/"):
        _, sampling, what = name.split("/", 2)
        steps = sampling.removeprefix("rectified_")
        where = "base" if sampling == "base" else f"rectified, {steps} step{'' if steps == '1' else 's'}"
        return _LORA.get(what, what), f"LoRA, {where}"
    prefix, _, base = name.rpartition("/")
    return _NAMES.get(base, base.replace("_", " ")), _SETS.get(prefix, prefix.replace("_", " "))


def plain_words(text: str) -> str:
    """Return a sentence of the gate's with numbers called by name."""
    for name in _SAID:
        words, where = metric_words(name)
        text = re.sub(rf"(?<![\w/]){name}(?!\w)", f"{where} {words}".strip(), text)
    return text.replace(" -> ", " → ").replace("+0.0 ", "0.0 ").replace("-0.0 ", "0.0 ")


def in_percent(name: str) -> bool:
    """Return whether a number is a share of 1."""
    return is_share(name) and not name.endswith("density")  # a density may be above 1


def value_words(name: str, value: float | None) -> str:
    """Return a value: shares in per cent, times in ms, distances with three digits."""
    if value is not None and in_percent(name):
        return f"{100 * value:.1f} %"
    if value is not None and name.endswith("peak_memory_mib"):
        return f"{value:,.0f} MiB"
    return number(name, value).replace("%", " %")


def difference_words(row: Difference) -> str:
    """Return a difference with its sign, in points where it is one of shares."""
    unit = " points" if in_percent(row.name) else _UNITS.get(row.name.rsplit("/", 1)[-1], "")
    return f"{_signed(row, row.difference)}{unit}"


def interval_words(row: Difference) -> str:
    """Return the interval of a difference; empty where there is none."""
    if row.ci_low is None or row.ci_high is None:
        return ""
    return f"{_signed(row, row.ci_low)} to {_signed(row, row.ci_high)}"


def span_words(name: str, interval: tuple[float, float] | None) -> str:
    """Return the interval of a value; empty where there is none."""
    if interval is None:
        return ""
    low, high = (value_words(name, end).removesuffix(" %") for end in interval)
    return f"{low} to {high}"


def p_words(value: float | None) -> str:
    """Return a p-value with two digits."""
    if value is None:
        return ""
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def setting_words(value: Any) -> str:
    """Return a setting as a person would write it; long ones are cut."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        text = ", ".join(setting_words(each) for each in value) or "none"
    else:
        text = str(value) or "–"
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"


def count_words(count: int, noun: str, several: str = "") -> str:
    """Return `no images`, `1 image`, `1,200 images`."""
    return f"{count:,} {noun}" if count == 1 else f"{f'{count:,}' if count else 'no'} {several or noun + 's'}"


def _signed(row: Difference, value: float) -> str:
    """A number of a row with as many digits as the row's largest asks for."""
    if in_percent(row.name):
        return _rounded(100 * value, 1)
    largest = max(abs(each) for each in (row.difference, row.ci_low, row.ci_high) if each is not None)
    return _rounded(
        value,
        0 if largest >= 100 else 1 if largest >= 10 else 2 if largest >= 1 else 3 if largest >= 0.01 else 5,
    )


def _rounded(value: float, digits: int) -> str:
    """A signed number; what rounds to nothing has no sign."""
    return f"{value:+.{digits}f}" if round(value, digits) else f"{0:.{digits}f}"
