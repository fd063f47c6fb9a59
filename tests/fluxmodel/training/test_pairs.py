import json

import pytest
import torch
from safetensors.torch import load_file

from fluxmodel.data.latent_cache import EncodedDataset
from fluxmodel.errors import InputError
from fluxmodel.randomness import image_noise
from fluxmodel.text_to_image import TextToImage
from fluxmodel.training.pairs import choose_prompts, draw_pairs
from fluxmodel.training_job import PairSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from tests.fluxmodel.training.tiny_jobs import tiny_model

    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def encoded(tmp_path):
    from tests.fluxmodel.training.tiny_jobs import write_encoded

    return write_encoded(tmp_path / "encoded")


def drawn(model, encoded, output, **changes):
    output.mkdir()
    draw_pairs(
        model, encoded, PairSettings(**{"num": 10, "num_steps": 3, "precision": "fp32", **changes}), 5, output
    )
    return EncodedDataset.from_directory(output)


def test_each_latent_is_what_the_teacher_makes_of_its_noise(model, encoded, tmp_path):
    pairs = drawn(model, encoded, tmp_path / "pairs", guidance=2.0, batch_size=10)
    assert pairs.noise_seeds is not None
    prompts = [own["prompt"] for own in pairs.captions]
    again = TextToImage.from_pretrained(model).sample_latents(prompts, 3, 2.0, pairs.noise_seeds, (32, 32))
    assert torch.equal(again.half().float(), pairs.latents)


def test_the_seed_chooses_the_captions(encoded):
    data = EncodedDataset.from_directory(encoded)
    one, other = (choose_prompts(data.captions, data.ids, 20, seed) for seed in (0, 1))
    assert one != other
    assert one == choose_prompts(data.captions, data.ids, 20, 0)


def test_every_sample_comes_before_any_comes_again():
    captions = [{"short": str(number)} for number in range(7)]
    chosen = choose_prompts(captions, [str(i) for i in range(7)], 14, 0)
    assert sorted(chosen[:7]) == sorted(chosen[7:]) == [str(number) for number in range(7)]


def test_a_sample_without_a_caption_is_refused():
    with pytest.raises(InputError, match="have no caption of the kinds"):
        choose_prompts([{"short": "s"}, {}], ["0", "1"], 1, 0)


def test_the_manifest_says_how_they_were_drawn(model, encoded, tmp_path):
    drawn(model, encoded, tmp_path / "pairs", guidance=1.5)
    manifest = json.loads((tmp_path / "pairs" / "pairs.json").read_text())
    assert (manifest["num"], manifest["num_steps"], manifest["guidance"], manifest["seed"]) == (10, 3, 1.5, 5)
    assert "workers" not in manifest
    seeds = load_file(str(tmp_path / "pairs" / "latents.safetensors"))["noise_seeds"].tolist()
    assert len({float(noise.sum()) for noise in image_noise(seeds, (4, 4))}) == 10
