"""The comparison as one picture, for a tracking server's page or a message: verdict, differences, images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from .charts import FAINT, INK, STYLE, draw_panel, measured_metrics, new_figure
from .compare import Side
from .grids import enlarged, font_of, wrapped
from .versus_numbers import NumberRow
from .versus_page import VERDICTS
from .versus_page_changes import changes_in_a_sentence
from .versus_prompts import Pair, headline_pngs
from .versus_words import difference_words, interval_words, metric_words, plain_words, value_words

if TYPE_CHECKING:
    from .versus import Comparison

WIDTH, PAD, CELL = 1280, 40, 128
NUM_PAIRS = 8
MOST_ROWS = 12
_COLORS = {"promote": (47, 125, 79), "reject": (178, 58, 46), "inconclusive": (150, 105, 10)}
_DOTS = {"better": "#2f7d4f", "worse": "#b23a2e"}
_GRAY, _DARK = (90, 99, 107), (34, 38, 42)


def draw_comparison(found: Comparison, sides: tuple[Side, Side] | None) -> Image.Image:
    """The picture, as wide as `WIDTH`; without numbers and images where the two must not be compared."""
    parts = [_heading(found)]
    if sides is not None:
        parts += [_numbers(found.numbers), _curves(found, sides), _pairs(found, sides)]
    parts = [part for part in parts if part is not None]
    canvas = Image.new("RGB", (WIDTH, sum(part.height for part in parts) + PAD), "white")
    top = 0
    for part in parts:
        canvas.paste(part, (0, top))
        top += part.height
    return canvas


def _heading(found: Comparison) -> Image.Image:
    """Title, verdict and what changed."""
    decision = found.decision
    lines = [(found.title, 34, _DARK), (VERDICTS[decision.verdict], 28, _COLORS.get(decision.verdict, _GRAY))]
    lines += [(plain_words(text), 18, _DARK) for text in decision.reasons[: 3 if found.is_comparable else 1]]
    lines.append((changes_in_a_sentence(found), 18, _GRAY))
    canvas = Image.new("RGB", (WIDTH, 900), "white")
    pen, y = ImageDraw.Draw(canvas), PAD
    for text, size, color in lines:
        font = font_of(size)
        for line in wrapped(text, font, WIDTH - 2 * PAD):
            pen.text((PAD, y), line, fill=color, font=font)
            y += round(1.4 * size)
        y += 8
    return canvas.crop((0, 0, WIDTH, y + 6))


def _numbers(numbers: Sequence[NumberRow]) -> Image.Image | None:
    """A row a number: name, from and to, the difference as a dot with its interval on a scale of its own."""
    shown = [each for each in numbers if not each.row.name.startswith("lora/")][:MOST_ROWS]
    if not shown:
        return None
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = new_figure(WIDTH / 100, 0.34 * len(shown) + 0.55)
        axes = figure.add_axes((0.47, 0.02, 0.33, 1 - 0.42 / (0.34 * len(shown) + 0.55)))
        for place, each in enumerate(shown):
            _number_row(axes, len(shown) - 1 - place, each)
        axes.axvline(0, color=FAINT, linewidth=1)
        axes.set(xlim=(-1.1, 1.1), ylim=(-0.6, len(shown) - 0.4), xticks=[], yticks=[])
        axes.text(0.06, len(shown) - 0.35, "better →", fontsize=9, color=FAINT)
        axes.text(-0.06, len(shown) - 0.35, "← worse", fontsize=9, color=FAINT, ha="right")
        for side in axes.spines.values():
            side.set_visible(False)
        return _rendered(figure)


def _number_row(axes: Any, height: int, each: NumberRow) -> None:
    row, color = each.row, _DOTS.get(each.mark, INK)
    ends = [end for end in (row.ci_low, row.ci_high) if end is not None]
    reach = max(abs(value) for value in (row.difference, *ends)) or 1.0
    words, where = metric_words(row.name)
    if len(ends) == 2:
        axes.plot([end / reach for end in ends], [height, height], color=color, linewidth=2.5, alpha=0.6)
    axes.plot([row.difference / reach], [height], "o", color=color, markersize=6)
    name = f"{words}, {where}" if where else words
    values = f"{value_words(row.name, row.champion)} → {value_words(row.name, row.challenger)}"
    said = difference_words(row)
    interval = interval_words(row)
    left = axes.get_yaxis_transform()  # x in shares of the panel, y in rows
    axes.text(-1.32, height, name, transform=left, va="center", fontsize=11)
    axes.text(-0.06, height, values, transform=left, va="center", ha="right", fontsize=11)
    axes.text(1.04, height, said, transform=left, va="center", fontsize=11, color=color, fontweight="bold")
    axes.text(1.56, height, interval, transform=left, va="center", ha="right", fontsize=9, color=FAINT)


def _curves(found: Comparison, sides: tuple[Side, Side]) -> Image.Image | None:
    """The first two metrics over the steps, the old version dashed."""
    new, old = (dict(side.document) for side in sides)
    if not (new.get("curves") and old.get("curves")):
        return None
    names = [name for name in measured_metrics(new) if name in measured_metrics(old)]
    names = sorted(names, key=lambda name: name == "attr_acc")[:2] if len(names) > 2 else names
    if not names:
        return None
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = new_figure(WIDTH / 100, 3.3)
        for number, name in enumerate(names):
            draw_panel(figure.add_subplot(1, 2, number + 1), new, name, old)
        figure.tight_layout(pad=2.4, w_pad=3)
        said = f"solid: {found.new.label}, dashed: {found.old.label}"
        figure.text(0.5, 0.01, said, ha="center", va="bottom", fontsize=9.5, color=FAINT)
        return _rendered(figure)


def _pairs(found: Comparison, sides: tuple[Side, Side]) -> Image.Image | None:
    """The first prompts, old beside new, a bar beneath telling right from wrong."""
    chosen = found.pairs[:NUM_PAIRS]
    new = headline_pngs(sides[0], {each.new_index for each in chosen})
    old = headline_pngs(sides[1], {each.old_index for each in chosen})
    chosen = [each for each in chosen if each.new_index in new and each.old_index in old]
    if not chosen:
        return None
    font, columns = font_of(14), 4
    step, height = (WIDTH - PAD) // columns, CELL + 110
    rows = -(-len(chosen) // columns)
    canvas = Image.new("RGB", (WIDTH, 44 + rows * height), "white")
    pen = ImageDraw.Draw(canvas)
    said = f"The same prompts from the same noise: left {found.old.label}, right {found.new.label}"
    pen.text((PAD, 8), said, fill=_GRAY, font=font_of(16))
    for number, each in enumerate(chosen):
        x, y = PAD + number % columns * step, 44 + number // columns * height
        _pair(canvas, pen, (x, y), each, (old[each.old_index], new[each.new_index]))
        for line, text in enumerate(wrapped(each.prompt, font, 2 * CELL + 8)):
            pen.text((x, y + CELL + 12 + 19 * line), text, fill=_DARK, font=font)
    return canvas


def _pair(
    canvas: Image.Image, pen: ImageDraw.ImageDraw, at: tuple[int, int], each: Pair, pngs: tuple[str, str]
) -> None:
    x, y = at
    for number, (png, right) in enumerate(zip(pngs, (each.old_right, each.new_right), strict=True)):
        left = x + number * (CELL + 8)
        canvas.paste(enlarged(png, CELL), (left, y))
        if right is not None:
            pen.rectangle(
                (left, y + CELL, left + CELL - 1, y + CELL + 4),
                fill=_COLORS["promote" if right else "reject"],
            )


def _rendered(figure: Any) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    with Image.open(buffer) as picture:
        return picture.convert("RGB")
