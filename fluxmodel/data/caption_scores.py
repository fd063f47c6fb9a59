"""What a caption says of a scene against what is there: precision, recall, F1, and a table of errors by attribute.

An attribute is a shape, colour, size or place of an object, or the background. Objects of a caption are matched with
those of the scene so that most attributes agree, so a text without places (an alt text) is judged as kindly
as can be. With r right of s stated and t true attributes: precision r / s, recall r / t, F1 = 2 r / (s + t).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import permutations

from fluxmodel.data.procedural import LEVELS, CaptionObject, Level, Scene, SceneObject, parse_caption
from fluxmodel.errors import InputError

ATTRIBUTES = ("shape", "color", "size", "place", "background")
_COMMONEST = 5

Attributes = dict[str, str | None]
"""Attribute of one object -> value; None where nothing is said."""


@dataclass(frozen=True)
class Stated:
    """What a text says."""

    objects: tuple[Attributes, ...]
    background: str | None = None


def stated_by_scene(scene: Scene) -> Stated:
    """Return what is true of a scene."""
    level = LEVELS[scene.level]
    return Stated(tuple(_attributes(level, o) for o in scene.objects), scene.background)


def stated_by_text(text: str, level: Level) -> Stated | None:
    """Return what a caption or alt text says; None where it does not read as either."""
    try:
        said = parse_caption(text, level)
    except InputError:
        return _alt_text(text, level)
    return Stated(tuple(_attributes(level, o) for o in said.objects), said.background)


def shortened(text: str, level: Level) -> str | None:
    """Return a detailed caption without its background; None where it does not parse."""
    try:
        said = parse_caption(text, level)
    except InputError:
        return None
    return text.removesuffix(f" on {said.background}")


def _alt_text(text: str, level: Level) -> Stated | None:
    objects: list[Attributes] = []
    for part in text.split(","):
        color, _, shape = part.strip().partition(" ")
        if color not in level.colors or shape not in level.shapes:
            return None
        objects.append({"shape": shape, "color": color, "size": None, "place": None})
    return Stated(tuple(objects))


def _attributes(level: Level, item: SceneObject | CaptionObject) -> Attributes:
    """Return the attributes of an object; where all have one size, size is none of them."""
    size = item.size if len(level.sizes) > 1 else None
    return {
        "shape": item.shape,
        "color": item.color,
        "size": size,
        "place": _place(level, item.row, item.col),
    }


def _place(level: Level, row: int, col: int) -> str:
    return f"{level.rows[row]} {level.columns[col]}"


@dataclass
class CaptionTally:
    """Counts over captions of known scenes."""

    num: int = 0
    num_exact: int = 0
    num_unparsable: int = 0
    num_missing: int = 0
    num_invented: int = 0
    true: Counter[str] = field(default_factory=Counter)
    stated: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    confusions: dict[str, Counter[tuple[str, str]]] = field(default_factory=lambda: defaultdict(Counter))

    @classmethod
    def of(cls, texts: Iterable[str], scenes: Iterable[Scene]) -> CaptionTally:
        """Count over texts and the scenes they describe."""
        tally = cls()
        for text, scene in zip(texts, scenes, strict=True):
            tally.add(stated_by_text(text, LEVELS[scene.level]), stated_by_scene(scene))
        return tally

    def add(self, said: Stated | None, truth: Stated) -> None:
        """Count one caption; None is one that says nothing that can be read."""
        self.num += 1
        self.num_unparsable += said is None
        said = said or Stated(())
        pairs = _matched(said.objects, truth.objects)
        self.num_missing += sum(one is None for one, _ in pairs)
        self.num_invented += sum(other is None for _, other in pairs)
        agreed = [
            self._compare(name, (one or {}).get(name), (other or {}).get(name))
            for one, other in pairs
            for name in ATTRIBUTES[:-1]
        ]
        self.num_exact += all([*agreed, self._compare("background", said.background, truth.background)])

    def _compare(self, name: str, said: str | None, truth: str | None) -> bool:
        self.stated[name] += said is not None
        self.true[name] += truth is not None
        is_right = said is not None and said == truth
        self.right[name] += is_right
        if said is not None and truth is not None and not is_right:
            self.confusions[name][truth, said] += 1
        return said == truth

    def figures(self, names: Sequence[str] = ATTRIBUTES) -> dict[str, float]:
        """Return precision, recall and F1 over the named attributes, and the share of exact captions."""
        right, stated, true = (sum(c[n] for n in names) for c in (self.right, self.stated, self.true))
        return {
            "precision": right / max(stated, 1),
            "recall": right / max(true, 1),
            "f1": 2 * right / max(stated + true, 1),
            "exact": self.num_exact / max(self.num, 1),
        }

    def errors(self) -> list[dict]:
        """Return a row for presence and for every attribute: how many there are, F1, errors, commonest confusions."""
        num_objects = self.true["shape"]
        presence = {
            "attribute": "presence",
            "true": num_objects,
            "errors": self.num_missing + self.num_invented,
            "missing": self.num_missing,
            "invented": self.num_invented,
            "commonest": [],
        }
        rows = [presence]
        for name in ATTRIBUTES:
            commonest = [
                {"truth": truth, "said": said, "count": count}
                for (truth, said), count in self.confusions[name].most_common(_COMMONEST)
            ]
            rows.append(
                {
                    "attribute": name,
                    "true": self.true[name],
                    "stated": self.stated[name],
                    "right": self.right[name],
                    "f1": self.figures((name,))["f1"],
                    "errors": sum(self.confusions[name].values()),
                    "commonest": commonest,
                }
            )
        return rows


def _matched(
    said: Sequence[Attributes], truth: Sequence[Attributes]
) -> list[tuple[Attributes | None, Attributes | None]]:
    """Pair objects so that most attributes agree; what is left over on a side stands with None."""
    size = max(len(said), len(truth))
    ours: list[Attributes | None] = [*said, *[None] * (size - len(said))]
    theirs: list[Attributes | None] = [*truth, *[None] * (size - len(truth))]

    def agreement(order: tuple[int, ...]) -> int:
        pairs = [(one, theirs[i]) for one, i in zip(ours, order, strict=True)]
        return sum(
            one[n] is not None and one[n] == other[n] for one, other in pairs if one and other for n in one
        )

    best = max(permutations(range(size)), key=agreement)
    return [(one, theirs[i]) for one, i in zip(ours, best, strict=True)]
