"""Where drawn images lie: a name a person recognises, and never another prompt's file."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from flows.cli import run_command
from fluxmodel import drawing
from fluxmodel.drawing import Picture
from fluxmodel.errors import InputError
from fluxmodel.lora_files import write_lora
from fluxmodel.recipe import Recipe, encode_png, read_recipe
from fluxmodel.weights import read_mmdit_config
from tasks import registry
from tasks.drawing import Drawing
from tasks.generate import draw, draw_again
from tasks.home import Home
from tasks.registry import StoredVersion
from tests.fluxmodel.tiny_loras import random_lora
from tests.kit import write_model

LONG = "a red circle on the top left and a blue square on the top right and a "


@pytest.fixture
def draw_here(tmp_path, monkeypatch):
    """Draw prompts with seed 0 by a stand-in for the network; return the names of the files."""

    class Stub:
        def __init__(self, *_, **__):
            pass

        def draw(self, prompts, seed, **_):
            recipes = [
                Recipe(text, seed, 1, 1.0, 8, 8, "", "", 1.0, "", len(prompts)) for text in prompts
            ]  # one seed for all, as two commands would have it
            return [Picture(encode_png(Image.new("RGB", (8, 8)), recipe), recipe) for recipe in recipes]

    monkeypatch.setattr(drawing, "DrawingModel", Stub)

    def call(*prompts: str) -> list[str]:
        made = draw(Home(tmp_path), list(prompts), Drawing(model=str(tmp_path)), tmp_path / "out")
        return [Path(each.path).name for each in made]

    return call


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("one", "other"),
    [(LONG + "green ring", LONG + "yellow star"), ("a cat", "A cat!"), ("\u732b", "\u72ac")],
)
def test_no_file_of_another_prompt_is_overwritten(draw_here, tmp_path, one, other, at_once):
    def drawn() -> list[str]:
        return draw_here(one, other) if at_once else [*draw_here(one), *draw_here(other)]

    names = drawn()
    assert len(set(names)) == 2
    kept = {read_recipe(tmp_path / "out" / name).prompt for name in names}
    assert kept == {one, other}
    assert drawn() == names  # the same recipe again takes its own file's place


def test_a_short_prompt_names_its_file(draw_here):
    assert draw_here("a red circle, at the top") == ["a-red-circle-at-the-top-0.png"]


def test_a_file_of_someone_elses_stays(draw_here, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a-cat-0.png").write_bytes(b"mine")
    assert draw_here("a cat") != ["a-cat-0.png"]
    assert (tmp_path / "out" / "a-cat-0.png").read_bytes() == b"mine"


# By the recipe of an image


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = write_model(tmp_path_factory.mktemp("generate") / "model")
    (directory / "manifest.json").write_text('{"digest": "d1"}')
    return directory


def generate(capfd, *arguments: object) -> list[Path]:
    assert run_command(["generate", *map(str, arguments), "--json"]) == 0
    return [Path(each["path"]) for each in json.loads(capfd.readouterr().out.splitlines()[-1])["images"]]


def test_the_file_of_an_image_is_drawn_again(model, fluxline_home, tmp_path, capfd):
    how = [
        "--solver",
        "heun",
        "--negative",
        "a dog",
        "--guidance",
        3,
        "--steps",
        2,
        "--height",
        13,
        "--seed",
        5,
    ]
    drawn = generate(
        capfd, "a cat", "a bird", *how, "--model", model, "--variant", "base", "--out", tmp_path / "1"
    )
    recipe = read_recipe(drawn[1])
    assert (recipe.solver, recipe.negative, recipe.guidance, recipe.num_steps) == ("heun", "a dog", 3.0, 2)
    assert (recipe.height, recipe.width, recipe.seed, recipe.variant) == (13, 16, 6, "base")
    assert (recipe.prompt, recipe.batch_size, recipe.model) == ("a bird", 2, "d1")
    (again,) = generate(capfd, "--from", drawn[1], "--model", model, "--out", tmp_path / "2")
    assert again.read_bytes() == drawn[1].read_bytes()


def test_what_is_said_besides_goes_before_the_recipe(model, fluxline_home, tmp_path, capfd):
    (first,) = generate(capfd, "a cat", "--model", model, "--seed", 5, "--steps", 2, "--out", tmp_path)
    (other,) = generate(
        capfd,
        "a dog",
        "--from",
        first,
        "--model",
        model,
        "--steps",
        3,
        "--solver",
        "euler",
        "--out",
        tmp_path,
    )
    was, now = read_recipe(first), read_recipe(other)
    assert now == replace(was, prompt="a dog", num_steps=3)


def test_the_model_that_drew_an_image_is_found_by_its_digest(
    model, fluxline_home, tmp_path, capfd, monkeypatch
):
    (drawn,) = generate(capfd, "a cat", "--model", model, "--out", tmp_path)
    versions = [StoredVersion("shapes", n, {"artifact_digest": f"d{n}"}, (), 0.0, "") for n in "21"]
    monkeypatch.setattr(registry, "all_versions", lambda _: versions)
    monkeypatch.setattr(registry, "find_version", lambda _, name, which: (name, which))
    monkeypatch.setattr(registry, "model_directory", lambda _, found: {("shapes", "1"): model}[found])
    (again,) = generate(capfd, "--from", drawn, "--out", tmp_path / "2")
    assert again.read_bytes() == drawn.read_bytes()
    versions.pop()
    assert run_command(["generate", "--from", str(drawn)]) == 2
    said = capfd.readouterr().err
    assert "was drawn by a model with digest d1, which is not registered here" in said
    assert said.count("\n") == 1


def test_an_image_that_does_not_know_its_model_is_drawn_with_one_that_is_named(tmp_path):
    recipe = Recipe("a cat", 0, 1, 1.0, 8, 8, "", "", 1.0, "", 1)
    (tmp_path / "image.png").write_bytes(encode_png(Image.new("RGB", (8, 8)), recipe))
    with pytest.raises(InputError, match=r"image\.png does not say which model drew it; .* --model"):
        draw_again(None, tmp_path / "image.png", [], Drawing(), tmp_path)  # type: ignore[arg-type]


def test_another_recipe_leaves_the_image_it_came_from_where_it_is(model, fluxline_home, tmp_path, capfd):
    (first,) = generate(capfd, "a red circle", "--model", model, "--seed", 7, "--steps", 2, "--out", tmp_path)
    before = first.read_bytes()
    again = [
        generate(capfd, "--from", first, "--model", model, "--steps", 16, "--out", tmp_path)[0]
        for _ in range(2)
    ]
    assert first.name == "a-red-circle-7.png"
    assert first.read_bytes() == before
    assert again[0] == again[1] != first  # the same recipe again takes its own file's place
    assert (read_recipe(first).num_steps, read_recipe(again[0]).num_steps) == (2, 16)
    assert generate(capfd, "--from", first, "--model", model, "--out", tmp_path) == [first]
    assert len(list(tmp_path.glob("*.png"))) == 2


@pytest.mark.parametrize("verb", [["generate", "a cat"], ["generate", "--from", "IMAGE"]])
@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--seed", 2**64, "seed is 18446744073709551616; it must be at most 9223372036854775807"),
        ("--seed", 2**63, "seed is 9223372036854775808"),
        ("--lora-scale", "nan", "--lora-scale is nan; give a finite number"),
        ("--lora-scale", "inf", "--lora-scale is inf; give a finite number"),
    ],
)
def test_a_number_out_of_its_range_is_refused(model, fluxline_home, tmp_path, capfd, verb, flag, value, said):
    recipe = Recipe("a cat", 0, 1, 1.0, 8, 8, "", "", 1.0, "", 1)
    (tmp_path / "image.png").write_bytes(encode_png(Image.new("RGB", (8, 8)), recipe))
    told = [str(tmp_path / "image.png") if each == "IMAGE" else each for each in verb]
    command = [*told, "--model", str(model), flag, str(value), "--out", str(tmp_path / "out")]
    assert run_command(command) == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [({"seed": 2**64}, "seed is 18446744073709551616"), ({"lora_scale": float("nan")}, "nan")],
)
def test_a_recipe_with_a_number_out_of_its_range_is_refused(model, tmp_path, change, said):
    recipe = replace(Recipe("a cat", 0, 1, 1.0, 8, 8, "", "", 1.0, "", 1), **change)
    (tmp_path / "image.png").write_bytes(encode_png(Image.new("RGB", (8, 8)), recipe))
    with pytest.raises(InputError, match=said):
        draw_again(Home(tmp_path), tmp_path / "image.png", [], Drawing(model=str(model)), tmp_path)


def test_another_lora_of_the_same_name_is_not_drawn_with(model, fluxline_home, tmp_path, capfd):
    config, path = read_mmdit_config(model), tmp_path / "style.safetensors"
    write_lora(random_lora(config, rank=2, alpha=4.0), path, config)
    (drawn,) = generate(capfd, "a cat", "--model", model, "--lora", path, "--out", tmp_path / "1")
    again = ["--from", drawn, "--model", model, "--lora", path]
    assert generate(capfd, *again, "--out", tmp_path / "2")[0].read_bytes() == drawn.read_bytes()
    (model / "loras" / "style.safetensors").mkdir(parents=True)  # what the name alone finds
    write_lora(random_lora(config, rank=2, alpha=8.0), model / "loras" / "style.safetensors", config)
    assert run_command(["generate", *map(str, again[:4]), "--out", str(tmp_path / "3")]) == 2
    said = capfd.readouterr().err
    assert "was drawn with another LoRA style.safetensors" in said
    assert not (tmp_path / "3").exists()
