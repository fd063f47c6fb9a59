"""FLUX.1's text encoders behind our port, against diffusers' pipeline of the same directory."""

import json
import shutil

import pytest
import torch

from fluxmodel.encoders.flux_text import FluxTextEncoder
from fluxmodel.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers and transformers deprecate themselves

CAPTIONS = [
    "a red circle",
    "",
    "a photo of a blue square on top " * 90,
]  # the last is longer than either encoder


@pytest.mark.parametrize(("name", "max_tokens"), [("dev", 512), ("schnell", 256)])
def test_embeddings_are_those_of_the_pipeline(flux_directory, name, max_tokens):
    import diffusers

    theirs = diffusers.FluxPipeline.from_pretrained(flux_directory(name), transformer=None, vae=None)
    with torch.no_grad():
        tokens, pooled, ids = theirs.encode_prompt(CAPTIONS, max_sequence_length=max_tokens)
    encoder = FluxTextEncoder.from_directory(flux_directory(name), max_tokens)
    ours = encoder(CAPTIONS)
    assert ours.tokens.shape == (3, max_tokens, encoder.token_width)
    torch.testing.assert_close(ours.tokens, tokens, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.pooled, pooled, rtol=1e-5, atol=1e-5)
    assert torch.equal(encoder.text_ids(3), ids.expand(3, -1, -1))
    assert (ours.tokens[0] - ours.tokens[1]).abs().max() > 0.1  # random weights tell captions apart
    assert (ours.pooled[0] - ours.pooled[1]).abs().max() > 0.1


def test_a_caption_is_encoded_alike_alone_and_among_many(flux_directory):
    encoder = FluxTextEncoder.from_directory(flux_directory("schnell"), 16)
    captions = [f"a {word} square" for word in "red green blue white top left right bottom on".split()]
    calls = []
    encoder.t5.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    encoder.clip.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    together = encoder(captions)
    for number in (0, len(captions) - 1):
        alone = encoder([captions[number]])
        assert torch.equal(together.tokens[number], alone.tokens[0])
        assert torch.equal(together.pooled[number], alone.pooled[0])
    assert set(calls) == {1}
    none = encoder([])
    assert none.tokens.shape == (0, 16, encoder.token_width)
    assert none.pooled.shape == (0, encoder.pooled_width)


def test_embeddings_come_in_the_dtype_asked_for(flux_directory):
    text = FluxTextEncoder.from_directory(flux_directory("schnell"), 8, torch.bfloat16)(["a circle"])
    assert text.tokens.dtype == text.pooled.dtype == torch.bfloat16


def _lose(path, *keys):
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    save_file({k: t for k, t in tensors.items() if k not in keys}, path, metadata={"format": "pt"})


def _quantise(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"bits": 8}}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda d: shutil.rmtree(d / "text_encoder_2"), "text_encoder_2/config.json: cannot be read"),
        (lambda d: (d / "text_encoder/config.json").write_text("{"), "text_encoder/config.json: is no JSON"),
        (
            lambda d: (d / "text_encoder/model.safetensors").unlink(),
            "text_encoder: cannot be read as CLIPTextM",
        ),
        (
            lambda d: (d / "text_encoder/model.safetensors").write_bytes(b"nothing of the kind"),
            "text_encoder: cannot be read as CLIPTextModel",
        ),
        (
            lambda d: (d / "text_encoder/model.safetensors").rename(d / "text_encoder/pytorch_model.bin"),
            "pytorch_model.bin is a pickle, which can run code",
        ),
        (
            lambda d: _lose(
                d / "text_encoder_2/model.safetensors", "encoder.block.0.layer.0.SelfAttention.q.weight"
            ),
            r"text_encoder_2: the weights lack encoder.block.0.layer.0.SelfAttention.q.weight \(1 in all\)",
        ),
        (lambda d: _quantise(d / "text_encoder_2/config.json"), "these weights are quantised"),
        (lambda d: shutil.rmtree(d / "tokenizer_2"), "tokenizer_2: there is no such folder"),
        (
            lambda d: (d / "tokenizer/tokenizer.json").write_text("{"),
            "tokenizer: cannot be read as a tokenizer",
        ),
    ],
)
def test_a_damaged_part_is_refused_by_its_name(flux_directory, tmp_path, damage, named):
    directory = shutil.copytree(flux_directory("schnell"), tmp_path / "damaged")
    damage(directory)
    with pytest.raises(InputError, match=named):
        FluxTextEncoder.from_directory(directory, 8)
