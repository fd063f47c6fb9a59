import pytest
import torch

from evaluation.prompts import render_tensor
from evaluation.scene_judge import UNDECIDED, SceneJudge, SceneReading
from evaluation.verdicts import AskedScenes, compare, describe
from fluxmodel.data.procedural import LEVELS, Scene, SceneObject, parse_caption

FULL = LEVELS["full"]
SCENE = Scene(
    "full", "white", (SceneObject("circle", "red", "small", 0, 0), SceneObject("bar", "blue", "large", 2, 2))
)
TRUE = "a small red circle top left and a large blue bar bottom right on white"


def judged(caption, scene=SCENE):
    asked = AskedScenes.of([parse_caption(caption, FULL)], "full")
    seen = SceneJudge("full").read(render_tensor([scene]))
    return compare(asked, seen), describe(asked, seen, 0)


@pytest.mark.parametrize(
    ("caption", "accuracy", "all_correct", "seen"),
    [
        (TRUE, 1.0, True, ""),
        ("a red circle top left and a blue bar bottom right", 1.0, True, ""),
        (TRUE.replace("red", "green"), 8 / 9, False, "small red circle top left"),
        (TRUE.replace("on white", "on black"), 8 / 9, False, "on white"),
        (TRUE.replace("small", "large"), 8 / 9, False, "small red circle top left"),
        ("a red circle top left on white", 1.0, False, "large blue bar bottom right"),
        (
            "a red circle top right",
            0.0,
            False,
            "small red circle top left, nothing top right, large blue bar bottom right",
        ),
    ],
)
def test_only_what_the_caption_says_is_compared(caption, accuracy, all_correct, seen):
    verdicts, words = judged(caption)
    assert verdicts.accuracy[0] == pytest.approx(accuracy)
    assert bool(verdicts.all_correct[0]) is all_correct
    assert words == seen


def test_swapped_colours_cost_two_attributes():
    swapped = TRUE.replace("red", "x").replace("blue", "red").replace("x", "blue")
    assert judged(swapped)[0].accuracy[0] == pytest.approx(7 / 9)


def reading(shape=0, size=0, color=0, background=0):
    cells = {name: torch.full((1, 9), -1) for name in ("shape", "size", "color")}
    for name, value in (("shape", shape), ("size", size), ("color", color)):
        cells[name][0, 0] = value
    return SceneReading("full", background=torch.tensor([background]), unexplained=torch.zeros(1, 9), **cells)


def test_undecided_counts_as_wrong_and_is_published():
    asked = AskedScenes.of([parse_caption("a small red circle top left on white", FULL)], "full")
    verdicts = compare(asked, reading(shape=UNDECIDED))
    assert verdicts.accuracy[0] == pytest.approx(4 / 5)
    assert verdicts.undecided_share[0] == pytest.approx(1 / 5)
    assert not verdicts.all_correct[0]


def test_something_that_nothing_explains_is_no_presence():
    asked = AskedScenes.of([parse_caption("a small red circle top left on white", FULL)], "full")
    verdicts = compare(asked, reading(UNDECIDED, UNDECIDED, UNDECIDED, UNDECIDED))
    assert verdicts.accuracy[0] == 0
    assert verdicts.undecided_share[0] == 1


def test_something_unexplained_where_nothing_was_asked_spoils_all_correct():
    asked = AskedScenes.of([parse_caption("a red circle top right on white", FULL)], "full")
    seen = SceneJudge("full").read(
        render_tensor([Scene("full", "white", (SceneObject("circle", "red", "large", 0, 2),))])
    )
    assert compare(asked, seen).all_correct[0]
    seen.shape[0, 4] = seen.size[0, 4] = seen.color[0, 4] = UNDECIDED
    verdicts = compare(asked, seen)
    assert verdicts.accuracy[0] == 1
    assert not verdicts.all_correct[0]
