"""The report of a run as one self-contained page: no script, no font, no image from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from . import report_evidence as evidence
from . import report_story as story
from .page import page
from .report_numbers import at_n, percent_with_interval


def write_report(
    evaluation_dir: Path,
    path: Path,
    title: str | None = None,
    curation: Mapping[str, Any] | None = None,
    stages: Sequence[Mapping[str, Any]] = (),
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write the page of an evaluation, and return its path.

    Args:
        evaluation_dir: what `evaluate` wrote.
        path: the HTML file.
        title: heading; by default what the data says.
        curation: content of curation.json, for the data funnel.
        stages: what each stage of the run cost and gave: name, seconds, reused, gave.
        facts: further lines for the closing section, such as the model version or where to look.
    """
    evaluation_dir = Path(evaluation_dir)
    document = json.loads((evaluation_dir / "evaluation.json").read_text(encoding="utf-8"))
    gallery = json.loads((evaluation_dir / "gallery.json").read_text(encoding="utf-8"))
    heading = title or story.default_title(document)
    body = [
        story.opening(document, heading),
        story.headline(document),
        story.gallery(document, gallery),
        story.held_out(document, gallery),
        story.curves(document, gallery),
        evidence.groups(document),
        evidence.baselines(document),
        evidence.judge(document),
        evidence.funnel(curation),
        evidence.stages(stages),
        evidence.identity(document, facts or {}),
    ]
    path = Path(path)
    path.write_text(page(heading, "\n".join(part for part in body if part)), encoding="utf-8")
    return path


def closing_figures(evaluation: Mapping[str, Any] | Path) -> dict[str, str]:
    """The few figures the command closes with, in words, best first; a document or the path of evaluation.json."""
    if isinstance(evaluation, Path):
        path = evaluation / "evaluation.json" if evaluation.is_dir() else evaluation
        evaluation = cast(Mapping[str, Any], json.loads(path.read_text(encoding="utf-8")))
    found = {each["name"]: each for each in evaluation["metrics"]}
    head = evaluation["headline"]
    how = "unguided" if head["guidance"] == 1 else f"guidance {head['guidance']:g}"
    figures = {"point": f"{head['steps']} step{'s' if head['steps'] > 1 else ''}, {how}"}
    shown = {
        "attr_acc": "attributes right",
        "all_correct": "images all correct",
        "held_out/attr_acc": "held-out attributes right",
        "held_out/all_correct": "held-out images all correct",
        "undecided": "judge undecided",
        "retrieval": "own caption found",
    }
    for name, words in shown.items():
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
    return figures


def _asked(evaluation: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    """What was asked of a metric and whether it was met; empty where nothing was."""
    least = evaluation.get("thresholds", {}).get(metric["name"])
    if least is None:
        return ""
    return f", asked {least:.0%}: {'met' if metric['value'] >= least else 'MISSED'}"
