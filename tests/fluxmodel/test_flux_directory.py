"""A standard FLUX.1 directory drawn with: the pictures are those of diffusers' pipeline."""

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch

from fluxmodel.drawing import DrawingModel
from fluxmodel.drawing_request import DrawingRequest
from fluxmodel.errors import InputError
from fluxmodel.export import export
from fluxmodel.flow.packing import pack
from fluxmodel.flux_directory import load_flux_directory
from fluxmodel.pretrained_folder import is_pipeline
from fluxmodel.text_to_image import TextToImage
from tests.kit import write_model

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers and transformers deprecate themselves

PROMPT = "a photo of a blue square on top"
STEPS = 4


def theirs(directory, size, max_tokens, **options):
    """What diffusers makes of a directory, called as its documentation says."""
    import diffusers

    pipe: Any = diffusers.FluxPipeline.from_pretrained(directory)
    pipe.set_progress_bar_config(disable=True)
    height, width = size
    return pipe(
        PROMPT,
        height=height,
        width=width,
        num_inference_steps=STEPS,
        max_sequence_length=max_tokens,
        **options,
    ).images


@pytest.mark.parametrize("size", [(32, 32), (64, 36)])
@pytest.mark.parametrize(("name", "guidance", "tokens"), [("dev", 3.5, 512), ("schnell", 1.0, 256)])
def test_an_exported_directory_draws_in_diffusers_what_it_draws_here(
    flux_directory, tmp_path, name, guidance, tokens, size
):
    ours = TextToImage.from_pretrained(flux_directory(name))
    image = np.asarray(ours(PROMPT, num_steps=STEPS, height=size[0], width=size[1], seed=3)[0]).astype(int)
    assert image.shape == (*size, 3)
    assert image.std() > 5  # an even picture would equal anything
    export(flux_directory(name), tmp_path / "exported")
    noise = {"latents": ours.noise([3], size)}
    for start in (noise, {"generator": torch.Generator().manual_seed(3)}):
        drawn = theirs(tmp_path / "exported", size, tokens, guidance_scale=guidance, **start)
        assert np.abs(np.asarray(drawn[0]) - image).max() <= 2
    latents = theirs(
        tmp_path / "exported", size, tokens, guidance_scale=guidance, output_type="latent", **noise
    )
    mine = pack(ours.sample_latents([PROMPT], STEPS, guidance, [3], size))
    torch.testing.assert_close(mine, latents, rtol=1e-3, atol=1e-3)
    assert (noise["latents"] - latents).abs().max() > 0.1


def test_prompts_and_guidance_are_heard(flux_directory):
    dev = TextToImage.from_pretrained(flux_directory("dev"))

    def latents(prompt, guidance):
        return dev.sample_latents([prompt], STEPS, guidance, [3], (32, 32))

    start = latents(PROMPT, 3.5)
    for other in (latents("a red circle", 3.5), latents(PROMPT, 1.0)):
        assert (start - other).abs().max() > 0.02  # twenty times what the pipelines may differ by


def test_how_flux_is_drawn_where_nothing_is_said(flux_directory):
    for name, steps, guidance, is_dynamic in (("dev", 28, 3.5, True), ("schnell", 4, 1.0, False)):
        index = TextToImage.from_pretrained(flux_directory(name)).index
        assert (index.name, index.num_steps, index.guidance) == (name, steps, guidance)
        assert index.time_shift is not None
        assert index.time_shift.use_dynamic_shifting is is_dynamic
        assert index.image_size == 256  # 1024 where the autoencoder, unlike the tiny one, has four levels


def test_all_parts_take_the_dtype_asked_for_and_else_the_one_that_is_stored(flux_directory, tmp_path):
    half = TextToImage.from_pretrained(flux_directory("schnell"), dtype=torch.bfloat16)
    assert half("a red circle", num_steps=1, height=16, width=16)[0].size == (16, 16)
    export(flux_directory("schnell"), tmp_path / "half", dtype="bf16")
    stored = TextToImage.from_pretrained(tmp_path / "half")
    for pipe in (half, stored):
        assert pipe.transformer.img_in.weight.dtype == torch.bfloat16
        assert pipe.text_encoder(["a"]).tokens.dtype == torch.bfloat16
    whole = TextToImage.from_pretrained(tmp_path / "half", dtype=torch.float32)
    assert {p.dtype for p in whole.transformer.parameters()} == {torch.float32}


def test_a_directory_is_served_like_our_own(flux_directory):
    model = DrawingModel(flux_directory("schnell")).read_all()
    asked = {"prompt": PROMPT, "num_images": 2, "height": 16, "width": 24, "num_steps": 1}
    answer = model.answer(DrawingRequest.model_validate(asked))
    assert (answer.variant, answer.guidance, len(answer.images)) == ("schnell", 1.0, 2)
    assert answer.images[0].png != answer.images[1].png


def test_a_directory_is_known_by_its_index(flux_directory, tmp_path):
    assert is_pipeline(flux_directory("dev"))
    assert not is_pipeline(write_model(tmp_path / "ours"))
    assert not is_pipeline(tmp_path / "nothing")


def _edit(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda d: (d / "model_index.json").write_text("{"), "model_index.json: Invalid JSON"),
        (
            lambda d: _edit(d / "model_index.json", _class_name="FluxFillPipeline"),
            "_class_name is 'FluxFillPipeline'; name a directory of FluxPipeline",
        ),
        (
            lambda d: _edit(d / "model_index.json", vae=["diffusers", "AutoencoderTiny"]),
            "vae is 'AutoencoderTiny', not AutoencoderKL",
        ),
        (
            lambda d: _edit(d / "model_index.json", text_encoder_2=[None, None]),
            "text_encoder_2 is None, not T5E",
        ),
        (
            lambda d: shutil.rmtree(d / "vae"),
            "vae: there is no such folder, though model_index.json names it",
        ),
        (lambda d: shutil.rmtree(d / "transformer"), "transformer: there is no such folder"),
        (lambda d: (d / "transformer/config.json").write_text("{"), "transformer/config.json"),
        (
            lambda d: (d / "transformer/diffusion_pytorch_model.safetensors").unlink(),
            "transformer",
        ),
        (
            lambda d: _edit(d / "scheduler/scheduler_config.json", use_beta_sigmas=True),
            "use_beta_sigmas is True",
        ),
    ],
)
def test_a_damaged_directory_is_refused_by_its_part(flux_directory, tmp_path, damage, named):
    directory = shutil.copytree(flux_directory("schnell"), tmp_path / "damaged")
    damage(directory)
    with pytest.raises(InputError, match=named):
        TextToImage.from_pretrained(directory)


def test_parts_that_do_not_fit_are_refused(flux_directory, tmp_path):
    from transformers import T5Config, T5EncoderModel

    directory = shutil.copytree(flux_directory("schnell"), tmp_path / "mixed")
    shutil.rmtree(directory / "text_encoder_2")
    T5EncoderModel(
        T5Config(vocab_size=100, d_model=48, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
    ).save_pretrained(directory / "text_encoder_2")
    with pytest.raises(InputError, match="context_in_dim is 32, but text_encoder_2 beside it needs 48"):
        load_flux_directory(directory)


def test_another_variant_is_refused(flux_directory):
    with pytest.raises(InputError, match="variant is 'rectified'; this model is dev and has no other"):
        TextToImage.from_pretrained(flux_directory("dev"), "rectified")
