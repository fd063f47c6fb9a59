"""Sample grids: images with their prompts beneath, as PNG to look at and as small pieces for the report."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .atlas import HEADLINE, HELD_OUT, write_atlas
from .curves import Point
from .instruments import Measured
from .prompts import Benchmark
from .report_numbers import lora_samplings
from .verdicts import describe

_CELL, _PAD, _FONT_SIZE, _LINES = 192, 18, 15, 4
_INK, _RIGHT, _WRONG = (34, 38, 42), (47, 125, 79), (178, 58, 46)


def save_grids(
    output: Path,
    points: list[Point],
    headline: Point,
    held_out: Measured | None,
    benchmark: Benchmark,
    grid_size: int,
) -> None:
    """Write the atlases, grid.png, held_out.png, steps.png, base.png (of another network) and gallery.json."""
    measured = headline.measured
    write_atlas(output / HEADLINE, measured.images)
    count = min(grid_size, len(measured.asked))
    gallery: dict[str, Any] = {"samples": _tiles(measured, count)}
    draw_grid(gallery["samples"], 6).save(output / "grid.png")
    teacher = _teacher(points, headline)
    if teacher is not None:
        gallery["base"] = _tiles(teacher.measured, count)
        draw_grid(gallery["base"], 6).save(output / "base.png")
    if held_out is not None:
        write_atlas(output / HELD_OUT, held_out.images)
        gallery["held_out"] = _tiles(held_out, min(12, len(held_out.asked)))
        draw_grid(gallery["held_out"], 6).save(output / "held_out.png")
    real = benchmark.reference if benchmark.real is None else benchmark.real
    gallery["real"] = [{"png": _png(image), "prompt": "", "right": None, "seen": ""} for image in real[:12]]
    gallery["steps"] = _step_rows(points, min(4, count))
    draw_steps(gallery["steps"]).save(output / "steps.png")
    text = json.dumps(gallery, ensure_ascii=False)
    (output / "gallery.json").write_text(text, encoding="utf-8")


def _teacher(points: list[Point], headline: Point) -> Point | None:
    """The base's guided point with most steps, where the headline is another network's."""
    guided = [point for point in points if point.curve == "base_guided"]
    return max(guided, key=lambda point: point.steps) if guided and headline.curve == "rectified" else None


def _tiles(measured: Measured, count: int) -> list[dict[str, Any]]:
    """The first images, never chosen by their score: image, prompt, whether it is right, and what was seen if not."""
    tiles = []
    for row in range(count):
        right = seen = None
        if (
            measured.verdicts is not None
            and measured.reading is not None
            and measured.asked.asked is not None
        ):
            right = bool(measured.verdicts.all_correct[row])
            seen = "" if right else describe(measured.asked.asked, measured.reading, row)
        elif measured.hits is not None and len(measured.hits):
            right = bool(measured.hits[row])
        prompt = measured.asked.prompts[row]
        tiles.append(
            {"png": _png(measured.images[row]), "prompt": prompt, "right": right, "seen": seen or ""}
        )
    return tiles


def _step_rows(points: list[Point], count: int) -> dict[str, Any]:
    """The same prompts and noise at every point of the curves."""
    prompts = points[0].measured.asked.prompts[:count]
    columns = [
        {
            "curve": point.curve,
            "steps": point.steps,
            "pngs": [_png(image) for image in point.measured.images[:count]],
        }
        for point in points
    ]
    return {"prompts": prompts, "columns": columns}


def _png(image: Tensor) -> str:
    """A uint8 image [3, H, W] as base64 of its PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def draw_grid(tiles: list[dict[str, Any]], columns: int) -> Image.Image:
    """Tiles in rows with their prompts beneath, a coloured bar telling right from wrong where that is known."""
    font = font_of(_FONT_SIZE)
    broken = [wrapped(tile["prompt"], font, _CELL) for tile in tiles]
    height = _CELL + 14 + (_FONT_SIZE + 5) * max((len(lines) for lines in broken), default=0) + _PAD
    rows = -(-len(tiles) // columns)
    columns = min(columns, len(tiles))
    canvas = Image.new("RGB", (columns * (_CELL + _PAD) + _PAD, rows * height + _PAD), "white")
    pen = ImageDraw.Draw(canvas)
    for number, (tile, lines) in enumerate(zip(tiles, broken, strict=True)):
        x, y = _PAD + number % columns * (_CELL + _PAD), _PAD + number // columns * height
        canvas.paste(enlarged(tile["png"], _CELL), (x, y))
        pen.rectangle((x, y, x + _CELL - 1, y + _CELL - 1), outline=(214, 218, 221))
        if tile["right"] is not None:
            pen.rectangle(
                (x, y + _CELL, x + _CELL - 1, y + _CELL + 3), fill=_RIGHT if tile["right"] else _WRONG
            )
        for line, text in enumerate(lines):
            pen.text((x, y + _CELL + 9 + line * (_FONT_SIZE + 5)), text, fill=_INK, font=font)
    return canvas


def draw_steps(steps: dict[str, Any]) -> Image.Image:
    """One row a prompt, one column a point of the curves."""
    font, cell, pad, label = font_of(14), 112, 10, 190
    columns, prompts = steps["columns"], steps["prompts"]
    names = {"base_unguided": "unguided", "base_guided": "guided"}
    canvas = Image.new(
        "RGB", (label + len(columns) * (cell + pad) + pad, 46 + len(prompts) * (cell + pad)), "white"
    )
    pen = ImageDraw.Draw(canvas)
    for number, column in enumerate(columns):
        x = label + number * (cell + pad)
        said = column.get("label") or f"{names.get(column['curve'], column['curve'])}, {column['steps']}"
        pen.text((x, 8), said, fill=_INK, font=font)
        for row, png in enumerate(column["pngs"]):
            canvas.paste(enlarged(png, cell), (x, 36 + row * (cell + pad)))
    for row, prompt in enumerate(prompts):
        for line, text in enumerate(wrapped(prompt, font, label - 24)[:5]):
            pen.text((pad, 40 + row * (cell + pad) + line * 20), text, fill=_INK, font=font)
    return canvas


def save_story_grids(output: Path, document: dict[str, Any]) -> None:
    """Write paths.png where ways were drawn, and lora.png where a LoRA was measured."""
    from .path_drawing import save_paths

    save_paths(output / "paths.png", document.get("straightness"))
    if document.get("lora"):
        draw_lora(document["lora"]["tiles"]).save(output / "lora.png")


def draw_lora(tiles: dict[str, list[dict[str, str]]], count: int = 6) -> Image.Image:
    """One row a prompt: the base and the rectified model without the LoRA, with it, and with its trigger word."""
    shown = lora_samplings(tiles)
    how = (("plain_off", ""), ("plain_on", "with LoRA"), ("triggered_on", "and trigger"))
    columns = [
        {"label": label or name.replace("_", ", "), "pngs": [tile[key] for tile in tiles[name][:count]]}
        for name in shown
        for key, label in how
    ]
    return draw_steps({"prompts": [tile["prompt"] for tile in tiles[shown[0]][:count]], "columns": columns})


def enlarged(png: str, side: int) -> Image.Image:
    """The image of a base64 PNG at another size; small ones keep their pixels."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        factor = side / max(image.size)
        method = Image.Resampling.NEAREST if factor >= 2 else Image.Resampling.LANCZOS
        return image.convert("RGB").resize((side, side), method)


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break at words; what does not fit four lines ends in an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], f"{lines[_LINES - 1]} …"]
    return lines


def font_of(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib on every machine and knows most scripts."""
    import matplotlib

    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size
    )
