"""Tasks in the form of GenEval, answered from what the judge sees, and such a set in our scenes' own words.

GenEval (Ghosh et al. 2023, arXiv:2310.11513) asks of each picture: are so many things of this class there, in this
colour, left of that one? A picture is right or wrong, and the score is the mean over the tags. Here the scene judge
takes the place of the object detector, so only tasks whose words the scenes know can be answered; the others are
told, and count neither as right nor as wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fluxmodel.data.procedural import LEVELS, Level, Scene, SceneObject, draw_scene, short_caption

from .prompt_files import FilePrompt, Task, Wanted
from .scene_judge import EMPTY, SceneReading
from .statistics import Interval, proportion

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
_FAMILY = 950_000_000
_Test = Callable[["Seen", "Seen"], bool]
_STANDS: dict[str, _Test] = {
    "left of": lambda a, b: a.col < b.col,
    "right of": lambda a, b: a.col > b.col,
    "above": lambda a, b: a.row < b.row,
    "below": lambda a, b: a.row > b.row,
}


@dataclass(frozen=True)
class Seen:
    """An object the judge sees; None where it is undecided."""

    shape: str | None
    color: str | None
    row: int
    col: int


@dataclass(frozen=True)
class Answers:
    """What came of the tasks of n images.

    Attributes:
        right: [n], 1 right, 0 wrong, NaN where nothing was asked or it cannot be judged.
        undecided: [n], whether it is wrong and the judge was undecided about something.
        unjudged: why not, with how many images that concerns.
    """

    right: np.ndarray
    undecided: np.ndarray
    unjudged: dict[str, int]

    @property
    def judged(self) -> np.ndarray:
        """Which images there is an answer for, [n]."""
        return ~np.isnan(self.right)


def answer(tasks: Sequence[Task | None], reading: SceneReading) -> Answers:
    """Answer the task of each image from what the judge sees in it."""
    level = LEVELS[reading.level]
    right, undecided = np.full(len(tasks), np.nan), np.zeros(len(tasks), bool)
    unjudged: dict[str, int] = {}
    for number, task in enumerate(tasks):
        if task is None:
            continue
        if reason := unknown_words(task, level):
            unjudged[reason] = unjudged.get(reason, 0) + 1
            continue
        seen = seen_objects(reading, number)
        right[number] = is_right(task, seen)
        doubtful = any(each.shape is None or each.color is None for each in seen)
        undecided[number] = doubtful and not right[number]
    return Answers(right, undecided, unjudged)


def score(answers: Answers, tags: Sequence[str], prompts: Sequence[str], seed: int) -> Interval:
    """Return the mean over the tags of the share that is right, as GenEval's overall score is.

    Its interval combines those of the tags, which share no image, as independent.
    """
    each = []
    for tag in dict.fromkeys(tags):
        chosen = answers.judged & (np.asarray(tags) == tag)
        if chosen.any():
            asked = [prompt for prompt, kept in zip(prompts, chosen, strict=True) if kept]
            each.append(proportion(answers.right[chosen] == 1, asked, seed))
    value = sum(found.value for found in each) / len(each)
    halves = [
        math.hypot(*(getattr(found, end) - found.value for found in each)) for end in ("ci_low", "ci_high")
    ]
    return Interval(
        value,
        max(0.0, value - halves[0] / len(each)),
        min(1.0, value + halves[1] / len(each)),
        int(answers.judged.sum()),
        f"mean of {len(each)} tags, their intervals combined, 95 %",
    )


def unknown_words(task: Task, level: Level) -> str:
    """Return why the scenes of a level cannot show what a task asks for; empty where they can."""
    for wanted in (*task.include, *task.exclude):
        if wanted.kind not in level.shapes:
            return f"{wanted.kind!r} is no shape of level {level.name}"
        if wanted.color is not None and wanted.color not in level.colors:
            return f"{wanted.color!r} is no colour of level {level.name}"
    return ""


def seen_objects(reading: SceneReading, image: int) -> list[Seen]:
    """Return the objects the judge sees in one image."""
    level, found = LEVELS[reading.level], []
    for cell in range(level.grid**2):
        shape, color = int(reading.shape[image, cell]), int(reading.color[image, cell])
        if shape != EMPTY:
            found.append(
                Seen(
                    level.shapes[shape] if shape >= 0 else None,
                    level.colors[color] if color >= 0 else None,
                    cell // level.grid,
                    cell % level.grid,
                )
            )
    return found


def is_right(task: Task, seen: Sequence[Seen]) -> bool:
    """Whether everything asked for is there, often enough and in its place, and nothing excluded is."""
    matched: list[list[Seen]] = []
    for wanted in task.include:
        found = _matching(wanted, seen)
        if wanted.position is not None:
            relation, number = wanted.position
            stands = _STANDS[relation]
            found = [each for each in found if any(stands(each, other) for other in matched[number])]
        if len(found) < wanted.count:
            return False
        matched.append(found)
    return not any(len(_matching(wanted, seen)) >= wanted.count for wanted in task.exclude)


def _matching(wanted: Wanted, seen: Sequence[Seen]) -> list[Seen]:
    return [each for each in seen if each.shape == wanted.kind and wanted.color in (None, each.color)]


def scene_tasks(level_name: str, num: int, seed: int = 0) -> list[FilePrompt]:
    """Draw a GenEval-style set on scenes of a level, tag after tag in turn, in the words its models are trained on.

    The scenes show pairs of shape and colour that training shows; two objects at most, so counting counts to two.
    """
    level, index = LEVELS[level_name], 0
    waiting: dict[str, list[FilePrompt]] = {tag: [] for tag in TAGS}
    share = -(-num // len(TAGS))
    while any(len(found) < share for found in waiting.values()):
        scene = draw_scene(level, _FAMILY + seed, index)
        index += 1
        for tag in _tags(scene):
            if len(waiting[tag]) < share:
                task = Task(tag=tag, **_asked(tag, scene))
                waiting[tag].append(FilePrompt(prompt=short_caption(scene), group=tag, task=task))
                break
    return [waiting[tag][row] for row in range(share) for tag in TAGS][:num]


def _tags(scene: Scene) -> tuple[str, ...]:
    """Return the tags a scene can stand for, in the order of who needs it most."""
    if len(scene.objects) == 1:
        return ("single_object", "colors")
    first, second = scene.objects
    if first.shape == second.shape:
        return ("counting",)
    return (
        ("color_attr", "position", "two_object")
        if first.color != second.color
        else ("position", "two_object")
    )


def _asked(tag: str, scene: Scene) -> dict[str, tuple[Wanted, ...]]:
    objects = scene.objects
    if tag == "counting":
        kind = objects[0].shape
        return {"include": (_wanted(kind, count=2),), "exclude": (_wanted(kind, count=3),)}
    if tag == "position":
        first, second = objects
        where = (_relation(first, second), 0)
        return {"include": (_wanted(first.shape), _wanted(second.shape, position=where))}
    colored = tag in ("colors", "color_attr")
    wanted = (_wanted(each.shape, color=each.color if colored else None) for each in objects)
    return {"include": tuple(wanted)}


def _wanted(kind: str, **more: object) -> Wanted:
    return Wanted.model_validate({"class": kind, **more})


def _relation(first: SceneObject, second: SceneObject) -> str:
    """Where the second object stands, seen from the first."""
    if second.col != first.col:
        return "right of" if second.col > first.col else "left of"
    return "below" if second.row > first.row else "above"
