"""Attribute scores of captions, against counts done by hand."""

import pytest

from fluxmodel.data.caption_scores import CaptionTally, shortened, stated_by_text
from fluxmodel.data.procedural import (
    LEVELS,
    alt_text,
    detailed_caption,
    draw_scene,
    parse_caption,
    short_caption,
)

LEVEL = LEVELS["full"]
SCENES = [draw_scene(LEVEL, 3, i) for i in range(200)]
TRUTH = "a small red circle top left and a large blue bar bottom right on white"
SCENE = next(
    s
    for s in (draw_scene(LEVEL, 1, i) for i in range(100))
    if len(s.objects) == 2 and s.objects[0].shape == "circle"
)


def tally(text, scene=SCENE):
    return CaptionTally.of([text], [scene])


def changed(**words):
    """The truth about SCENE with attributes of its first object replaced."""
    first = SCENE.objects[0]
    text = detailed_caption(SCENE)
    for name, value in words.items():
        text = text.replace(getattr(first, name), value, 1)
    return text


def test_the_truth_scores_one():
    every = CaptionTally.of([detailed_caption(s) for s in SCENES], SCENES)
    assert every.figures() == {"precision": 1, "recall": 1, "f1": 1, "exact": 1}
    assert all(row["errors"] == 0 for row in every.errors())


def test_one_wrong_shape_of_two_objects_is_one_of_nine_attributes():
    wrong = next(s for s in LEVEL.shapes if s != "circle" and s not in detailed_caption(SCENE))
    scored = tally(changed(shape=wrong))
    assert scored.figures() == pytest.approx({"precision": 8 / 9, "recall": 8 / 9, "f1": 8 / 9, "exact": 0})
    shape = next(row for row in scored.errors() if row["attribute"] == "shape")
    assert shape["commonest"] == [{"truth": "circle", "said": wrong, "count": 1}]


def test_a_missing_object_costs_recall_alone_and_an_invented_one_precision():
    one = detailed_caption(SCENE).split(" and ")[1]
    scored = tally(one)
    assert scored.figures()["precision"] == 1
    assert scored.figures()["recall"] == pytest.approx(5 / 9)
    assert scored.num_missing == 1
    single = next(s for s in SCENES if len(s.objects) == 1)
    both = "a small red circle top left and " + detailed_caption(single)
    invented = tally(both, single)
    assert (invented.num_invented, invented.figures()["recall"]) == (1, 1)
    assert invented.figures()["precision"] == pytest.approx(5 / 9)


def test_objects_in_another_order_are_matched():
    text, _, background = detailed_caption(SCENE).rpartition(" on ")
    assert tally(" and ".join(reversed(text.split(" and "))) + f" on {background}").figures()["exact"] == 1


def test_unreadable_text_scores_nothing_but_counts():
    scored = tally("two dogs")
    assert scored.figures() == {"precision": 0, "recall": 0, "f1": 0, "exact": 0}
    assert (scored.num_unparsable, scored.num_missing) == (1, 2)


def test_alt_text_states_shape_and_color_at_its_known_error_rate():
    texts = [alt_text(s, 3, i) for i, s in enumerate(SCENES)]
    every = CaptionTally.of(texts, SCENES)
    assert every.num_unparsable == 0
    assert set(+every.stated) == {"shape", "color"}
    precision = every.figures(("shape", "color"))["precision"]
    assert precision == pytest.approx(0.7, abs=0.08)
    said = stated_by_text("red circle, blue bar", LEVEL)
    assert said is not None
    assert [o["color"] for o in said.objects] == ["red", "blue"]


def test_a_short_caption_is_the_detailed_one_without_its_background():
    for scene in SCENES[:50]:
        assert shortened(detailed_caption(scene), LEVEL) == short_caption(scene)
    assert shortened(TRUTH, LEVEL) == TRUTH.rsplit(" on ", 1)[0]
    assert parse_caption(shortened(TRUTH, LEVEL) or "", LEVEL).background is None
    assert shortened("two dogs", LEVEL) is None
