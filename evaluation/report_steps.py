"""The report's chapter on few steps: the same noise at every number of steps, before and after, curves and table."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from .charts import labels, measured_metrics, panel_svg
from .page import note, picture, section, table
from .report_numbers import cell, plural
from .report_story import few_steps_tiles, is_rectified


def few_steps(document: Mapping[str, Any], gallery: Mapping[str, Any]) -> str:
    """The chapter."""
    text = (
        "The same prompts from the same noise at every point. Guidance asks the network twice a step, so four guided "
        "steps cost as much as eight unguided ones."
    )
    stage = "rectify" if is_rectified(document) else "evaluate"
    panels = "".join(
        f"<div>{panel_svg(dict(document), name)}</div>" for name in measured_metrics(dict(document))
    )
    return section(
        "steps",
        stage,
        "How many steps it takes",
        note(text),
        _matrices(document, gallery["steps"]),
        few_steps_tiles(document, gallery),
        f'<h3>Over the number of steps</h3>{note("Bands are 95 % intervals.")}<div class="panels">{panels}</div>',
        _curve_table(document),
    )


def _matrices(document: Mapping[str, Any], steps: Mapping[str, Any]) -> str:
    """For each prompt a row of images a curve, a column a number of steps."""
    columns = steps["columns"]
    counts = sorted({each["steps"] for each in columns})
    by_place = {(each["curve"], each["steps"]): each["pngs"] for each in columns}
    names = labels(document)
    curves = [name for name in names if any(each["curve"] == name for each in columns)]
    style = f"grid-template-columns:5.2rem repeat({len(counts)},minmax(0,1fr))"
    top = "".join(f'<span class="top">{plural(count, "step")}</span>' for count in counts)
    parts = []
    for row, prompt in enumerate(steps["prompts"]):
        cells = [f"<span></span>{top}"]
        for curve in curves:
            cells.append(f"<span>{_bold(names[curve], curve)}</span>")
            for count in counts:
                pngs = by_place.get((curve, count))
                alt = f"{prompt}; {names[curve]}, {plural(count, 'step')}"
                cells.append(picture(pngs[row], alt) if pngs else "<span></span>")
        parts.append(
            f'<div><p>{escape(prompt)}</p><div class="matrix" style="{style}">{"".join(cells)}</div></div>'
        )
    return f'<div class="matrices">{"".join(parts)}</div>'


def _bold(words: str, curve: str) -> str:
    return f"<b>{escape(words)}</b>" if curve == "rectified" else escape(words)


def _curve_table(document: Mapping[str, Any]) -> str:
    names = [name for name in ("attr_acc", "all_correct", "undecided", "retrieval", "fd", "kid", "clip")
             if any(row.get(name) is not None for rows in document["curves"].values() for row in rows)]  # fmt: skip
    words = {"attr_acc": "attributes", "all_correct": "all correct", "fd": "Frechet", "kid": "KID", "clip": "CLIP",
             "retrieval": "own caption", "undecided": "undecided"}  # fmt: skip
    head = ["", "steps", "calls", *(words[name] for name in names), "ms an image"]
    rows, best, said = [], None, labels(document)
    for curve, points in document["curves"].items():
        for point in points:
            if curve == document["headline"]["curve"] and point["steps"] == document["headline"]["steps"]:
                best = len(rows)
            cells = [cell(name, point.get(name), point.get(f"{name}_ci")) for name in names]
            label = escape(str(said.get(curve, curve)))
            latency = f"{point['latency_ms']:.1f}"
            rows.append([label, str(point["steps"]), str(point["calls"]), *cells, latency])
    return table(head, rows, best)
