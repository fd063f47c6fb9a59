"""The report of a run as one self-contained page that tells it in order: no script, no font, no outside image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import report_evidence as evidence
from . import report_story as story
from .closing import closing_figures
from .page import contents, page
from .report_captions import captions as captions_chapter
from .report_coverage import coverage
from .report_gate import verdict as verdict_chapter
from .report_lora import lora as lora_chapter
from .report_steps import few_steps
from .report_straightening import straightening

__all__ = ["closing_figures", "write_report"]

Source = Mapping[str, Any] | Path | None
"""The content of a JSON file, or the directory that holds it under its usual name; None where there is none."""


def write_report(
    evaluation_dir: Path,
    path: Path,
    title: str | None = None,
    curation: Mapping[str, Any] | None = None,
    stages: Sequence[Mapping[str, Any]] = (),
    facts: Mapping[str, str] | None = None,
    *,
    captions: Source = None,
    decision: Source = None,
    lora: Source = None,
    registration: Source = None,
) -> Path:
    """Write the page of an evaluation, and return its path; a chapter whose data are missing is left out.

    Args:
        evaluation_dir: what `evaluate` wrote.
        path: the HTML file.
        title: heading; by default what the data says.
        curation: content of curation.json, for the data funnel.
        stages: what each stage of the run cost and gave: name, seconds, reused, gave.
        facts: further lines for the closing section, such as the model version or where to look.
        captions: the captions artifact (captions.json).
        decision: the gate's artifact (decision.json).
        lora: the LoRA's artifact (story.json), for the images it was trained on.
        registration: the registration's artifact (registration.json).
    """
    evaluation_dir = Path(evaluation_dir)
    document = json.loads((evaluation_dir / "evaluation.json").read_text(encoding="utf-8"))
    gallery = json.loads((evaluation_dir / "gallery.json").read_text(encoding="utf-8"))
    if gallery.get("lora") and document.get("lora"):
        document["lora"] = {**document["lora"], "tiles": gallery["lora"]}
    said, decided = _read(captions, "captions.json"), _read(decision, "decision.json")
    heading = title or story.default_title(document)
    chapters = [
        evidence.funnel(curation),
        captions_chapter(said),
        story.base_model(document, gallery),
        straightening(document),
        few_steps(document, gallery),
        story.other_prompts(document, gallery),
        lora_chapter(document, _read(lora, "story.json")),
        verdict_chapter(decided, _read(registration, "registration.json")),
        evidence.groups(document),
        evidence.baselines(document),
        coverage(document),
        evidence.judge(document),
        evidence.stages(stages),
        evidence.identity(document, facts or {}),
    ]
    summary = story.summary(document, said, decided)
    body = [story.opening(document, heading, summary), contents(chapters), *chapters]
    path = Path(path)
    path.write_text(page(heading, "\n".join(part for part in body if part)), encoding="utf-8")
    return path


def _read(source: Source, name: str) -> Mapping[str, Any] | None:
    """The content of a file of a directory, or what was handed over; None where there is nothing."""
    if source is None or isinstance(source, Mapping):
        return source
    path = source / name if Path(source).is_dir() else Path(source)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
