"""The few figures a run closes with, in words: for the terminal, for Prefect and for the opening of the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from .report_numbers import at_n, lora_samplings, number, percent_with_interval, plural

_SHOWN = {
    "attr_acc": "attributes right",
    "all_correct": "images all correct",
    "geneval": "tasks answered right, mean of tags",
    "held_out/attr_acc": "held-out attributes right",
    "held_out/all_correct": "held-out images all correct",
    "detailed/attr_acc": "attributes right, prompts in full",
    "undecided": "judge undecided",
    "retrieval": "own caption found",
}


def closing_figures(
    evaluation: Mapping[str, Any] | Path,
    captions: Mapping[str, Any] | None = None,
    decision: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The few figures the command closes with, in words, best first.

    Args:
        evaluation: the document or the path of evaluation.json.
        captions: content of captions.json.
        decision: content of decision.json.
    """
    if isinstance(evaluation, Path):
        path = evaluation / "evaluation.json" if evaluation.is_dir() else evaluation
        evaluation = cast(Mapping[str, Any], json.loads(path.read_text(encoding="utf-8")))
    found = {each["name"]: each for each in evaluation["metrics"]}
    head = evaluation["headline"]
    figures = {"point": _point(head)}
    for name, words in _SHOWN.items():
        if name in found and found[name]["value"] is not None:
            figures[words] = percent_with_interval(found[name]) + _asked(evaluation, found[name])
    shuffled = evaluation["baselines"].get("shuffled_captions", {}).get("attr_acc")
    if shuffled:
        figures["floor (shuffled captions)"] = f"{shuffled['value']:.1%}"
    if "fd" in found:
        real = evaluation["baselines"].get("real_against_real", {}).get("fd")
        floor = f", real against real {real['value']:.2f}{at_n(real, found['fd'])}" if real else ""
        figures["Frechet distance"] = f"{found['fd']['value']:.2f} (n = {found['fd']['n']}{floor})"
    if "clip" in found:
        figures["CLIP score"] = f"{found['clip']['value']:.1f}"
    return {
        **figures,
        **_before_reflow(evaluation),
        **_style(evaluation),
        **_captions(captions),
        **_gate(decision),
    }


def _point(point: Mapping[str, Any]) -> str:
    how = "unguided" if point["guidance"] == 1 else f"guidance {point['guidance']:g}"
    return f"{plural(point['steps'], 'step')}, {how}"


def _before_reflow(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """What the base needed for it, and what it gave at the same number of steps."""
    head, curves = evaluation["headline"], evaluation["curves"]
    if head["curve"] != "rectified":
        return {}
    guided = curves.get("base_guided", [])
    same = [row for rows in curves.values() for row in rows if row["steps"] == head["steps"]]
    same = [row for row in same if row not in curves["rectified"]]
    figures = {}
    if guided:
        last = max(guided, key=lambda row: row["steps"])
        figures[f"the base at {_point(last)}"] = _said(last)
    if same:
        best = min(same, key=lambda row: row["fd"] if row.get("fd") is not None else 0.0)
        figures[f"the base at {_point(best)}"] = _said(best)
    return figures


def _said(row: Mapping[str, Any]) -> str:
    judged = ("attr_acc", "attributes right")
    first = judged if row.get("attr_acc") is not None else ("retrieval", "own caption found")
    shown = (first, ("fd", "Frechet distance"))
    parts = [f"{words} {number(name, row[name])}" for name, words in shown if row.get(name) is not None]
    return ", ".join([*parts, plural(row["calls"], "network call")])


def _style(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """How much of a style there is with its trigger word and without, on the base and on the rectified model."""
    measured = evaluation.get("lora")
    if not measured:
        return {}
    found = {each["name"]: each["value"] for each in measured["metrics"]}
    figures = {}
    for sampling in lora_samplings(measured["tiles"]):
        steps = sampling.removeprefix("rectified_")
        words = "the base" if sampling == "base" else f"the rectified model, {plural(int(steps), 'step')}"
        triggered, plain = (found.get(f"{sampling}/adoption/{how}") for how in ("triggered_on", "plain_on"))
        if triggered is not None and plain is not None:
            figures[f"style on {words}"] = f"{triggered:.1%} with its trigger word, {plain:.1%} without"
    return figures


def _captions(captions: Mapping[str, Any] | None) -> dict[str, str]:
    metrics = (captions or {}).get("metrics", {})
    if "f1" not in metrics:
        return {}
    return {"captions' attribute F1": f"{metrics['f1']:.3f} (alt text {metrics['alt_f1']:.3f})"}


def _gate(decision: Mapping[str, Any] | None) -> dict[str, str]:
    if not decision:
        return {}
    return {"verdict": ": ".join([decision["verdict"], *decision["reasons"][:1]])}


def _asked(evaluation: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    """What was asked of a metric and whether it was met; empty where nothing was."""
    least = evaluation.get("thresholds", {}).get(metric["name"])
    if least is None:
        return ""
    return f", asked {least:.0%}: {'met' if metric['value'] >= least else 'MISSED'}"
