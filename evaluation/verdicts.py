"""What was asked against what the judge saw, image by image.

Only attributes the caption mentions are compared: for each asked object its presence in its cell, its shape and
colour, its size where named, and the background where named. Undecided counts as wrong. Anything standing in a cell
nobody asked for keeps the mean of the attributes but takes away "all correct".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fluxmodel.data.procedural import LEVELS, CaptionScene

from .scene_judge import EMPTY, UNDECIDED, SceneReading

ATTRIBUTES = ("presence", "shape", "color", "size", "background")
UNASKED = -3


@dataclass(frozen=True)
class AskedScenes:
    """Captions as numbers of the level's names, [n, cells] and [n]; UNASKED where a caption says nothing."""

    shape: np.ndarray
    size: np.ndarray
    color: np.ndarray
    background: np.ndarray

    @classmethod
    def of(cls, captions: Sequence[CaptionScene], level_name: str) -> "AskedScenes":
        """From parsed captions."""
        level = LEVELS[level_name]
        cells = {
            name: np.full((len(captions), level.grid**2), UNASKED) for name in ("shape", "size", "color")
        }
        background = np.full(len(captions), UNASKED)
        for number, caption in enumerate(captions):
            for item in caption.objects:
                cell = item.row * level.grid + item.col
                cells["shape"][number, cell] = level.shapes.index(item.shape)
                cells["color"][number, cell] = level.colors.index(item.color)
                if item.size is not None:
                    cells["size"][number, cell] = level.sizes.index(item.size)
            if caption.background is not None:
                background[number] = level.backgrounds.index(caption.background)
        return cls(background=background, **cells)

    def take(self, order: np.ndarray) -> "AskedScenes":
        """The same captions in another order."""
        return AskedScenes(self.shape[order], self.size[order], self.color[order], self.background[order])

    @property
    def num_objects(self) -> np.ndarray:
        """Objects asked for, [n]."""
        return (self.shape != UNASKED).sum(1)


@dataclass(frozen=True)
class Verdicts:
    """Counts per image, [n] each; `asked`, `right`, `undecided` by attribute."""

    asked: dict[str, np.ndarray]
    right: dict[str, np.ndarray]
    undecided: dict[str, np.ndarray]
    num_extra: np.ndarray

    @property
    def accuracy(self) -> np.ndarray:
        """Share of the asked attributes that are right, [n]."""
        return sum(self.right.values()) / np.maximum(1, sum(self.asked.values()))

    @property
    def all_correct(self) -> np.ndarray:
        """Whether everything asked is there and nothing else, [n]."""
        return (sum(self.right.values()) == sum(self.asked.values())) & (self.num_extra == 0)

    @property
    def undecided_share(self) -> np.ndarray:
        """Share of the asked attributes on which the judge would not say, [n]."""
        return sum(self.undecided.values()) / np.maximum(1, sum(self.asked.values()))


def compare(asked: AskedScenes, seen: SceneReading) -> Verdicts:
    """Judge each image by its caption."""
    shape, size, color = seen.shape.numpy(), seen.size.numpy(), seen.color.numpy()
    wanted = asked.shape != UNASKED
    # Something that no template explains is there, but what it is remains open: presence is undecided too.
    junk = (shape == UNDECIDED) & (size == UNDECIDED) & (color == UNDECIDED)
    masks = {"presence": wanted, "shape": wanted, "color": wanted, "size": asked.size != UNASKED}
    hits = {
        "presence": (shape != EMPTY) & ~junk,
        "shape": shape == asked.shape,
        "color": color == asked.color,
        "size": size == asked.size,
    }
    unsure = {
        "presence": junk,
        "shape": shape == UNDECIDED,
        "color": color == UNDECIDED,
        "size": size == UNDECIDED,
    }
    ground = asked.background != UNASKED
    background = seen.background.numpy()
    counts = [
        {
            name: (masks[name] & source[name]).sum(1) if source is not None else masks[name].sum(1)
            for name in masks
        }
        for source in (None, hits, unsure)
    ]
    counts[0]["background"] = ground.astype(int)
    counts[1]["background"] = (ground & (background == asked.background)).astype(int)
    counts[2]["background"] = (ground & (background == UNDECIDED)).astype(int)
    return Verdicts(*counts, num_extra=((shape != EMPTY) & ~wanted).sum(1))


def describe(asked: AskedScenes, seen: SceneReading, row: int) -> str:
    """What the judge saw where it departs from the caption of one image; empty where all is right."""
    level = LEVELS[seen.level]
    words = []
    for cell in range(level.grid**2):
        what = [
            (getattr(asked, name)[row, cell], int(getattr(seen, name)[row, cell]), names)
            for name, names in (("size", level.sizes), ("color", level.colors), ("shape", level.shapes))
        ]
        wanted = what[2][0] != UNASKED
        place = f"{level.rows[cell // level.grid]} {level.columns[cell % level.grid]}"
        if what[2][1] == EMPTY:
            words += [f"nothing {place}"] if wanted else []
        elif not wanted or any(want not in (UNASKED, got) for want, got, _ in what):
            named = [
                names[got] if got >= 0 else "?" for want, got, names in what if want != UNASKED or not wanted
            ]
            words.append(f"{' '.join(named)} {place}")
    ground = int(seen.background[row])
    if asked.background[row] not in (UNASKED, ground):
        words.append(f"on {level.backgrounds[ground] if ground >= 0 else '?'}")
    return ", ".join(words)
