"""The report's chapter on Reflow: how straight the way from noise to image is, and the ways themselves, drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .charts import labels
from .page import note, section, table
from .path_drawing import CURVE, path_frame, paths_svg
from .report_numbers import plural

TITLE = "Straightening"
_NOTE = (
    "The teacher's own images, each with the noise it came from, teach the network once more; where noise and image "
    "belong together, the way between them can be a straight line, and one step follows it. "
    "The straightness error is 0 on a straight line, the path length 1."
)


def straightening(document: Mapping[str, Any]) -> str:
    """The chapter; nothing where straightness was not measured."""
    found = document.get("straightness")
    if not found or not found.get("rows"):
        return ""
    rectified = any(row["curve"] == "rectified" for row in found["rows"])
    title = TITLE if rectified else "How straight it flows"
    stage = "rectify" if rectified else "evaluate"
    intro = _NOTE if rectified else "The straightness error is 0 on a straight line, the path length 1."
    return section("straightening", stage, title, note(intro), _pictures(found), _table(document, found))


def _pictures(found: Mapping[str, Any]) -> str:
    paths = found.get("paths")
    if not paths:
        return ""
    frame = path_frame(paths)
    rows = {row["curve"]: row for row in found["rows"]}
    parts = []
    for name, curve in CURVE.items():
        how = _how(rows[curve]["guidance"])
        error = rows[curve]["straightness_error"]["value"]
        num = len(paths[name])
        alt = f"{num} ways from noise to image {name} Reflow, straightness error {error:.3f}"
        said = f"<b>{name.capitalize()}</b>, {how}: straightness error {error:.3f}"
        svg = paths_svg(paths[name], frame, curve, alt)
        parts.append(f"<figure>{svg}<figcaption>{said}</figcaption></figure>")
    note_ = note(
        f"The first {len(paths['before'])} prompts, {plural(found['num_steps'], 'step')} each, from the same noise to "
        "the same scale. Rings mark the noise, discs the image it becomes; the plane is that of the two directions "
        "in which the teacher's images differ most."
    )
    return f'<div class="pairs">{"".join(parts)}</div>{note_}'


def _how(guidance: float) -> str:
    return "unguided" if guidance == 1 else f"guidance {guidance:g}"


def _table(document: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    names = labels(document)
    rows = []
    for row in found["rows"]:
        cells = [_cell(row["straightness_error"], 4), _cell(row["path_length"], 3)]
        rows.append([names.get(row["curve"], row["curve"]), f"{row['guidance']:g}", *cells])
    convention = note(
        f"Measured on {found['n']:,} prompts along {plural(found['num_steps'], 'step')}, at the velocity that is "
        "followed: a guided way is judged with its guidance, an unguided one (guidance 1) without."
    )
    best = next((at for at, row in enumerate(found["rows"]) if row["curve"] == "rectified"), None)
    return table(["", "guidance", "straightness error", "path length"], rows, best) + convention


def _cell(found: Mapping[str, Any], digits: int) -> str:
    text = f"{found['value']:.{digits}f}"
    if found["ci_low"] is None or found["ci_high"] is None:
        return text
    return f'{text}<span class="ci">{found["ci_low"]:.{digits}f} to {found["ci_high"]:.{digits}f}</span>'
