"""Prompts to images through an assembled directory."""

import json
import math

import pytest
import torch

from fluxmodel.encoders.autoencoder import Autoencoder, AutoencoderConfig
from fluxmodel.errors import InputError
from fluxmodel.text_to_image import TextToImage, assemble
from tests.kit import write_model_parts

PROMPTS = ["a red circle top left", "a blue bar bottom right", "a dog"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """What a flow job and an autoencoder job leave, with random weights."""
    return write_model_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def directory(parts, tmp_path):
    output = tmp_path / "model"
    output.mkdir()
    assemble(parts / "flow", parts / "autoencoder", output, image_size=16, num_steps=2, guidance=2.0)
    return output


@pytest.fixture
def pipe(directory):
    return TextToImage.from_pretrained(directory)


def count_calls(pipe):
    calls = []
    pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_a_directory_has_the_layout_it_promises(directory):
    files = {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}
    parts = {f"{part}/{name}" for part in ("transformer", "autoencoder") for name in NETWORK}
    assert files == {"model_index.json", "text_encoder/config.json"} | parts


NETWORK = ("config.json", "model.safetensors")


def test_each_prompt_gives_an_image_of_the_training_size(pipe):
    images = pipe(PROMPTS)
    assert [image.size for image in images] == [(16, 16)] * 3
    assert [image.mode for image in images] == ["RGB"] * 3
    assert pipe([]) == []
    assert pipe(PROMPTS[0])[0].tobytes() == images[0].tobytes()


def test_the_same_seed_gives_the_same_image_alone_and_in_a_batch(pipe):
    together = pipe.sample(PROMPTS, num_steps=3, guidance=2.0, seeds=[4, 9, 2])
    alone = pipe.sample(PROMPTS[1:2], num_steps=3, guidance=2.0, seeds=[9])
    cut = pipe.sample(PROMPTS, num_steps=3, guidance=2.0, seeds=[4, 9, 2], batch_size=1)
    for other in (alone[0], cut[1]):
        assert (together[1].int() - other.int()).abs().max() <= 1  # a product's last digit, then rounding
    assert not torch.equal(together[0], pipe.sample(PROMPTS[:1], num_steps=3, guidance=2.0, seeds=[5])[0])


def test_image_i_of_a_call_starts_from_seed_plus_i(pipe):
    called = pipe(PROMPTS, num_steps=2, guidance=1.0, seed=7)
    sampled = pipe.sample(PROMPTS, num_steps=2, guidance=1.0, seeds=[7, 8, 9])
    for image, pixels in zip(called, sampled, strict=True):
        assert image.tobytes() == pixels.permute(1, 2, 0).numpy().tobytes()


def test_prompts_are_heard(pipe):
    first, second = pipe.sample(PROMPTS[:2], num_steps=2, guidance=1.0, seeds=[1, 1])
    assert not torch.equal(first, second)


def test_defaults_are_those_of_the_directory(pipe):
    stated = pipe(PROMPTS, num_steps=2, guidance=2.0, height=16, width=16, seed=0)
    assert [i.tobytes() for i in pipe(PROMPTS)] == [i.tobytes() for i in stated]


def test_height_and_width_are_free_in_multiples_of_eight(pipe):
    assert pipe("a dog", height=8, width=32)[0].size == (32, 8)


@pytest.mark.parametrize(("guidance", "calls"), [(1.0, 3), (2.0, 6)])
def test_guidance_one_costs_one_network_call_a_step(pipe, guidance, calls):
    counted = count_calls(pipe)
    pipe(PROMPTS, num_steps=3, guidance=guidance)
    assert len(counted) == calls


def test_sampling_equals_euler_written_out(pipe):
    """The velocity's field, guided by hand, followed in two steps."""
    from fluxmodel.flow.packing import image_ids, unpack
    from fluxmodel.randomness import image_noise

    x = image_noise([3], (4, 16))
    text, empty = pipe.text_encoder(PROMPTS[:1]), pipe.text_encoder([""])
    with torch.inference_mode():
        for t in (1.0, 0.5):
            given, none = (
                pipe.transformer(
                    x, image_ids(1, 4, 4), e.tokens, torch.zeros(1, 6, 3), torch.tensor([t]), e.pooled
                )
                for e in (text, empty)
            )
            x = x - 0.5 * (none + 3.0 * (given - none))
        ours = pipe.sample_latents(PROMPTS[:1], 2, 3.0, [3], (16, 16))
    torch.testing.assert_close(ours, unpack(x, 4, 4), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_steps": 0}, "num_steps is 0"),
        ({"guidance": 0.5}, r"guidance is 0\.5; use at least 1"),
        ({"guidance": math.nan}, "guidance is nan"),
        ({"guidance": math.inf}, "guidance is inf"),
        ({"height": 20}, "height is 20; it must be a multiple of 8"),
        ({"width": 0}, "width is 0"),
        ({"height": -8}, "height is -8"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(pipe, arguments, named):
    with pytest.raises(InputError, match=named):
        pipe("a dog", **arguments)


def test_prompts_and_seeds_go_in_pairs(pipe):
    with pytest.raises(InputError, match="3 prompts but 2 seeds"):
        pipe.sample(PROMPTS, num_steps=1, guidance=1.0, seeds=[1, 2])


def edit(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda d: (d / "model_index.json").unlink(), "no model_index.json there"),
        (lambda d: (d / "model_index.json").write_text("{}"), "image_size: Field required"),
        (lambda d: (d / "text_encoder" / "config.json").unlink(), "text_encoder/config.json: cannot be read"),
        (
            lambda d: (d / "transformer" / "config.json").unlink(),
            r"transformer/\S+: axes_dim cannot.*config\.json",
        ),
        (lambda d: (d / "transformer" / "model.safetensors").unlink(), "transformer: cannot be read"),
        (lambda d: (d / "autoencoder" / "config.json").unlink(), "autoencoder/config.json: cannot be read"),
        (lambda d: edit(d / "transformer" / "config.json", depth=2), "depth is 2 in .*, 1 in the weights"),
        (lambda d: edit(d / "transformer" / "config.json", depth="two"), "depth: Input should be"),
        (lambda d: edit(d / "text_encoder" / "config.json", dim=9), "vec_in_dim is 8, .* need 9"),
    ],
)
def test_a_damaged_directory_is_refused_by_its_part(directory, damage, named):
    damage(directory)
    with pytest.raises(InputError, match=named):
        TextToImage.from_pretrained(directory)


def test_no_directory_at_all_is_refused(tmp_path):
    with pytest.raises(InputError, match="a directory that a Fluxline run registered"):
        TextToImage.from_pretrained(tmp_path / "nothing")


def test_parts_of_different_runs_are_not_mixed(directory, tmp_path):
    (tmp_path / "other").mkdir()
    Autoencoder(AutoencoderConfig(latent_channels=8, width=16, num_blocks=1)).save(tmp_path / "other")
    for name in NETWORK:
        (directory / "autoencoder" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(InputError, match=r"in_channels is 16, .* need 32"):
        TextToImage.from_pretrained(directory)
