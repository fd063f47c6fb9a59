"""The report's later sections, what stands behind the figures: groups, baselines, judge, data, stages, identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .page import bars, note, section, table
from .report_numbers import interval_cell

_MOST_REFUSED = 20


def groups(document: Mapping[str, Any]) -> str:
    """The headline score by group."""
    found = document["groups"]
    if not found:
        return ""
    titles = {"num_objects": "Number of objects", "combination": "Combinations", "attribute": "Attribute",
              "shape": "Shape asked for", "color": "Colour asked for"}  # fmt: skip
    given = _given(found.get("given", []))
    parts = []
    for kind, title in titles.items():
        rows = [
            (row["group"], row["attr_acc"]["value"], row["attr_acc"]["ci_low"], row["attr_acc"]["ci_high"])
            for row in found.get(kind, [])
        ]
        if rows:
            parts.append(f"<div><h3>{title}</h3>{bars(rows)}</div>")
    said = note("Shares of attributes right; the dark line is the 95 % interval.") if parts else ""
    body = f'<div class="columns">{"".join(parts)}</div>'
    return section("groups", "evaluate", "Where it is strong and weak", given, said, body)


def _given(rows: Sequence[Mapping[str, Any]]) -> str:
    """The groups that a file of prompts names; nothing where it names none."""
    words = {
        "geneval": "tasks answered right",
        "all_correct": "images all correct",
        "retrieval": "own caption found",
    }
    for name, said in words.items():
        shown = [
            (row["group"], *(row[name][end] for end in ("value", "ci_low", "ci_high")))
            for row in rows
            if name in row
        ]
        if shown:
            return f"<div><h3>Groups of the prompts: {said}</h3>{bars(shown)}</div>"
    return ""


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
    said = "The same measures with other images, or other captions, in the model's place."
    real = found.get("real_against_real", {}).get("fd")
    if real and "fd" in metrics and real["n"] != metrics["fd"]["n"]:
        said += (
            f" Distances between real images are between two halves of {real['n']:,} each, the model's of "
            f"{metrics['fd']['n']:,}: the fewer the images, the larger the Frechet distance."
        )
    head = ["", *(words[name] for name in names)]
    return section("baselines", "evaluate", "Floors and ceilings", note(said), table(head, rows, 0))


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
    said = (
        "The judge tries every object that could stand in each cell and keeps the one that explains the pixels best; "
        "where two explain them nearly alike it says undecided, which counts as wrong. "
        f"Here it reads {rows[0]['n']} scenes whose truth is known. What the autoencoder loses, the model cannot keep."
    )
    head = ["read", "right", "undecided", "wrong", "images all correct"]
    return section("judge", "evaluate", "Can the judge be trusted?", note(said), table(head, cells))


def funnel(curation: Mapping[str, Any] | None) -> str:
    """What curation kept and dropped, each count as a bar of what was seen."""
    if not curation or "seen" not in curation:
        return ""
    seen = max(int(curation["seen"]), 1)
    rows = [("images seen", curation["seen"], "")]
    rows += [(_plain(reason), count, "bad") for reason, count in curation.get("dropped", {}).items()]
    rows.append(("kept", curation["kept"], ""))
    rows += [(f"of these for {split}", count, "soft") for split, count in curation.get("splits", {}).items()]
    bars_ = "".join(_funnel_bar(name, count, seen, kind) for name, count, kind in rows)
    refused = list(curation.get("refused", []))[:_MOST_REFUSED]
    lines = "".join(f"<li>{escape(_refusal(each))}</li>" for each in refused)
    of = int(curation.get("num_refused", len(refused)))
    more = f" (the first {len(refused)} of {of:,})" if of > len(refused) else ""
    listed = f'<details><summary>What was refused{more}</summary><ul class="note">{lines}</ul></details>'
    skipped = "; ".join(
        f"{_plain(name)}, as {reason}" for name, reason in (curation.get("skipped_rules") or {}).items()
    )
    return section(
        "data",
        "curate",
        "What it learned from",
        note(f"<code>{escape(str(curation.get('data', '')))}</code>"),
        f'<div class="bars funnel">{bars_}</div>',
        listed if refused else "",
        note(f"Rules not applied: {escape(skipped)}.") if skipped else "",
    )


def _plain(name: object) -> str:
    return str(name).replace("_", " ")


def _refusal(each: Mapping[str, Any]) -> str:
    detail = f", {each['detail']}" if each.get("detail") else ""
    return f"{each.get('path')}: {_plain(each.get('reason'))}{detail}"


def _funnel_bar(name: str, count: int, seen: int, kind: str) -> str:
    label = f"dropped: {name}" if kind == "bad" else name
    bar = f'<div class="track"><i class="{kind}" style="width:{100 * count / seen:.2f}%"></i></div>'
    return f"<span>{escape(label)}</span>{bar}<span>{count:,}</span>"


def stages(run: Sequence[Mapping[str, Any]]) -> str:
    """What each stage cost and gave."""
    if not run:
        return ""
    rows = [
        [
            escape(str(each["name"])),
            "reused" if each.get("reused") else f"{each.get('seconds', 0):.0f} s",
            f'<span class="said">{escape(str(each.get("gave") or ""))}</span>',
        ]
        for each in run
    ]
    return section(
        "run", "the chain", "How the run went", table(["stage", "time", "gave"], rows, worded=True)
    )


def drawn_as(contestant: Mapping[str, Any]) -> str:
    """How a pipeline of other making was drawn, in a line."""
    cut = contestant["truncated_prompts"]
    return (
        f"{contestant['family']} ({contestant['pipeline']} of diffusers {contestant['diffusers']}, "
        f"{contestant['solver']}) at {contestant['size']} pixels; safety checker off; "
        f"{cut or 'no'} prompts cut at {contestant['max_tokens']} tokens"
    )


def identity(document: Mapping[str, Any], facts: Mapping[str, str]) -> str:
    """What the numbers were measured on and with."""
    said = "Numbers compare only with numbers whose lines here are the same, but for the model"
    contestant = document.get("contestant")
    said += (
        ", and its solver, size and precision where it is a pipeline of other making." if contestant else "."
    )
    cost = document["cost"]
    lines = {**facts, **document["identity"]}
    lines["cost"] = (
        f"{cost['seconds']:.0f} s for {cost['images']:,} images, {cost['peak_memory_mib']:,} MiB at most"
    )
    if cost.get("parts"):
        parts = (f"{name} {seconds:.1f} s" for name, seconds in cost["parts"].items() if seconds >= 0.1)
        lines["where the time went"] = ", ".join(parts)
    if contestant:
        lines["drawn as"] = drawn_as(contestant)
    items = "".join(
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in lines.items()
        if value is not None
    )
    return section("identity", "evidence", "What these numbers are", note(said), f"<dl>{items}</dl>")
