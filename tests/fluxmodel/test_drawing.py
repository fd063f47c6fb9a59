"""A model kept in memory to draw on request."""

import base64
import io
import json
import shutil
from dataclasses import asdict

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fluxmodel import drawing
from fluxmodel.drawing import MERGED_LORAS, DrawingModel
from fluxmodel.drawing_request import MAX_SEED, DrawingRequest, RequestError, read_request
from fluxmodel.errors import InputError
from fluxmodel.lora_files import find_lora, save_lora
from fluxmodel.lora_passport import file_digest
from fluxmodel.recipe import read_recipe
from fluxmodel.text_to_image import TextToImage
from fluxmodel.weights import load_mmdit
from tests.kit import write_model

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    place = write_model(tmp_path_factory.mktemp("drawing") / "model")
    (place / "manifest.json").write_text('{"digest": "d1"}')
    for number, name in enumerate(("wash", "ink")):
        write_lora(place, name, number)
    return place


def write_lora(model, name, seed):
    from peft import LoraConfig, inject_adapter_in_model

    network = load_mmdit(model / "transformer")
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["qkv"], init_lora_weights=False)
    torch.manual_seed(seed)
    inject_adapter_in_model(config, network)
    folder = model / "loras" / name
    folder.mkdir(parents=True)
    save_lora(network, folder)
    (folder / "lora.json").write_text(f'{{"name": "{name}", "trigger": "soft{name}"}}')


@pytest.fixture(scope="module")
def model(directory):
    return DrawingModel(directory, "shapes", "3").read_all()


def image_of(answer, number=0):
    return Image.open(io.BytesIO(base64.b64decode(answer.images[number].png)))


def test_an_answer_holds_what_the_model_itself_draws(model, directory):
    answer = model.answer(DrawingRequest(prompt=PROMPT, num_steps=2, seed=7, num_images=3))
    drawn = TextToImage.from_pretrained(directory)([PROMPT] * 3, num_steps=2, seed=7)
    assert [image_of(answer, i).tobytes() for i in range(3)] == [image.tobytes() for image in drawn]
    assert [image.seed for image in answer.images] == [7, 8, 9]


def test_an_answer_says_with_what_it_was_drawn(model):
    answer = model.answer(DrawingRequest(prompt=PROMPT, variant="base"))
    told = answer.model_dump(exclude={"images", "milliseconds"})
    assert told == {
        "num_steps": 3,
        "guidance": 2.0,
        "solver": "euler",
        "height": 16,
        "width": 16,
        "variant": "base",
        "lora": "",
        "model": "shapes",
        "version": "3",
        "digest": "d1",
    }
    assert answer.milliseconds > 0


def test_the_file_carries_the_recipe_that_draws_it_again(model, tmp_path):
    asked = DrawingRequest(
        prompt='a "red" Kreis ü',
        num_steps=2,
        guidance=3.5,
        seed=MAX_SEED,
        width=8,
        lora="wash",
        lora_scale=0.5,
        solver="heun",
        negative="a blue bar",
    )
    first = model.answer(asked)
    place = tmp_path / "image.png"
    place.write_bytes(base64.b64decode(first.images[0].png))
    recipe = read_recipe(place)
    assert (recipe.model, recipe.solver, recipe.negative) == ("d1", "heun", "a blue bar")
    again = DrawingRequest(
        prompt=recipe.prompt,
        num_steps=recipe.num_steps,
        guidance=recipe.guidance,
        seed=recipe.seed,
        height=recipe.height,
        width=recipe.width,
        variant=recipe.variant,
        lora=recipe.lora,
        lora_scale=recipe.lora_scale,
        solver=recipe.solver,
        negative=recipe.negative,
        num_images=recipe.batch_size,
    )
    assert model.answer(again).images == first.images


def write_text(path, **chunks):
    said = PngInfo()
    for keyword, text in chunks.items():
        said.add_text(keyword, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=said)


BEFORE = {
    "prompt": "a dog", "seed": 7, "num_steps": 3, "guidance": 2.0, "height": 8, "width": 16, "variant": "base",
    "lora": "", "lora_scale": 1.0, "model": "d1", "batch_size": 4,
}  # fmt: skip
"""The recipe of an image from before there was a choice of solvers."""


def test_a_recipe_from_before_solvers_is_read(tmp_path):
    write_text(tmp_path / "old.png", fluxline=json.dumps(BEFORE))
    recipe = read_recipe(tmp_path / "old.png")
    assert asdict(recipe) == {
        **BEFORE,
        "solver": "euler",
        "true_guidance": 1.0,
        "negative": "",
        "lora_digest": "",
    }


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ({}, r"image\.png: no recipe there; name a PNG"),
        ({"fluxline": "{"}, r"image\.png: no recipe there that can be read"),
        ({"fluxline": "{}"}, "prompt: "),
        ({"fluxline": json.dumps(BEFORE | {"seed": "many"})}, "seed: "),
        ({"fluxline": json.dumps(BEFORE | {"solver": "rk4"})}, "solver: "),
    ],
)
def test_an_image_without_a_recipe_is_refused(tmp_path, chunks, said):
    write_text(tmp_path / "image.png", **chunks)
    with pytest.raises(InputError, match=said):
        read_recipe(tmp_path / "image.png")


def test_a_file_that_is_no_image_is_refused(tmp_path):
    (tmp_path / "image.png").write_bytes(b"none")
    with pytest.raises(InputError, match=r"image\.png: no recipe there; name a PNG"):
        read_recipe(tmp_path / "image.png")


def test_a_lora_and_its_scale_change_the_image_and_zero_does_not(model):
    def drawn(**how):
        return image_of(model.answer(DrawingRequest(prompt=PROMPT, **how))).tobytes()

    assert len({drawn(), drawn(lora="wash"), drawn(lora="ink"), drawn(lora="wash", lora_scale=2.0)}) == 4
    assert drawn(lora="wash", lora_scale=0.0) == drawn()


def test_a_loras_trigger_word_is_told(model):
    assert model.loras == {"ink": "softink", "wash": "softwash"}


def test_merged_loras_do_not_pile_up(model):
    for number in range(2 * MERGED_LORAS):
        model.answer(DrawingRequest(prompt=PROMPT, lora="wash", lora_scale=0.1 * number))
    assert len(model._merged) == MERGED_LORAS
    assert [scale for _, _, scale in model._merged] == [
        0.1 * n for n in range(MERGED_LORAS, 2 * MERGED_LORAS)
    ]


@pytest.mark.parametrize(("fitting", "kept"), [(0.5, 1), (1, 1), (2.5, 2)])
def test_merged_loras_take_no_more_than_their_share_of_memory(directory, monkeypatch, fitting, kept):
    model, most = DrawingModel(directory), []
    network = model._pipe(model.index.name).transformer
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    monkeypatch.setattr(drawing, "MERGED_BYTES", int(fitting * size))
    merge = TextToImage.with_lora

    def counted(*given):
        most.append(len(model._merged) + 1)
        return merge(*given)

    monkeypatch.setattr(TextToImage, "with_lora", counted)
    for scale in (0.1, 0.2, 0.3, 0.3):
        model.answer(DrawingRequest(prompt=PROMPT, lora="wash", lora_scale=scale))
    assert (max(most), len(model._merged), len(most)) == (
        kept,
        kept,
        3,
    )  # the old goes before the new is made


@pytest.mark.parametrize("where", ["with_lora", "__call__"])
def test_too_little_memory_is_one_sentence(directory, monkeypatch, where):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TextToImage, where, fail)
    with pytest.raises(InputError, match=r"memory does not hold .* fewer prompts .* smaller size") as refusal:
        DrawingModel(directory).answer(DrawingRequest(prompt=PROMPT, lora="wash"))
    assert "fluxline export" in str(refusal.value)


def test_the_recipe_knows_the_loras_file(model, directory):
    (picture,) = model.draw([PROMPT], lora=directory / "loras" / "wash")
    assert picture.recipe.lora_digest == file_digest(find_lora(directory / "loras" / "wash"))
    assert model.draw([PROMPT])[0].recipe.lora_digest == ""


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "prompt: Field required"),
        ({"prompt": ""}, "prompt: String should have at least 1 character"),
        ({"prompt": " \n"}, "prompt: it is blank; say what to draw"),
        ({"prompt": "x" * 1001}, "prompt: String should have at most 1000 characters"),
        ({"prompt": 7}, "prompt: Input should be a valid string"),
        ({"prompt": "a", "num_steps": 0}, "num_steps: Input should be greater than or equal to 1"),
        ({"prompt": "a", "num_steps": 51}, "num_steps: Input should be less than or equal to 50"),
        ({"prompt": "a", "num_steps": "4"}, "num_steps: Input should be a valid integer"),
        ({"prompt": "a", "num_steps": True}, "num_steps: Input should be a valid integer"),
        ({"prompt": "a", "guidance": 0.5}, "guidance: Input should be greater than or equal to 1"),
        ({"prompt": "a", "guidance": float("nan")}, "guidance: Input should be a finite number"),
        ({"prompt": "a", "seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"prompt": "a", "seed": 2**53}, "seed: Input should be less than or equal to 9007199254740991"),
        ({"prompt": "a", "num_images": 17}, "num_images: Input should be less than or equal to 16"),
        ({"prompt": "a", "lora_scale": 1e9}, "lora_scale: Input should be less than or equal to 4"),
        ({"prompt": "a", "solver": "rk4"}, "solver: Input should be 'euler', 'heun' or 'midpoint'"),
        ({"prompt": "a", "steps": 4}, "steps: Extra inputs are not permitted"),
        ("a red circle", "Input should be a valid dictionary or instance of DrawingRequest"),
    ],
)
def test_a_bad_request_is_refused_by_its_field(values, said):
    with pytest.raises(RequestError) as refusal:
        read_request(values)
    assert str(refusal.value) == said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"height": 12}, "height: it is 12; this model draws multiples of 8 up to 16"),
        ({"width": 24}, "width: it is 24; this model draws multiples of 8 up to 16"),
        ({"variant": "turbo"}, "variant: it is 'turbo'; this model has rectified, base"),
        ({"lora": "../../secret"}, "lora: it is '../../secret'; this model has ink, wash"),
        (
            {"guidance": 1.0, "negative": "a dog"},
            "negative: it is 'a dog', but guidance is 1 and leads away from nothing; raise it above 1",
        ),
        (
            {"negative": "a dog"},
            "negative: it is 'a dog', but guidance is 1 and leads away from nothing; raise it above 1",
        ),
        (
            {"true_guidance": 2.0},
            "true_guidance: it is 2.0, but this network embeds no guidance; give the strength as guidance",
        ),
        ({"lora": "charcoal"}, "lora: it is 'charcoal'; this model has ink, wash"),
    ],
)
def test_what_this_model_cannot_draw_is_refused_by_its_field(model, values, said):
    with pytest.raises(RequestError) as refusal:
        model.answer(read_request({"prompt": PROMPT, **values}))
    assert str(refusal.value) == said


def test_reading_all_finds_what_is_wrong_with_a_variant_nobody_asked_for_yet(directory, tmp_path):
    shutil.copytree(directory, tmp_path / "damaged")
    (tmp_path / "damaged" / "transformer_base" / "model.safetensors").unlink()
    model = DrawingModel(tmp_path / "damaged")
    with pytest.raises(InputError, match=r"transformer_base: cannot be read \(no file"):
        model.read_all()
