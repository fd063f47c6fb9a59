"""Tasks in GenEval's form: answered as a person would, from what the judge sees; and our own set of them."""

import numpy as np
import pytest

from evaluation.geneval import TAGS, Seen, answer, is_right, scene_tasks, score, unknown_words
from evaluation.prompt_files import Task
from evaluation.prompts import render_tensor
from evaluation.scene_judge import UNDECIDED, SceneJudge
from fluxmodel.data.procedural import LEVELS, Scene, SceneObject, held_out_pairs, parse_caption


def task(*include, exclude=()):
    return Task.model_validate({"tag": "t", "include": list(include), "exclude": list(exclude)})


RED_CIRCLE, BLUE_BAR = Seen("circle", "red", 0, 0), Seen("bar", "blue", 1, 1)
RED_BAR = Seen("bar", "red", 0, 1)
UNSURE = Seen(None, None, 1, 0)


@pytest.mark.parametrize(
    ("asked", "seen", "right"),
    [
        (task({"class": "circle"}), [RED_CIRCLE], True),
        (task({"class": "circle"}), [BLUE_BAR], False),
        (task({"class": "circle"}), [], False),
        (task({"class": "circle"}), [UNSURE], False),
        (task({"class": "circle"}, {"class": "bar"}), [RED_CIRCLE, BLUE_BAR], True),
        (task({"class": "bar", "count": 2}), [BLUE_BAR, RED_BAR], True),
        (task({"class": "bar", "count": 2}), [BLUE_BAR], False),
        (task({"class": "bar"}, exclude=[{"class": "bar", "count": 2}]), [BLUE_BAR, RED_BAR], False),
        (task({"class": "bar"}, exclude=[{"class": "bar", "count": 2}]), [BLUE_BAR, RED_CIRCLE], True),
        (task({"class": "bar", "color": "red"}), [BLUE_BAR], False),
        (task({"class": "bar", "color": "red"}), [BLUE_BAR, RED_BAR], True),
        (task({"class": "bar", "count": 2, "color": "red"}), [BLUE_BAR, RED_BAR], False),
        (
            task({"class": "circle"}, {"class": "bar", "position": ["right of", 0]}),
            [RED_CIRCLE, BLUE_BAR],
            True,
        ),
        (task({"class": "circle"}, {"class": "bar", "position": ["below", 0]}), [RED_CIRCLE, BLUE_BAR], True),
        (
            task({"class": "circle"}, {"class": "bar", "position": ["left of", 0]}),
            [RED_CIRCLE, BLUE_BAR],
            False,
        ),
        (task({"class": "circle"}, {"class": "bar", "position": ["below", 0]}), [RED_CIRCLE, RED_BAR], False),
        # The red bar is meant by the colour, so the blue one below does not help.
        (
            task({"class": "circle"}, {"class": "bar", "color": "red", "position": ["below", 0]}),
            [RED_CIRCLE, RED_BAR, BLUE_BAR],
            False,
        ),
    ],
)
def test_a_task_is_right_where_everything_asked_is_there(asked, seen, right):
    assert is_right(asked, seen) is right


def test_words_the_scenes_do_not_know_are_said_and_not_scored():
    level = LEVELS["demo"]
    known, bench, brown = (
        task({"class": "ring"}),
        task({"class": "bench"}),
        task({"class": "ring", "color": "brown"}),
    )
    assert unknown_words(known, level) == ""
    assert unknown_words(bench, level) == "'bench' is no shape of level demo"
    assert unknown_words(brown, level) == "'brown' is no colour of level demo"
    scenes = [Scene("demo", "white", (SceneObject("ring", "red", "large", 0, 0),))] * 4
    found = answer([known, bench, brown, None], SceneJudge("demo").read(render_tensor(scenes)))
    np.testing.assert_array_equal(found.right, [1, np.nan, np.nan, np.nan])
    assert found.unjudged == {"'bench' is no shape of level demo": 1, "'brown' is no colour of level demo": 1}


@pytest.mark.parametrize("level", ["demo", "lite", "full"])
def test_our_set_has_every_tag_alike_in_the_models_words(level):
    found = scene_tasks(level, 120, seed=3)
    assert [each.group for each in found] == [*TAGS] * 20
    hidden = held_out_pairs(LEVELS[level])
    for each in found:
        objects = parse_caption(
            each.prompt, LEVELS[level]
        ).objects  # raises where it is no sentence of the grammar
        assert not {(item.shape, item.color) for item in objects} & hidden
    assert found == scene_tasks(level, 120, seed=3)
    assert found != scene_tasks(level, 120, seed=4)


def _drawn(found):
    """What the prompts say, drawn exactly, and read by the judge."""
    scenes = []
    for each in found:
        said = parse_caption(each.prompt, LEVELS["demo"]).objects
        scenes.append(
            Scene("demo", "white", tuple(SceneObject(o.shape, o.color, "large", o.row, o.col) for o in said))
        )
    return scenes


def test_our_set_is_all_right_on_exact_drawings_and_wrong_where_one_thing_is():
    found = scene_tasks("demo", 60)
    judge, tasks = SceneJudge("demo"), [each.task for each in found]
    scenes = _drawn(found)
    assert answer(tasks, judge.read(render_tensor(scenes))).right.tolist() == [1.0] * 60
    level, wrong = LEVELS["demo"], []
    for each, scene in zip(found, scenes, strict=True):
        first = scene.objects[0]
        other = SceneObject(
            next(shape for shape in level.shapes if shape not in {o.shape for o in scene.objects}),
            *(first.color, first.size, first.row, first.col),
        )
        recolored = SceneObject(
            first.shape,
            next(color for color in level.colors if color not in {o.color for o in scene.objects}),
            *(first.size, first.row, first.col),
        )
        swapped = recolored if each.group in ("colors", "color_attr") else other
        wrong.append(Scene("demo", "white", (swapped, *scene.objects[1:])))
    assert answer(tasks, judge.read(render_tensor(wrong))).right.tolist() == [0.0] * 60


def test_undecided_counts_as_wrong_and_is_told():
    scenes = [Scene("demo", "white", (SceneObject("ring", "red", "large", 0, 0),))]
    reading = SceneJudge("demo").read(render_tensor(scenes))
    reading.shape[0, 0] = UNDECIDED
    found = answer([task({"class": "ring"})], reading)
    assert (found.right.tolist(), found.undecided.tolist()) == ([0.0], [True])


def test_the_score_is_the_mean_over_the_tags():
    scenes = [Scene("demo", "white", (SceneObject("ring", "red", "large", 0, 0),))] * 5
    reading = SceneJudge("demo").read(render_tensor(scenes))
    asked = [task({"class": "ring"})] * 3 + [task({"class": "bar"}), task({"class": "bench"})]
    found = score(answer(asked, reading), ["a", "a", "a", "b", "b"], list("vwxyz"), seed=0)
    assert found.value == pytest.approx(0.5)  # a: 3 of 3, b: 0 of 1, the bench counts neither way
    assert found.n == 4
    assert 0 <= found.ci_low < 0.5 < found.ci_high <= 1
