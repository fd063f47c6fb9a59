"""Where drawn images lie: a name a person recognises, and never another prompt's file."""

from pathlib import Path

import pytest
from PIL import Image

from fluxmodel import drawing
from fluxmodel.drawing import Picture
from fluxmodel.recipe import Recipe, encode_png, read_recipe
from tasks.generate import Drawing, draw

LONG = "a red circle on the top left and a blue square on the top right and a "


@pytest.fixture
def draw_here(tmp_path, monkeypatch):
    """Draw prompts with seed 0 by a stand-in for the network; return the names of the files."""

    class Stub:
        def __init__(self, *_):
            pass

        def draw(self, prompts, seed, **_):
            recipes = [
                Recipe(text, seed, 1, 1.0, 8, 8, "", "", 1.0, "", len(prompts)) for text in prompts
            ]  # one seed for all, as two commands would have it
            return [Picture(encode_png(Image.new("RGB", (8, 8)), recipe), recipe) for recipe in recipes]

    monkeypatch.setattr(drawing, "DrawingModel", Stub)

    def call(*prompts: str) -> list[str]:
        made = draw(None, list(prompts), Drawing(model=str(tmp_path)), tmp_path / "out")  # type: ignore[arg-type]
        return [Path(each.path).name for each in made]

    return call


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("one", "other"),
    [(LONG + "green ring", LONG + "yellow star"), ("a cat", "A cat!"), ("\u732b", "\u72ac")],
)
def test_no_file_of_another_prompt_is_overwritten(draw_here, tmp_path, one, other, at_once):
    names = draw_here(one, other) if at_once else [*draw_here(one), *draw_here(other)]
    assert len(set(names)) == 2
    kept = {read_recipe(tmp_path / "out" / name).prompt for name in names}
    assert kept == {one, other}
    assert draw_here(one) + draw_here(other) == names  # the same prompt again takes its own file's place


def test_a_short_prompt_names_its_file(draw_here):
    assert draw_here("a red circle, at the top") == ["a-red-circle-at-the-top-0.png"]


def test_a_file_of_someone_elses_stays(draw_here, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a-cat-0.png").write_bytes(b"mine")
    assert draw_here("a cat") != ["a-cat-0.png"]
    assert (tmp_path / "out" / "a-cat-0.png").read_bytes() == b"mine"
