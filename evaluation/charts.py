"""Curves over the number of steps, as one PNG for a tracking server and as single SVG panels for the report."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LABELS = {"base_unguided": "unguided", "base_guided": "guided", "rectified": "rectified"}
COLORS = {"base_unguided": "#c2603c", "base_guided": "#1f6f8b", "rectified": "#5b7f2b"}
TITLES = {
    "attr_acc": "Attributes right",
    "all_correct": "Images all correct",
    "fd": "Frechet distance",
    "clip": "CLIP score",
    "retrieval": "Own caption found",
    "kid": "Kernel distance (KID)",
}
_PREFERRED = ("attr_acc", "all_correct", "fd", "clip", "retrieval", "kid")
INK, FAINT, LINE = "#22262a", "#7b848c", "#e3e6e8"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "svg.fonttype": "path",
    "svg.hashsalt": "fluxline",
    "axes.edgecolor": LINE,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
}


def measured_metrics(document: dict[str, Any], most: int = 4) -> list[str]:
    """Metrics that the curves hold values of, the telling ones first."""
    rows = [row for curve in document["curves"].values() for row in curve]
    return [name for name in _PREFERRED if any(row.get(name) is not None for row in rows)][:most]


def labels(document: Mapping[str, Any]) -> dict[str, str]:
    """Names of the curves: where there is a rectified network, the base's say that they are the base's."""
    if "rectified" not in document["curves"]:
        return LABELS
    return {**LABELS, "base_unguided": "base, unguided", "base_guided": "base, guided"}


def save_curves(path: Path, document: dict[str, Any]) -> None:
    """Write the panels side by side, two in a row, as one PNG."""
    import matplotlib

    names = measured_metrics(document)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(9.6, 3.5 * ((len(names) + 1) // 2))
        for number, name in enumerate(names):
            draw_panel(figure.add_subplot((len(names) + 1) // 2, 2, number + 1), document, name)
        figure.tight_layout(pad=1.6, h_pad=2.4)
        figure.savefig(path, dpi=150, metadata={"Software": None})


def panel_svg(document: dict[str, Any], name: str, before: dict[str, Any] | None = None) -> str:
    """One panel as an inline SVG element without any outside reference; `before` is drawn behind it, dashed."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.0, 3.1)
        draw_panel(figure.add_subplot(), document, name, before)
        figure.tight_layout(pad=0.6)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), TITLES[name], name)


def new_figure(width: float, height: float) -> Any:
    """A figure of its own, never of pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def draw_panel(axes: Any, document: dict[str, Any], name: str, before: dict[str, Any] | None = None) -> None:
    """Draw a metric over the steps; what another evaluation gave is dashed and has no names of its own."""
    drawn = [each for each in (before, document) if each is not None]
    ticks = sorted({row["steps"] for each in drawn for curve in each["curves"].values() for row in curve})
    place = {steps: number for number, steps in enumerate(ticks)}
    ends, names = [], labels(document)
    for curve, rows in (before["curves"] if before else {}).items():
        points = [(place[row["steps"]], row[name]) for row in rows if row.get(name) is not None]
        axes.plot(
            *zip(*points, strict=True) if points else ([], []),
            color=COLORS.get(curve, INK),
            linewidth=1.4,
            linestyle=(0, (4, 2.5)),
            marker="o",
            markersize=4,
            markerfacecolor="white",
            clip_on=False,
            zorder=2.5,
        )
    for curve, rows in document["curves"].items():
        rows = [row for row in rows if row.get(name) is not None]
        if not rows:
            continue
        x, y, color = (
            [place[row["steps"]] for row in rows],
            [row[name] for row in rows],
            COLORS.get(curve, INK),
        )
        bands = [row.get(f"{name}_ci") or [None, None] for row in rows]
        if all(low is not None and high is not None for low, high in bands):
            axes.fill_between(
                x, [b[0] for b in bands], [b[1] for b in bands], color=color, alpha=0.15, linewidth=0
            )
        axes.plot(x, y, color=color, linewidth=2, marker="o", markersize=5, clip_on=False, zorder=3)
        ends.append((y[-1], names.get(curve, curve), color, x[-1]))
    _finish(axes, name, ticks, ends)


def _finish(axes: Any, name: str, ticks: list[int], ends: list[tuple[float, str, str, int]]) -> None:
    """Title, grid and the curves' names at their ends, pushed apart where they would overlap."""
    if name in ("attr_acc", "all_correct", "retrieval"):
        low = axes.get_ylim()[0]
        axes.set_ylim(max(0.0, min(0.9, low)), 1.0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    elif name == "fd":
        axes.set_ylim(bottom=0)
    bottom, top = axes.get_ylim()
    last = len(ticks) - 1
    heights = apart([end[0] for end in sorted(ends)], 0.09 * (top - bottom), bottom, top)
    for (y, label, color, x), height in zip(sorted(ends), heights, strict=True):
        if x < last:
            axes.plot([x, last], [y, y], color=color, linewidth=1, linestyle=(0, (1, 3)), zorder=2)
        axes.annotate(
            label, (last, height), (9, 0), textcoords="offset points", va="center", color=color, fontsize=10
        )
    axes.set_title(TITLES[name], loc="left", fontsize=11.5, fontweight="bold", pad=10)
    axes.set_xticks(range(len(ticks)), [str(each) for each in ticks])
    axes.set_xlabel("steps", color=FAINT)
    axes.set_xlim(-0.15, len(ticks) - 1 + max(0.1, 0.28 * (len(ticks) - 1)))
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def apart(heights: list[float], least: float, low: float = -math.inf, high: float = math.inf) -> list[float]:
    """Spread rising heights to a least distance, each cluster about its middle, none beyond low or high."""
    clusters: list[list[float]] = []
    for height in heights:
        clusters.append([height])
        while len(clusters) > 1:
            below, above = clusters[-2], clusters[-1]
            half = (len(below) + len(above) - 2) / 2 * least
            if sum(above) / len(above) - sum(below) / len(below) >= half + least:
                break
            clusters[-2:] = [below + above]
    spread = [
        sum(each) / len(each) + (number - (len(each) - 1) / 2) * least
        for each in clusters
        for number in range(len(each))
    ]
    last = len(spread) - 1
    return [min(max(y, low + i * least), high - (last - i) * least) for i, y in enumerate(spread)]


def _inline(svg: str, title: str, name: str) -> str:
    """Strip prolog, metadata and namespaces, scale to the width, and make ids unique to this panel."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(xmlns(:\w+)?)="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    head = f'<svg role="img" aria-label="{title}" viewBox'
    return re.sub(r"<svg[^>]*?viewBox", head, svg, count=1).replace(' version="1.1"', "", 1)
