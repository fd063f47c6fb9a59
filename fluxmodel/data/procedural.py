"""Scenes of coloured shapes, drawn on demand: the data that needs no download.

A scene is one or two objects on a plain background. Every object has a shape, a colour, a size and a cell of a
coarse grid, so each image comes with its ground truth, a caption that says exactly that, and an alt text that
is wrong at a known rate. Scene `index` of a `seed` is a pure function of the two: nothing is stored.

Shapes are drawn from signed distances d (pixels, negative inside): coverage = clip(1/2 - d, 0, 1).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from urllib.parse import parse_qsl

import numpy as np

from fluxmodel.data.styles import PLAIN, Style
from fluxmodel.errors import InputError

IMAGE_SIZE = 32
ALT_TEXT_ERROR_RATE = 0.3
"""Chance that one attribute word of an alt text is replaced by a wrong one."""

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (222, 40, 44),
    "green": (36, 160, 60),
    "blue": (40, 80, 225),
    "yellow": (250, 215, 40),
    "purple": (135, 45, 175),
    "cyan": (50, 200, 215),
    "orange": (245, 125, 25),
    "pink": (250, 140, 195),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (246, 246, 246),
    "black": (18, 18, 20),
    "gray": (124, 124, 128),
    "beige": (226, 206, 170),
}
ROWS = {2: ("top", "bottom"), 3: ("top", "middle", "bottom")}
COLUMNS = {2: ("left", "right"), 3: ("left", "center", "right")}

_Distance = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _box(x: np.ndarray, y: np.ndarray, half_width: np.ndarray, half_height: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _triangle(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    return np.maximum(y - 0.75 * r, 0.894 * np.abs(x) - 0.447 * (y + 1.05 * r))


def _cross(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    return np.minimum(_box(x, y, r, 0.28 * r), _box(x, y, 0.28 * r, r))


def _moon(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(x, y) - r, 0.8 * r - np.hypot(x - 0.62 * r, y))


SHAPES: dict[str, _Distance] = {
    "circle": lambda x, y, r: np.hypot(x, y) - 0.95 * r,
    "square": lambda x, y, r: _box(x, y, 0.85 * r, 0.85 * r),
    "triangle": _triangle,
    "cross": _cross,
    "ring": lambda x, y, r: np.abs(np.hypot(x, y) - 0.72 * r) - 0.26 * r,
    "bar": lambda x, y, r: _box(x, y, r, 0.4 * r),
    "diamond": lambda x, y, r: (np.abs(x) + np.abs(y) - 1.05 * r) * 0.707,
    "moon": _moon,
}
"""Shape name -> signed distance of (x, y) in pixels from the centre at radius r; y points down."""


@dataclasses.dataclass(frozen=True)
class Level:
    """How rich the scenes are. Radii and jitter are in pixels."""

    name: str
    grid: int
    shapes: tuple[str, ...]
    colors: tuple[str, ...]
    radii: dict[str, float] = dataclasses.field(hash=False)
    jitter: float
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
    max_objects: int = 2
    image_size: int = IMAGE_SIZE

    @property
    def sizes(self) -> tuple[str, ...]:
        return tuple(self.radii)

    @property
    def rows(self) -> tuple[str, ...]:
        return ROWS[self.grid]

    @property
    def columns(self) -> tuple[str, ...]:
        return COLUMNS[self.grid]

    def center(self, row: int, col: int) -> tuple[float, float]:
        """Return the (x, y) centre of a grid cell, pixels."""
        cell = self.image_size / self.grid
        return (col + 0.5) * cell, (row + 0.5) * cell


_SHAPES, _COLORS = tuple(SHAPES), tuple(PALETTE)
LEVELS: dict[str, Level] = {
    "demo": Level("demo", 2, _SHAPES[:6], _COLORS[:6], {"large": 6.0}, 0.8),
    "lite": Level("lite", 2, _SHAPES, _COLORS, {"small": 4.0, "large": 6.2}, 0.8),
    "full": Level("full", 3, _SHAPES, _COLORS, {"small": 3.5, "large": 5.0}, 0.4),
}


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """One drawn object; dx, dy is its offset from the centre of its cell in pixels."""

    shape: str
    color: str
    size: str
    row: int
    col: int
    dx: float = 0.0
    dy: float = 0.0


@dataclasses.dataclass(frozen=True)
class Scene:
    """Ground truth of one image; objects are in reading order."""

    level: str
    background: str
    objects: tuple[SceneObject, ...]

    def to_json(self) -> str:
        """Return a JSON text that `from_json` reads back."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Scene:
        """Read a scene written by `to_json`."""
        fields = json.loads(text)
        return cls(fields["level"], fields["background"], tuple(SceneObject(**o) for o in fields["objects"]))


@dataclasses.dataclass(frozen=True)
class CaptionObject:
    """What a caption says of one object; None where it says nothing."""

    shape: str
    color: str
    size: str | None
    row: int
    col: int


@dataclasses.dataclass(frozen=True)
class CaptionScene:
    """What a caption says of an image."""

    objects: tuple[CaptionObject, ...]
    background: str | None


@lru_cache
def held_out_pairs(level: Level) -> frozenset[tuple[str, str]]:
    """Return the (shape, color) pairs training never shows: one for each shape, each colour at most once."""
    count = len(level.colors)
    stride = 3 if count % 3 else 5  # shares no factor with 6 or 8 colours, so no colour comes twice
    return frozenset((shape, level.colors[(stride * i + 1) % count]) for i, shape in enumerate(level.shapes))


def draw_scene(level: Level, seed: int, index: int, held_out: bool = False) -> Scene:
    """Draw scene `index` of `seed`.

    Args:
        level: how rich the scene may be.
        seed: which family of scenes.
        index: which scene of the family.
        held_out: draw a scene whose first drawn object has a pair of `held_out_pairs(level)`; otherwise none has.
    """
    rng = np.random.default_rng((seed, index, int(held_out)))
    hidden = held_out_pairs(level)
    count = 1 + int(rng.integers(level.max_objects))
    cells = rng.permutation(level.grid**2)[:count]
    objects = []
    for position, cell in enumerate(cells):
        while True:
            pair = (
                level.shapes[rng.integers(len(level.shapes))],
                level.colors[rng.integers(len(level.colors))],
            )
            if (pair in hidden) == (held_out and position == 0):
                break
        size = level.sizes[rng.integers(len(level.sizes))]
        dx, dy = np.round(rng.uniform(-level.jitter, level.jitter, 2), 2)
        objects.append(
            SceneObject(*pair, size, int(cell) // level.grid, int(cell) % level.grid, float(dx), float(dy))
        )
    background = level.backgrounds[rng.integers(len(level.backgrounds))]
    return Scene(level.name, background, tuple(sorted(objects, key=lambda o: (o.row, o.col))))


def coverage(
    shape: str,
    radius: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    image_size: int = IMAGE_SIZE,
    style: Style = PLAIN,
) -> np.ndarray:
    """Return how much of each pixel an object covers.

    Args:
        shape: a name of `SHAPES`.
        radius, x, y: radius and centre in pixels, each of shape [n].
        image_size: side of the image, pixels.
        style: how it is painted; a style's rim reaches beyond the object's edge.

    Returns:
        float32 [n, image_size, image_size] in [0, 1].
    """
    axis = np.arange(image_size, dtype=np.float32) + 0.5
    dx = axis[None, None, :] - np.asarray(x, np.float32)[:, None, None]
    dy = axis[None, :, None] - np.asarray(y, np.float32)[:, None, None]
    distance = SHAPES[shape](dx, dy, np.asarray(radius, np.float32)[:, None, None])
    return style.paint(distance)


def render(scenes: Sequence[Scene], style: Style = PLAIN) -> np.ndarray:
    """Draw scenes in a style as uint8 images [n, 32, 32, 3]."""
    grounds = [style.background or BACKGROUNDS[s.background] for s in scenes]
    images = np.array(grounds, np.float32)[:, None, None, :]
    images = np.repeat(np.repeat(images, IMAGE_SIZE, 1), IMAGE_SIZE, 2)
    by_shape: dict[str, list[tuple[int, float, float, float, str]]] = {}
    for index, scene in enumerate(scenes):
        level = LEVELS[scene.level]
        for item in scene.objects:
            x, y = level.center(item.row, item.col)
            place = (index, level.radii[item.size], x + item.dx, y + item.dy, item.color)
            by_shape.setdefault(item.shape, []).append(place)
    for shape, places in by_shape.items():
        index, radius, x, y, colors = zip(*places, strict=True)
        masks = coverage(shape, np.array(radius), np.array(x), np.array(y), style=style)[..., None]
        paint = np.array([PALETTE[c] for c in colors], np.float32)[:, None, None, :]
        for i, mask, color in zip(index, masks, paint, strict=True):
            images[i] += mask * (color - images[i])
    return np.rint(images).astype(np.uint8)


def template_masks(
    level: Level, row: int, col: int, shifts: Sequence[float], style: Style = PLAIN
) -> np.ndarray:
    """Return the coverage of every object that can stand in a cell.

    Args:
        level: its shapes and sizes are the first two axes, in their order.
        row, col: the cell.
        shifts: offsets in pixels tried along both axes.
        style: how they are painted.

    Returns:
        float32 [shapes, sizes, len(shifts)**2, 32, 32].
    """
    x, y = level.center(row, col)
    dy, dx = (a.ravel() for a in np.meshgrid(np.asarray(shifts), np.asarray(shifts), indexing="ij"))
    return np.stack(
        [
            np.stack(
                [
                    coverage(shape, np.full(dx.shape, r), x + dx, y + dy, style=style)
                    for r in level.radii.values()
                ]
            )
            for shape in level.shapes
        ]
    )


def _phrase(level: Level, item: SceneObject) -> str:
    size = f"{item.size} " if len(level.sizes) > 1 else ""
    return f"a {size}{item.color} {item.shape} {level.rows[item.row]} {level.columns[item.col]}"


def detailed_caption(scene: Scene) -> str:
    """Say everything: "a small red circle top left and a large blue bar bottom right on white"."""
    return f"{short_caption(scene)} on {scene.background}"


def short_caption(scene: Scene) -> str:
    """Leave the background open: "a small red circle top left and a large blue bar bottom right"."""
    return " and ".join(_phrase(LEVELS[scene.level], o) for o in scene.objects)


def alt_text(scene: Scene, seed: int, index: int) -> str:
    """Caption a scene as the web does: terse, without places, each word wrong at `ALT_TEXT_ERROR_RATE`."""
    level = LEVELS[scene.level]
    rng = np.random.default_rng((seed, index, 2))

    def noisy(word: str, choices: tuple[str, ...]) -> str:
        wrong = [c for c in choices if c != word]
        return wrong[rng.integers(len(wrong))] if rng.random() < ALT_TEXT_ERROR_RATE else word

    return ", ".join(f"{noisy(o.color, level.colors)} {noisy(o.shape, level.shapes)}" for o in scene.objects)


def parse_caption(text: str, level: Level) -> CaptionScene:
    """Read a caption of the grammar back; articles and sizes may be missing, and so may the background.

    Raises:
        InputError: a word is outside the grammar; the text names it and what may stand there.
    """
    words = text.lower().replace(",", " ").split()
    background = None
    if len(words) >= 2 and words[-2] == "on":
        background = _one_of(words[-1], level.backgrounds, "background", text)
        words = words[:-2]
    objects = []
    for part in " ".join(words).split(" and "):
        terms = [w for w in part.split() if w not in ("a", "an")]
        if len(terms) not in (4, 5):
            raise InputError(
                f'caption "{text}": "{part}" does not read as "a [size] color shape row column", '
                f'for example "a {level.colors[0]} {level.shapes[0]} {level.rows[0]} {level.columns[0]}"'
            )
        size = _one_of(terms[0], level.sizes, "size", text) if len(terms) == 5 else None
        color, shape, row, column = terms[-4:]
        objects.append(
            CaptionObject(
                _one_of(shape, level.shapes, "shape", text),
                _one_of(color, level.colors, "color", text),
                size,
                level.rows.index(_one_of(row, level.rows, "row", text)),
                level.columns.index(_one_of(column, level.columns, "column", text)),
            )
        )
    return CaptionScene(tuple(objects), background)


def _one_of(word: str, choices: tuple[str, ...], what: str, text: str) -> str:
    if word not in choices:
        raise InputError(f'caption "{text}": "{word}" is no {what}; use one of {", ".join(choices)}')
    return word


@dataclasses.dataclass(frozen=True)
class ProceduralSource:
    """A parsed `procedural:shapes?level=demo&n=20000&seed=0`."""

    level: Level
    n: int = 20000
    seed: int = 0

    @property
    def spec(self) -> str:
        return f"procedural:shapes?level={self.level.name}&n={self.n}&seed={self.seed}"

    @classmethod
    def parse(cls, spec: str) -> ProceduralSource:
        """Read a specification.

        Raises:
            InputError: unknown family, field or value; the text names it and the cure.
        """
        family, _, query = spec.removeprefix("procedural:").partition("?")
        if family != "shapes" or not spec.startswith("procedural:"):
            raise InputError(f'data "{spec}": the only procedural family is "procedural:shapes"')
        fields = dict(parse_qsl(query, keep_blank_values=True))
        unknown = sorted(set(fields) - {"level", "n", "seed"})
        if unknown:
            raise InputError(f'data "{spec}": unknown field "{unknown[0]}"; use level, n and seed')
        name = fields.get("level", "demo")
        if name not in LEVELS:
            raise InputError(f'data "{spec}": level "{name}" is none of {", ".join(LEVELS)}')
        return cls(LEVELS[name], _number(spec, fields, "n", 20000, 1), _number(spec, fields, "seed", 0, 0))


def _number(spec: str, fields: dict[str, str], name: str, default: int, least: int) -> int:
    text = fields.get(name, str(default))
    if not text.isdecimal() or int(text) < least:
        raise InputError(f'data "{spec}": {name} is "{text}", not a whole number of at least {least}')
    return int(text)
