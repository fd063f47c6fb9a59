"""The report's opening, and its chapters on the base model and on prompts of other kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .page import box, boxes, note, section, table, tile
from .report_numbers import at_n, interval_cell, lora_samplings, number, plural
from .versus_words import plain_words

_HEADLINE = (
    ("attr_acc", "Attributes right"),
    ("all_correct", "Images all correct"),
    ("geneval", "Tasks answered right"),
    ("undecided", "Judge undecided"),
    ("retrieval", "Own caption found"),
    ("fd", "Frechet distance"),
    ("clip", "CLIP score"),
    ("detector_agreement", "Detector agrees"),
    ("latency_ms", "One image"),
)
GATE_SAYS = "The gate says"
_NUM_TILES = 12
_TEACHER = "guided_max/"


def default_title(document: Mapping[str, Any]) -> str:
    """A heading from what the data is."""
    if document["judge"]["name"]:
        return f"Can it draw what it is told? Scenes of level {_level(document)}"
    return "Can it draw what it is told? Images of a folder"


def opening(document: Mapping[str, Any], heading: str, summary: Sequence[tuple[str, str, str]] = ()) -> str:
    """What was done, in a paragraph, and beneath it what matters most: (words, figure, small print)."""
    head, cost = document["headline"], document["cost"]
    point = (
        f"its best point, {at_point(head)} ({plural(head['calls'], 'network call')} an image), "
        f"{escape(head['chosen_by'])}"
    )
    if is_rectified(document):
        point = (
            f"{at_point(head)}, {plural(head['calls'], 'network call')} an image: what the model is made for"
        )
    text = (
        f"The model drew {cost['images']:,} images of {escape(_prompts(document))}. "
        f"The figures are those of {point}."
    )
    found = boxes(
        [
            box(words, figure, [escape(line)] if line else [], wide=words == GATE_SAYS)
            for words, figure, line in summary
        ]
    )
    top = f'<p class="eyebrow">Fluxline {"run" if summary else "evaluation"}</p>'
    return f'{top}<h1>{escape(heading)}</h1><p class="lead">{text}</p>{found}'


def is_rectified(document: Mapping[str, Any]) -> bool:
    """Whether the headline is that of a rectified network, with the base beside it."""
    return document["headline"]["curve"] == "rectified"


def at_point(point: Mapping[str, Any]) -> str:
    """`8 steps with guidance 2`, or `1 step without guidance`."""
    how = "without guidance" if point["guidance"] == 1 else f"with guidance {point['guidance']:g}"
    return f"{plural(point['steps'], 'step')} {how}"


def base_model(document: Mapping[str, Any], gallery: Mapping[str, Any]) -> str:
    """The base's figures and images; where nothing was rectified, the headline's."""
    title = "What the base model draws" if is_rectified(document) else "What it draws"
    if not is_rectified(document):
        return section(
            "base", "train", title, figures(document), _tiled(document, gallery["samples"]), skipped(document)
        )
    point = teacher(document)
    if point is None:
        return ""
    said = note(
        f"Before it is made fast: {at_point(point)}, {plural(point['calls'], 'network call')} an image. "
        "It is the teacher of the few-step model below."
    )
    return section(
        "base",
        "train",
        title,
        said,
        figures(document, _TEACHER),
        _tiled(document, gallery.get("base", [])),
    )


def teacher(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The guided point of the base with most steps."""
    return max(document["curves"].get("base_guided", []), key=lambda row: row["steps"], default=None)


def skipped(document: Mapping[str, Any]) -> str:
    """What was not measured, and why."""
    lines = "".join(
        f"<li><b>{escape(name)}</b>: {escape(reason)}</li>"
        for name, reason in document["skipped"].items()
        if name != "lora"
    )
    return f'<h3>Not measured</h3><ul class="note">{lines}</ul>' if lines else ""


def figures(document: Mapping[str, Any], prefix: str = "") -> str:
    """The figures whose names start with the prefix, with intervals, floors and thresholds; none: the headline's."""
    found = {each["name"]: each for each in document["metrics"]}
    return boxes(
        [
            _box(found[prefix + name], name, words, document)
            for name, words in _HEADLINE
            if prefix + name in found
        ]
    )


def _box(metric: Mapping[str, Any], name: str, words: str, document: Mapping[str, Any]) -> str:
    value, lines = metric["value"], []
    if metric["ci_low"] is not None:
        low, high = (number(name, metric[end]) for end in ("ci_low", "ci_high"))
        lines.append(f"{low} to {high}, n\u00a0=\u00a0{metric['n']:,}")
    is_headline = metric["name"] == name
    floor = document["baselines"].get("shuffled_captions", {}).get(name)
    if floor and is_headline and name in ("attr_acc", "all_correct", "retrieval", "clip"):
        lines.append(f"captions shuffled: {number(name, floor['value'])}")
    real = document["baselines"].get("real_against_real", {}).get(name)
    if real and name == "fd":
        lines.append(f"real against real: {number(name, real['value'])}{at_n(real, metric)}")
    if name == "retrieval":
        lines.append(f"by guessing: {document['chance']['retrieval']:.1%}")
    threshold = document.get("thresholds", {}).get(metric["name"])
    if threshold is not None:
        met = value >= threshold
        verdict = "met" if met else "missed"
        asked = number(name, threshold)
        lines.append(f'<small class="{"pass" if met else "miss"}">asked: at least {asked}, {verdict}</small>')
    return box(words, number(name, value), lines)


def _tiled(document: Mapping[str, Any], tiles: Sequence[Mapping[str, Any]]) -> str:
    """The first prompts and what came out."""
    if not tiles:
        return ""
    tiles = tiles[:_NUM_TILES] if is_rectified(document) else tiles
    judged = "A cross tells what the judge saw instead." if document["judge"]["name"] else (
        "The mark tells whether the dual encoder finds the caption from the image alone."
    )  # fmt: skip
    said = note(f"The first {len(tiles)} prompts of the test, in order, not chosen. {judged}")
    return f'{said}<div class="tiles">{_tiles(tiles)}</div>'


def few_steps_tiles(document: Mapping[str, Any], gallery: Mapping[str, Any]) -> str:
    """Figures and images of the rectified model at its headline point; nothing where there is none."""
    if not is_rectified(document):
        return ""
    head = document["headline"]
    title = f"<h3>The headline: {at_point(head)}</h3>"
    return f"{title}{figures(document)}{_tiled(document, gallery['samples'])}{skipped(document)}"


def other_prompts(document: Mapping[str, Any], gallery: Mapping[str, Any]) -> str:
    """Combinations that training never showed, beside prompts that leave nothing open."""
    tiles = gallery.get("held_out")
    sets = _sets(document)
    if not tiles and len(sets) < 2:
        return ""
    text = "Each held-out prompt has a pair of shape and colour no training image showed: getting it right takes " \
        "knowing the two apart. "  # fmt: skip
    if "detailed/attr_acc" in {each["name"] for each in document["metrics"]}:
        text += "Short prompts leave the background open; prompts in full name it. "
    shown = f'<h3>What it never saw</h3><div class="tiles">{_tiles(tiles)}</div>' if tiles else ""
    return section(
        "asking", "evaluate", "Other ways of asking", note(text), _set_table(document, sets), shown
    )


def _sets(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The sets of prompts measured: words, prefix of the headline's figures, prefix of the teacher's."""
    kind = document.get("settings", {}).get("caption_kind", "short")
    known = (
        ("like training, in short" if kind == "short" else "like training", "", _TEACHER),
        ("in full", "detailed/", "detailed_guided_max/"),
        ("held-out combinations", "held_out/", "held_out_guided_max/"),
    )
    names = {each["name"] for each in document["metrics"]}
    return [row for row in known if any(row[1] + name in names for name in ("attr_acc", "retrieval"))]


def _set_table(document: Mapping[str, Any], sets: Sequence[tuple[str, str, str]]) -> str:
    found = {each["name"]: each for each in document["metrics"]}
    names = ("attr_acc", "all_correct") if "attr_acc" in found else ("retrieval",)
    words = {"attr_acc": "attributes", "all_correct": "all correct", "retrieval": "own caption"}
    point = teacher(document)
    has_teacher = any(name.startswith(_TEACHER) for name in found) and point is not None
    head = ["prompts", "n", *(words[name] for name in names)]
    if has_teacher and point is not None:
        head += [f"{words[name]}, {at_point(point)}" for name in names]
    rows = []
    for said, own, taught in sets:
        cells = [interval_cell(name, found.get(own + name)) for name in names]
        if has_teacher:
            cells += [interval_cell(name, found.get(taught + name)) for name in names]
        n = next(found[own + name]["n"] for name in names if own + name in found)
        rows.append([said, f"{n:,}", *cells])
    return table(head, rows)


def _tiles(tiles: Sequence[Mapping[str, Any]]) -> str:
    return "".join(tile(each["png"], each["prompt"], each["right"], each["seen"]) for each in tiles)


def _level(document: Mapping[str, Any]) -> str:
    return str(document["judge"]["name"]).rsplit("level=", 1)[-1]


def _prompts(document: Mapping[str, Any]) -> str:
    n = document["identity"]["n"]
    return f"{n:,} {'prompts it was never shown' if document['judge']['name'] else 'captions'}"


def summary(
    document: Mapping[str, Any], captions: Mapping[str, Any] | None, decision: Mapping[str, Any] | None
) -> list[tuple[str, str, str]]:
    """What matters most of a whole run, for the top of the page; empty where only an evaluation is told."""
    if not captions and not decision:
        return []
    found = {each["name"]: each for each in document["metrics"]}
    rows: list[tuple[str, str, str]] = []
    if decision:
        rows.append((GATE_SAYS, str(decision["verdict"]), plain_words((decision["reasons"] or [""])[0])))
    for name, words in (
        ("attr_acc", "Attributes right"),
        ("retrieval", "Own caption found"),
        ("fd", "Frechet distance"),
    ):
        if name in found and not (name == "retrieval" and "attr_acc" in found):
            rows.append((words, number(name, found[name]["value"]), at_point(document["headline"])))
    styled = document.get("lora") or {"metrics": [], "tiles": {}}
    style = {each["name"]: each["value"] for each in styled["metrics"]}
    for sampling in reversed(lora_samplings(styled["tiles"])):
        triggered, plain = (style.get(f"{sampling}/adoption/{how}") for how in ("triggered_on", "plain_on"))
        if triggered is not None and plain is not None:
            rows.append(("Style on its trigger word", f"{triggered:.0%}", f"without the word: {plain:.0%}"))
            break
    scores = (captions or {}).get("metrics", {})
    if "f1" in scores:
        rows.append(("Captions, attribute F1", f"{scores['f1']:.3f}", f"alt text: {scores['alt_f1']:.3f}"))
    return rows
