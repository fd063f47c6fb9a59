"""The report's sections, each from the evaluation's document to markup; an empty text where there is nothing to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .charts import LABELS, measured_metrics, panel_svg
from .page import bars, table, tile

_SHARES = (
    "attr_acc",
    "all_correct",
    "undecided",
    "extra_objects",
    "retrieval",
    "detector_attr_acc",
    "detector_agreement",
)
# Distances below this are rounding.
_TINY = 1e-9
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


def percent_with_interval(metric: Mapping[str, Any]) -> str:
    """A share in per cent with its interval."""
    text = f"{metric['value']:.1%}"
    if metric["ci_low"] is None:
        return text
    return f"{text} ({100 * metric['ci_low']:.1f} to {100 * metric['ci_high']:.1f})"


def default_title(document: Mapping[str, Any]) -> str:
    """A heading from what the data is."""
    if document["judge"]["name"]:
        return f"Can it draw what it is told? Scenes of level {_level(document)}"
    return "Can it draw what it is told? Images of a folder"


def opening(document: Mapping[str, Any], heading: str) -> str:
    """What was done, in a paragraph."""
    head, cost = document["headline"], document["cost"]
    how = "without guidance" if head["guidance"] == 1 else f"with guidance {head['guidance']:g}"
    steps = _plural(head["steps"], "step")
    text = (
        f"The model drew {cost['images']:,} images of {escape(_prompts(document))}. "
        f"The figures are those of its best point, {steps} {how} "
        f"({_plural(head['calls'], 'network call')} an image), {escape(head['chosen_by'])}."
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
        low, high = (_number(name, metric[end]) for end in ("ci_low", "ci_high"))
        lines.append(f"<small>{low} to {high}, n = {metric['n']:,}</small>")
    floor = document["baselines"].get("shuffled_captions", {}).get(name)
    if floor and name in ("attr_acc", "all_correct", "retrieval", "clip"):
        lines.append(f"<small>captions shuffled: {_number(name, floor['value'])}</small>")
    real = document["baselines"].get("real_against_real", {}).get(name)
    if real and name == "fd":
        lines.append(f"<small>real against real: {_number(name, real['value'])}</small>")
    if name == "retrieval":
        lines.append(f"<small>by guessing: {document['chance']['retrieval']:.1%}</small>")
    threshold = document.get("thresholds", {}).get(name)
    if threshold is not None:
        met = value >= threshold
        verdict = "met" if met else "missed"
        asked = _number(name, threshold)
        lines.append(f'<small class="{"pass" if met else "miss"}">asked: at least {asked}, {verdict}</small>')
    return (
        f'<div class="figure"><span>{escape(words)}</span><b>{_number(name, value)}</b>{"".join(lines)}</div>'
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
    for number, prompt in enumerate(steps["prompts"]):
        images = "".join(
            f'<img alt="{escape(prompt, quote=True)}" src="data:image/png;base64,{each["pngs"][number]}">'
            for each in columns
        )
        top = heads if number == 0 else ""
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
            cells = [_cell(name, point.get(name), point.get(f"{name}_ci")) for name in names]
            label = escape(str(LABELS.get(curve, curve)))
            latency = f"{point['latency_ms']:.1f}"
            rows.append([label, str(point["steps"]), str(point["calls"]), *cells, latency])
    return table(head, rows, best)


def groups(document: Mapping[str, Any]) -> str:
    """The headline score by group."""
    found = document["groups"]
    if not found:
        return ""
    titles = {"num_objects": "Number of objects", "combination": "Combinations", "attribute": "Attribute",
              "shape": "Shape asked for", "color": "Colour asked for"}  # fmt: skip
    parts = []
    for kind, title in titles.items():
        rows = [
            (row["group"], row["attr_acc"]["value"], row["attr_acc"]["ci_low"], row["attr_acc"]["ci_high"])
            for row in found.get(kind, [])
        ]
        if rows:
            parts.append(f"<div><h3>{title}</h3>{bars(rows)}</div>")
    note = "Shares of attributes right; the dark line is the 95 % interval."
    return f'<h2>Where it is strong and weak</h2><p class="note">{note}</p><div class="columns">{"".join(parts)}</div>'


def baselines(document: Mapping[str, Any]) -> str:
    """Floors and ceilings beside the model."""
    titles = {"real_against_real": "real images", "noise": "noise", "shuffled_captions": "captions shuffled"}
    found = document["baselines"]
    metrics = {each["name"]: each for each in document["metrics"]}
    names = [name for name in ("attr_acc", "all_correct", "retrieval", "fd", "kid", "clip")
             if name in metrics or any(name in each for each in found.values())]  # fmt: skip
    words = {"attr_acc": "attributes", "all_correct": "all correct", "fd": "Frechet", "kid": "KID", "clip": "CLIP",
             "retrieval": "own caption"}  # fmt: skip
    rows = [["<b>this model</b>", *(_interval_cell(name, metrics.get(name)) for name in names)]]
    rows += [
        [escape(str(titles.get(kind, kind))), *(_interval_cell(name, each.get(name)) for name in names)]
        for kind, each in found.items()
    ]
    note = "The same measures with other images, or other captions, in the model's place."
    head = ["", *(words[name] for name in names)]
    return f'<h2>Floors and ceilings</h2><p class="note">{note}</p>{table(head, rows, 0)}'


def judge(document: Mapping[str, Any]) -> str:
    """How far the judge can be trusted."""
    rows = document["judge"]["calibration"]
    if not rows:
        return ""
    cells = [
        [
            escape(row["images"]),
            *(f"{row[name]:.1%}" for name in ("right", "undecided", "wrong", "all_correct")),
        ]
        for row in rows
    ]
    note = (
        "The judge tries every object that could stand in each cell and keeps the one that explains the pixels best; "
        "where two explain them nearly alike it says undecided, which counts as wrong. "
        f"Here it reads {rows[0]['n']} scenes whose truth is known. What the autoencoder loses, the model cannot keep."
    )
    head = ["read", "right", "undecided", "wrong", "images all correct"]
    return f'<h2>Can the judge be trusted?</h2><p class="note">{note}</p>{table(head, cells)}'


def funnel(curation: Mapping[str, Any] | None) -> str:
    """What curation kept and dropped."""
    if not curation or "seen" not in curation:
        return ""
    rows = [["images seen", f"{curation['seen']:,}"]]
    rows += [
        [f"dropped: {escape(str(reason))}", f"{count:,}"]
        for reason, count in curation.get("dropped", {}).items()
    ]
    rows.append(["<b>kept</b>", f"<b>{curation['kept']:,}</b>"])
    rows += [
        [f"of these for {escape(split)}", f"{count:,}"] for split, count in curation.get("splits", {}).items()
    ]
    refused = "".join(
        "<li>" + escape(f"{each.get('path')}: {each.get('reason')}, {each.get('detail')}") + "</li>"
        for each in list(curation.get("refused", []))[:20]
    )
    more = f'<h3>Refused</h3><ul class="note">{refused}</ul>' if refused else ""
    skipped = "; ".join(f"{name}: {reason}" for name, reason in (curation.get("skipped_rules") or {}).items())
    note = f'<p class="note">Rules not applied: {escape(skipped)}</p>' if skipped else ""
    source = f'<p class="note">{escape(str(curation.get("data", "")))}</p>'
    return f"<h2>What it learned from</h2>{source}{table(['', 'images'], rows)}{more}{note}"


def stages(run: Sequence[Mapping[str, Any]]) -> str:
    """What each stage cost and gave."""
    if not run:
        return ""
    rows = [
        [
            escape(str(each["name"])),
            "reused" if each.get("reused") else f"{each.get('seconds', 0):.0f} s",
            escape(str(each.get("gave") or "")),
        ]
        for each in run
    ]
    return f"<h2>How the run went</h2>{table(['stage', 'time', 'gave'], rows)}"


def identity(document: Mapping[str, Any], facts: Mapping[str, str]) -> str:
    """What the numbers were measured on and with."""
    note = "Numbers compare only with numbers whose lines here are the same, but for the model."
    cost = document["cost"]
    lines = {**facts, **document["identity"]}
    lines["cost"] = (
        f"{cost['seconds']:.0f} s for {cost['images']:,} images, {cost['peak_memory_mib']:,} MiB at most"
    )
    items = "".join(
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in lines.items()
        if value is not None
    )
    return f'<h2>What these numbers are</h2><p class="note">{note}</p><dl>{items}</dl>'


def _tiles(tiles: Sequence[Mapping[str, Any]]) -> str:
    return "".join(tile(each["png"], each["prompt"], each["right"], each["seen"]) for each in tiles)


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    name = name.rsplit("/", 1)[-1]
    if name in _SHARES:
        return f"{value:.1%}"
    if name == "latency_ms":
        return f"{value:.0f} ms"
    if name == "clip":
        return f"{value:.1f}"
    return "0" if abs(value) < _TINY else f"{value:#.3g}".replace("e-0", "e-").rstrip(".")


def _cell(name: str, value: float | None, interval: Sequence[float | None] | None) -> str:
    text = _number(name, value)
    if value is None or not interval or interval[0] is None or interval[1] is None:
        return text
    low, high = (_number(name, end).removesuffix("%") for end in interval)
    return f'{text}<span class="ci">{low} to {high}</span>'


def _interval_cell(name: str, found: Mapping[str, Any] | None) -> str:
    return _cell(name, found["value"], [found["ci_low"], found["ci_high"]]) if found else "–"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _level(document: Mapping[str, Any]) -> str:
    return str(document["judge"]["name"]).rsplit("level=", 1)[-1]


def _prompts(document: Mapping[str, Any]) -> str:
    n = document["identity"]["n"]
    return f"{n:,} {'prompts it was never shown' if document['judge']['name'] else 'captions'}"
