"""A model kept in memory to draw on request."""

import base64
import io
import shutil

import pytest
import torch
from PIL import Image

from fluxmodel.drawing import MERGED_LORAS, DrawingModel
from fluxmodel.drawing_request import MAX_SEED, DrawingRequest, RequestError, read_request
from fluxmodel.errors import InputError
from fluxmodel.lora_files import save_lora
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
    )
    first = model.answer(asked)
    place = tmp_path / "image.png"
    place.write_bytes(base64.b64decode(first.images[0].png))
    recipe = read_recipe(place)
    assert recipe.model == "d1"
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
        num_images=recipe.batch_size,
    )
    assert model.answer(again).images == first.images


def test_an_image_without_a_recipe_is_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    with pytest.raises(InputError, match=r"plain\.png: no recipe there"):
        read_recipe(tmp_path / "plain.png")


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
    assert model._with_lora.cache_info().currsize == MERGED_LORAS


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
