"""Drawn scenes: pure functions of seed and index, captions that can be read back, pairs kept from training."""

import numpy as np
import pytest

from fluxmodel.data.procedural import (
    ALT_TEXT_ERROR_RATE,
    LEVELS,
    PALETTE,
    ProceduralSource,
    Scene,
    SceneObject,
    alt_text,
    coverage,
    detailed_caption,
    draw_scene,
    held_out_pairs,
    parse_caption,
    render,
    short_caption,
    template_masks,
)
from fluxmodel.errors import InputError

level_of = pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)


def scenes(level, num=300, seed=0, held_out=False):
    return [draw_scene(level, seed, i, held_out) for i in range(num)]


def pairs(scene):
    return {(item.shape, item.color) for item in scene.objects}


# Drawing


@level_of
def test_a_scene_is_a_function_of_seed_and_index(level):
    assert scenes(level, 50) == scenes(level, 50)
    assert draw_scene(level, 0, 7) == scenes(level, 8)[7]
    assert scenes(level, 50) != scenes(level, 50, seed=1)


@level_of
def test_training_scenes_never_hold_a_held_out_pair(level):
    assert not any(pairs(scene) & held_out_pairs(level) for scene in scenes(level))


@level_of
def test_held_out_scenes_always_hold_one(level):
    assert all(pairs(scene) & held_out_pairs(level) for scene in scenes(level, held_out=True))


@level_of
def test_held_out_pairs_take_each_shape_once_and_no_colour_twice(level):
    hidden = held_out_pairs(level)
    assert sorted(shape for shape, _ in hidden) == sorted(level.shapes)
    assert len({color for _, color in hidden}) == len(hidden)


@level_of
def test_training_shows_every_shape_and_every_colour(level):
    seen = set().union(*(pairs(scene) for scene in scenes(level)))
    assert {shape for shape, _ in seen} == set(level.shapes)
    assert {color for _, color in seen} == set(level.colors)


@level_of
def test_scenes_keep_to_their_level(level):
    drawn = scenes(level) + scenes(level, held_out=True)
    for scene in drawn:
        cells = [(item.row, item.col) for item in scene.objects]
        assert cells == sorted(set(cells))  # reading order, no cell twice
        assert 1 <= len(cells) <= level.max_objects
        assert all(0 <= row < level.grid and 0 <= col < level.grid for row, col in cells)
        assert all(abs(item.dx) <= level.jitter and abs(item.dy) <= level.jitter for item in scene.objects)
        assert {item.size for item in scene.objects} <= set(level.sizes)
    assert {len(scene.objects) for scene in drawn} == set(range(1, level.max_objects + 1))
    assert {scene.background for scene in drawn} == set(level.backgrounds)


@level_of
def test_json_gives_the_scene_back(level):
    assert all(Scene.from_json(scene.to_json()) == scene for scene in scenes(level, 50))


# Rendering


@level_of
def test_images_are_the_same_alone_and_in_a_batch(level):
    drawn = scenes(level, 20)
    images = render(drawn)
    assert images.shape == (20, 32, 32, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images[5:6], render(drawn[5:6]))


@level_of
def test_an_object_paints_its_own_cell_only(level):
    """A pixel more for jitter and the soft edge."""
    cell = level.image_size / level.grid
    axis = np.arange(level.image_size) + 0.5
    for scene in scenes(level, 60):
        outside = np.ones((32, 32), bool)
        for item in scene.objects:
            rows = (axis > item.row * cell - 1) & (axis < (item.row + 1) * cell + 1)
            columns = (axis > item.col * cell - 1) & (axis < (item.col + 1) * cell + 1)
            outside[np.ix_(rows, columns)] = False
        image = render([scene])[0]
        background = render([Scene(scene.level, scene.background, ())])[0]
        assert np.array_equal(image[outside], background[outside])


@level_of
def test_every_shape_shows_its_colour_and_its_own_silhouette(level):
    for size in level.sizes:
        images = render(
            [Scene(level.name, "black", (SceneObject(shape, "red", size, 0, 0),)) for shape in level.shapes]
        )
        masks = (images == PALETTE["red"]).all(-1)
        assert all(mask.sum() >= 4 for mask in masks)
        assert len({mask.tobytes() for mask in masks}) == len(level.shapes)


def test_coverage_is_a_share_and_integrates_to_the_area():
    mask = coverage("circle", np.array([6.0]), np.array([16.0]), np.array([16.0]))[0]
    assert 0 <= mask.min() <= mask.max() <= 1
    assert mask.sum() == pytest.approx(np.pi * (0.95 * 6) ** 2, rel=0.01)


@level_of
def test_templates_are_the_coverages_rendering_paints(level):
    shifts = (-0.4, 0.0, 0.4)
    masks = template_masks(level, 1, 0, shifts)
    assert masks.shape == (len(level.shapes), len(level.sizes), 9, 32, 32)
    x, y = level.center(1, 0)
    radius = np.array([level.radii[level.sizes[-1]]])
    expected = coverage(level.shapes[2], radius, np.array([x + 0.4]), np.array([y - 0.4]))[0]
    assert np.array_equal(masks[2, -1, 2], expected)  # dy = -0.4, dx = +0.4


# Captions


@level_of
def test_a_detailed_caption_gives_the_scene_back(level):
    for scene in scenes(level) + scenes(level, held_out=True):
        said = parse_caption(detailed_caption(scene), level)
        assert said.background == scene.background
        assert len(said.objects) == len(scene.objects)
        for told, item in zip(said.objects, scene.objects, strict=True):
            assert (told.shape, told.color, told.row, told.col) == (
                item.shape,
                item.color,
                item.row,
                item.col,
            )
            assert told.size == (item.size if len(level.sizes) > 1 else None)


@level_of
def test_a_short_caption_leaves_the_background_open(level):
    for scene in scenes(level, 100):
        said = parse_caption(short_caption(scene), level)
        assert said.background is None
        assert said.objects == parse_caption(detailed_caption(scene), level).objects
        assert [(o.shape, o.color) for o in said.objects] == [(o.shape, o.color) for o in scene.objects]


def test_captions_read_as_english():
    scene = Scene(
        "full",
        "white",
        (SceneObject("circle", "red", "small", 0, 0), SceneObject("bar", "blue", "large", 2, 2)),
    )
    assert detailed_caption(scene) == "a small red circle top left and a large blue bar bottom right on white"
    assert short_caption(scene) == "a small red circle top left and a large blue bar bottom right"


@level_of
def test_alt_text_errs_at_the_stated_rate(level):
    wrong = total = 0
    for index, scene in enumerate(scenes(level, 1500)):
        text = alt_text(scene, 0, index)
        assert text == alt_text(scene, 0, index)
        for said, item in zip(text.split(", "), scene.objects, strict=True):
            color, shape = said.split()
            assert color in level.colors
            assert shape in level.shapes
            wrong, total = wrong + (color != item.color) + (shape != item.shape), total + 2
    assert wrong / total == pytest.approx(ALT_TEXT_ERROR_RATE, abs=4 * (0.21 / total) ** 0.5)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "color shape row column"),
        ("on white", "color shape row column"),
        ("a red circle", '"red circle"|"a red circle"'),
        ("a red hexagon top left", '"hexagon" is no shape'),
        ("a mauve circle top left", '"mauve" is no color'),
        ("a huge red circle top left", '"huge" is no size'),
        ("a red circle upper left", '"upper" is no row'),
        ("a red circle top center", '"center" is no column'),
        ("a red circle top left on pink", '"pink" is no background'),
        ("a red circle top left and a dog", '"a dog"'),
        ("a red circle top left and", '"red" is no size'),
        ("a very large red circle top left", "does not read as"),
        ("a red moon top left", '"moon" is no shape'),  # demo knows six shapes
    ],
)
def test_a_caption_outside_the_grammar_is_refused_by_its_word(text, named):
    with pytest.raises(InputError, match=named):
        parse_caption(text, LEVELS["demo"])


def test_a_caption_may_be_in_capitals_and_without_articles():
    said = parse_caption("RED Circle top left on White", LEVELS["demo"])
    assert said == parse_caption("a red circle top left on white", LEVELS["demo"])


# Specifications


@pytest.mark.parametrize(
    ("spec", "level", "n", "seed"),
    [
        ("procedural:shapes", "demo", 20000, 0),
        ("procedural:shapes?level=full&n=5&seed=7", "full", 5, 7),
        ("procedural:shapes?seed=3", "demo", 20000, 3),
    ],
)
def test_a_specification_is_read_and_written_back(spec, level, n, seed):
    source = ProceduralSource.parse(spec)
    assert (source.level, source.n, source.seed) == (LEVELS[level], n, seed)
    assert ProceduralSource.parse(source.spec) == source


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("procedural:text", "procedural:shapes"),
        ("shapes?level=demo", "procedural:shapes"),
        ("procedural:shapes?level=huge", 'level "huge" is none of demo, lite, full'),
        ("procedural:shapes?level=", 'level ""'),
        ("procedural:shapes?count=3", 'unknown field "count"'),
        ("procedural:shapes?n=0", 'n is "0"'),
        ("procedural:shapes?n=many", 'n is "many"'),
        ("procedural:shapes?n=-4", 'n is "-4"'),
        ("procedural:shapes?n=1.5", 'n is "1.5"'),
        ("procedural:shapes?n", 'n is ""'),
        ("procedural:shapes?seed=-1", 'seed is "-1"'),
    ],
)
def test_a_bad_specification_is_refused_by_its_field(spec, named):
    with pytest.raises(InputError, match=named.replace("?", r"\?")):
        ProceduralSource.parse(spec)
