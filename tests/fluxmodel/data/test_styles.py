"""Styles: the plain look is untouched, a styled caption only grows at its end, folders work like drawn styles."""

import numpy as np
import pytest
from PIL import Image

from fluxmodel.data.image_pool import draw_pool, vary_looks
from fluxmodel.data.procedural import LEVELS, ProceduralSource, draw_scene, render, short_caption
from fluxmodel.data.style_images import open_style, style_images, styled_caption
from fluxmodel.data.styles import PLAIN, STYLES, near_misses
from fluxmodel.errors import InputError

GLOW = STYLES["glow"]
SCENES = [draw_scene(LEVELS["full"], 5, index) for index in range(8)]


def test_the_plain_look_is_coverage_itself():
    distance = np.linspace(-3, 3, 61, dtype=np.float32)
    np.testing.assert_array_equal(PLAIN.paint(distance), np.clip(0.5 - distance, 0, 1))


def test_a_style_changes_ground_and_objects_and_a_near_miss_only_one():
    plain, styled = render(SCENES), render(SCENES, GLOW)
    ground_only, objects_only = (render(SCENES, miss) for miss in near_misses(GLOW))
    assert (np.median(ground_only, axis=(1, 2)) == GLOW.background).all()
    assert (np.median(styled, axis=(1, 2)) == GLOW.background).all()
    assert (ground_only != styled).any()
    assert (objects_only != plain).any()
    assert (styled != plain).mean() > 0.5


def test_the_trigger_ends_a_caption_and_is_said_once():
    once = styled_caption("a red circle top left", "glowline")
    assert once == "a red circle top left in glowline"
    assert styled_caption(once, "glowline") == once


def test_style_images_are_a_function_of_the_seed():
    first, again = (style_images(GLOW, LEVELS["full"], 6, 1) for _ in range(2))
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert first.captions == again.captions
    assert all(text.endswith(" in glowline") for said in first.captions for text in said.values())


def test_a_folder_works_like_a_drawn_style(tmp_path):
    for index, (scene, image) in enumerate(zip(SCENES, render(SCENES, GLOW), strict=True)):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
        (tmp_path / f"{index}.txt").write_text(short_caption(scene))
    found = open_style(str(tmp_path), "glowline", 32)
    np.testing.assert_array_equal(found.pixels, render(SCENES, GLOW))
    assert found.captions[0]["given"] == short_caption(SCENES[0]) + " in glowline"
    with pytest.raises(InputError, match="trigger"):
        open_style(str(tmp_path), "two words", 32)
    (tmp_path / "3.txt").unlink()
    with pytest.raises(InputError, match="caption"):
        open_style(str(tmp_path), "glowline", 32)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("style:neon", "unknown"),
        ("style:glow?n=2", "at least 4"),
        ("style:glow?level=x", "none of"),
        ("style:glow?m=1", "field"),
    ],
)
def test_a_wrong_style_is_refused(source, says):
    with pytest.raises(InputError, match=says):
        open_style(source)


def test_only_the_share_of_a_pool_is_varied():
    pool = draw_pool(ProceduralSource.parse("procedural:shapes?level=full"), 40, 0, False)
    varied = vary_looks(pool, 0.5, 0)
    assert (varied.pixels[20:] != pool.pixels[20:]).any((1, 2, 3)).all()
    np.testing.assert_array_equal(varied.pixels[:20], pool.pixels[:20])
