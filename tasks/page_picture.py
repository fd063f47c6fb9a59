"""Pictures on a stage's page in Prefect: small enough to live in its database, as data: addresses."""

import base64
import html
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_BYTES = 48 << 10
"""Of one picture. Prefect keeps artifacts for ever: four pictures a run and a run a night are 70 MB a year."""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 560, 180, 58, 22
_MOST_POINTS = 200
_MOST_COLUMNS = 8


def embed(path: Path, side: int = 900) -> str:
    """Return an image file as a data: address of at most `MAX_BYTES`; empty where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return _encoded(image.convert("RGB"), side)
    except OSError:
        return ""


def sheet(samples: Path, tile: int = 64) -> str:
    """Return the images a training drew, a row a prompt and a column a step, as a data: address; empty without any."""
    from PIL import Image

    found: dict[str, dict[int, Path]] = {}
    for path in sorted(samples.glob("*.png")):
        try:
            with Image.open(path) as image:
                said = dict(image.info)
            found.setdefault(str(said["prompt"]), {})[int(said["step"])] = path
        except (OSError, KeyError, ValueError):  # being written
            continue
    steps = sorted({step for images in found.values() for step in images})[-_MOST_COLUMNS:]
    if not steps:
        return ""
    made = Image.new("RGB", (tile * len(steps), tile * len(found)), "white")
    for row, images in enumerate(found.values()):
        for column, step in enumerate(steps):
            if step in images:
                with Image.open(images[step]) as image:
                    drawn = image.convert("RGB").resize((tile, tile), Image.Resampling.NEAREST)
                made.paste(drawn, (tile * column, tile * row))
    return _encoded(made, max(made.size))


def loss_curve(points: Sequence[tuple[int, float]], name: str = "loss") -> str:
    """Return a curve over steps as an SVG's data: address, its height logarithmic; empty below two points."""
    drawn = [(step, value) for step, value in points if value > 0 and math.isfinite(value)]
    if len(drawn) < 2:
        return ""
    every = -(-len(drawn) // _MOST_POINTS)
    drawn = [*drawn[:-1:every], drawn[-1]]
    first, last = drawn[0][0], drawn[-1][0]
    heights = [math.log10(value) for _, value in drawn]
    low, high = min(heights), max(heights)
    wide, tall = _WIDTH - _LEFT - 10, _HEIGHT - _BOTTOM - 10
    corners = " ".join(
        f"{_LEFT + wide * (step - first) / max(1, last - first):.1f},"
        f"{10 + tall * (high - height) / max(1e-9, high - low):.1f}"
        for (step, _), height in zip(drawn, heights, strict=True)
    )
    text = 'font-family="sans-serif" font-size="11" fill="#666"'
    right = 'text-anchor="end"'
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}">'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
        f'<text x="{_LEFT - 6}" y="18" {right} {text}>{10**high:.3g}</text>'
        f'<text x="{_LEFT - 6}" y="{10 + tall}" {right} {text}>{10**low:.3g}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 5}" {text}>step {first}</text>'
        f'<text x="{_WIDTH - 10}" y="{_HEIGHT - 5}" {right} {text}>{last}</text>'
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 5}" {text}>{html.escape(name)}, logarithmic</text>'
        f'<polyline points="{corners}" fill="none" stroke="#2b6cb0" stroke-width="1.5"/></svg>'
    )
    return _address("svg+xml", svg.encode())


def _encoded(image: Any, side: int) -> str:
    """As the largest picture that fits: first smaller in quality, then in size."""
    while side >= 64:
        shown = image.copy()
        shown.thumbnail((side, side))
        for quality in (85, 60):
            stream = io.BytesIO()
            shown.save(stream, "WEBP", quality=quality)
            if stream.tell() <= MAX_BYTES:
                return _address("webp", stream.getvalue())
        side = side * 3 // 4
    return ""


def _address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
