"""The report's first sections, what the model is and does: opening, headline figures, images, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .charts import LABELS, measured_metrics, panel_svg
from .page import table, tile
from .report_numbers import at_n, cell, number, plural

_HEADLINE = (
    ("attr_acc", "Attributes right"),
    ("all_correct", "Images all correct"),
    ("held_out/attr_acc", "Held-out attributes"),
    ("held_out/all_correct", "Held-out all correct"),
    ("undecided", "Judge undecided"),
    ("retrieval", "Own caption found"),
    ("fd", "Frechet distance"),
    ("clip", "CLIP score"),
    ("detector_agreement", "Detector agrees"),
    ("latency_ms", "One image"),
)


def default_title(document: Mapping[str, Any]) -> str:
    """A heading from what the data is."""
    if document["judge"]["name"]:
        return f"Can it draw what it is told? Scenes of level {_level(document)}"
    return "Can it draw what it is told? Images of a folder"


def opening(document: Mapping[str, Any], heading: str) -> str:
    """What was done, in a paragraph."""
    head, cost = document["headline"], document["cost"]
    how = "without guidance" if head["guidance"] == 1 else f"with guidance {head['guidance']:g}"
    steps = plural(head["steps"], "step")
    text = (
        f"The model drew {cost['images']:,} images of {escape(_prompts(document))}. "
        f"The figures are those of its best point, {steps} {how} "
        f"({plural(head['calls'], 'network call')} an image), {escape(head['chosen_by'])}."
    )
    return f'<p class="eyebrow">Fluxline evaluation</p><h1>{escape(heading)}</h1><p class="lead">{text}</p>'


def headline(document: Mapping[str, Any]) -> str:
    """The headline figures with intervals and thresholds."""
    found = {each["name"]: each for each in document["metrics"]}
    boxes = [_box(found[name], words, document) for name, words in _HEADLINE if name in found]
    skipped = "".join(
        f"<li><b>{escape(name)}</b>: {escape(reason)}</li>" for name, reason in document["skipped"].items()
    )
    note = f'<h3>Not measured</h3><ul class="note">{skipped}</ul>' if skipped else ""
    return f'<div class="figures">{"".join(boxes)}</div>{note}'


def _box(metric: Mapping[str, Any], words: str, document: Mapping[str, Any]) -> str:
    name, value = metric["name"], metric["value"]
    lines = []
    if metric["ci_low"] is not None:
        low, high = (number(name, metric[end]) for end in ("ci_low", "ci_high"))
        lines.append(f"<small>{low} to {high}, n = {metric['n']:,}</small>")
    floor = document["baselines"].get("shuffled_captions", {}).get(name)
    if floor and name in ("attr_acc", "all_correct", "retrieval", "clip"):
        lines.append(f"<small>captions shuffled: {number(name, floor['value'])}</small>")
    real = document["baselines"].get("real_against_real", {}).get(name)
    if real and name == "fd":
        lines.append(f"<small>real against real: {number(name, real['value'])}{at_n(real, metric)}</small>")
    if name == "retrieval":
        lines.append(f"<small>by guessing: {document['chance']['retrieval']:.1%}</small>")
    threshold = document.get("thresholds", {}).get(name)
    if threshold is not None:
        met = value >= threshold
        verdict = "met" if met else "missed"
        asked = number(name, threshold)
        lines.append(f'<small class="{"pass" if met else "miss"}">asked: at least {asked}, {verdict}</small>')
    return (
        f'<div class="figure"><span>{escape(words)}</span><b>{number(name, value)}</b>{"".join(lines)}</div>'
    )


def gallery(document: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    """The first prompts and what came out."""
    tiles = pictures["samples"]
    judged = "A cross tells what the judge saw instead." if document["judge"]["name"] else (
        "The mark tells whether the dual encoder finds the caption from the image alone."
    )  # fmt: skip
    note = f"The first {len(tiles)} prompts of the test, in order, not chosen. {judged}"
    return f'<h2>What it draws</h2><p class="note">{note}</p><div class="tiles">{_tiles(tiles)}</div>'


def held_out(document: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    """Combinations that training never showed."""
    if not pictures.get("held_out"):
        return ""
    text = (
        "Each of these prompts holds a pair of shape and colour that no training image showed. "
        "Getting them right takes knowing shape and colour apart."
    )
    tiles = _tiles(pictures["held_out"])
    return f'<h2>What it never saw</h2><p class="note">{text}</p><div class="tiles">{tiles}</div>'


def curves(document: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    """Curves over steps, the same images at each step, and the table behind them."""
    panels = "".join(
        f"<div>{panel_svg(dict(document), name)}</div>" for name in measured_metrics(dict(document))
    )
    text = (
        "The same prompts from the same noise at every point; bands are 95 % intervals. "
        "Guidance asks the network twice a step, so four guided steps cost as much as eight unguided ones."
    )
    return (
        f'<h2>How many steps it takes</h2><p class="note">{text}</p><div class="panels">{panels}</div>'
        f"{_strips(pictures['steps'])}{_curve_table(document)}"
    )


def _strips(steps: Mapping[str, Any]) -> str:
    columns = steps["columns"]
    rows = []
    heads = "".join(
        f"<span>{LABELS.get(each['curve'], each['curve'])} {each['steps']}</span>" for each in columns
    )
    for row, prompt in enumerate(steps["prompts"]):
        images = "".join(
            f'<img alt="{escape(prompt, quote=True)}" src="data:image/png;base64,{each["pngs"][row]}">'
            for each in columns
        )
        top = heads if row == 0 else ""
        style = f"grid-template-columns:repeat({len(columns)},1fr)"
        rows.append(
            f'<p class="note" style="margin:.2rem 0">{escape(prompt)}</p>'
            f'<div class="scroll" style="margin:0"><div class="strip" style="{style}">{top}{images}</div></div>'
        )
    return "".join(rows)


def _curve_table(document: Mapping[str, Any]) -> str:
    names = [name for name in ("attr_acc", "all_correct", "undecided", "retrieval", "fd", "kid", "clip")
             if any(row.get(name) is not None for rows in document["curves"].values() for row in rows)]  # fmt: skip
    words = {"attr_acc": "attributes", "all_correct": "all correct", "fd": "Frechet", "kid": "KID", "clip": "CLIP",
             "retrieval": "own caption", "undecided": "undecided"}  # fmt: skip
    head = ["", "steps", "calls", *(words[name] for name in names), "ms an image"]
    rows, best = [], None
    for curve, points in document["curves"].items():
        for point in points:
            if curve == document["headline"]["curve"] and point["steps"] == document["headline"]["steps"]:
                best = len(rows)
            cells = [cell(name, point.get(name), point.get(f"{name}_ci")) for name in names]
            label = escape(str(LABELS.get(curve, curve)))
            latency = f"{point['latency_ms']:.1f}"
            rows.append([label, str(point["steps"]), str(point["calls"]), *cells, latency])
    return table(head, rows, best)


def _tiles(tiles: Sequence[Mapping[str, Any]]) -> str:
    return "".join(tile(each["png"], each["prompt"], each["right"], each["seen"]) for each in tiles)


def _level(document: Mapping[str, Any]) -> str:
    return str(document["judge"]["name"]).rsplit("level=", 1)[-1]


def _prompts(document: Mapping[str, Any]) -> str:
    n = document["identity"]["n"]
    return f"{n:,} {'prompts it was never shown' if document['judge']['name'] else 'captions'}"
