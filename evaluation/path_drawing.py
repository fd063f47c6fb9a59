"""The ways from noise to image, drawn before beside after Reflow: as SVG for the report and as PNG to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .charts import COLORS, INK, LINE, STYLE, new_figure

Line = Sequence[Sequence[float]]
CURVE = {"before": "base_guided", "after": "rectified"}
_WIDTH, _PAD, _LEAST_SIDE = 360, 20, 0.5


def path_frame(paths: dict[str, Sequence[Line]]) -> tuple[float, float, float, float]:
    """Return the rectangle (least x, least y, width, height) that holds all lines: both pictures share one scale."""
    points = [point for lines in paths.values() for line in lines for point in line]
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    width, height = max(xs) - min(xs) or 1.0, max(ys) - min(ys) or 1.0
    wide, high = max(width, _LEAST_SIDE * height), max(height, _LEAST_SIDE * width)
    return (min(xs) + max(xs) - wide) / 2, (min(ys) + max(ys) - high) / 2, wide, high


def paths_svg(lines: Sequence[Line], frame: tuple[float, float, float, float], curve: str, alt: str) -> str:
    """Return one picture as an inline SVG: a line an image, a ring where it is noise, a disc where it is an image."""
    low_x, low_y, width, height = frame
    scale, color = (_WIDTH - 2 * _PAD) / width, COLORS[curve]
    tall = 2 * _PAD + height * scale

    def place(point: Sequence[float]) -> tuple[float, float]:
        return _PAD + (point[0] - low_x) * scale, tall - _PAD - (point[1] - low_y) * scale

    ways, ends = [], []
    for line in lines:
        placed = [place(point) for point in line]
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        ways.append(f'<polyline points="{way}"/>')
        (x, y), (last_x, last_y) = placed[0], placed[-1]
        ends.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="#fff" stroke="{INK}"/>')
        ends.append(f'<circle cx="{last_x:.1f}" cy="{last_y:.1f}" r="3.6" fill="{color}"/>')
    return (
        f'<svg role="img" aria-label="{alt}" viewBox="0 0 {_WIDTH} {tall:.0f}">'
        f'<g fill="none" stroke="{color}" stroke-width="1.6" stroke-opacity=".75" stroke-linejoin="round">'
        f"{''.join(ways)}</g><g>{''.join(ends)}</g></svg>"
    )


def save_paths(path: Path, straightness: dict[str, Any] | None) -> bool:
    """Write both pictures side by side as one PNG; return whether there was anything to draw."""
    paths = (straightness or {}).get("paths")
    if not straightness or not paths:
        return False
    import matplotlib

    found = {row["curve"]: row["straightness_error"]["value"] for row in straightness["rows"]}
    with matplotlib.rc_context(STYLE):
        low_x, low_y, width, height = path_frame(paths)
        figure = new_figure(9.6, 1.0 + 4.6 * height / width)
        for number, (name, curve) in enumerate(CURVE.items()):
            axes = figure.add_subplot(1, 2, number + 1)
            for line in paths[name]:
                xs, ys = [point[0] for point in line], [point[1] for point in line]
                axes.plot(xs, ys, color=COLORS[curve], linewidth=1.3, alpha=0.75)
                axes.plot(xs[0], ys[0], "o", color="white", markeredgecolor=INK, markersize=5)
                axes.plot(xs[-1], ys[-1], "o", color=COLORS[curve], markersize=5)
            axes.set_title(f"{name} Reflow: straightness error {found[curve]:.3f}", fontsize=11.5, pad=8)
            axes.set_xlim(low_x - 0.06 * width, low_x + 1.06 * width)
            axes.set_ylim(low_y - 0.06 * height, low_y + 1.06 * height)
            axes.set_aspect("equal")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_color(LINE)
        figure.text(
            0.5, 0.03, "ring: noise    disc: image    same noise and prompts", ha="center", fontsize=9.5
        )
        figure.tight_layout(pad=1.4, rect=(0, 0.06, 1, 0.98))
        figure.savefig(path, dpi=130, metadata={"Software": None})
    return True
