"""The report's later sections, what stands behind the figures: groups, baselines, judge, data, stages, identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .page import bars, table
from .report_numbers import interval_cell


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
    rows = [["<b>this model</b>", *(interval_cell(name, metrics.get(name)) for name in names)]]
    rows += [
        [escape(str(titles.get(kind, kind))), *(interval_cell(name, each.get(name)) for name in names)]
        for kind, each in found.items()
    ]
    note = "The same measures with other images, or other captions, in the model's place."
    real = found.get("real_against_real", {}).get("fd")
    if real and "fd" in metrics and real["n"] != metrics["fd"]["n"]:
        note += (
            f" Distances between real images are between two halves of {real['n']:,} each, the model's of "
            f"{metrics['fd']['n']:,}: the fewer the images, the larger the Frechet distance."
        )
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
