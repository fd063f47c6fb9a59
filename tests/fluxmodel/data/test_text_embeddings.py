"""Cached text embeddings: what comes back is the encoder's answer in bf16, bit for bit."""

import pytest
import torch

from fluxmodel.data.cache_quota import holdings
from fluxmodel.data.text_embeddings import CachedTextEncoder, _packed, _unpacked, flux_text_recipe
from fluxmodel.encoders.flux_text import FluxTextEncoder
from fluxmodel.encoders.text import EncodedText, WordEncoder, WordEncoderConfig
from fluxmodel.errors import InputError

CAPTIONS = ["a red circle", "", "a blue square on top " * 30, "\ud800 half a character", "a red circle"]


def equal_bits(one, other):
    return torch.equal(one.contiguous().view(torch.int16), other.contiguous().view(torch.int16))


def refuse():
    raise AssertionError("the encoder was not to be loaded")


def test_the_embedded_encoder_comes_back_bit_for_bit_and_its_padding_takes_no_room(tmp_path):
    encoder = WordEncoder(WordEncoderConfig(max_tokens=64))
    expected = encoder(CAPTIONS)
    for load, num_encoded in ((lambda: encoder, 4), (refuse, 0)):
        cached = CachedTextEncoder(load, {"encoder": "words"}, tmp_path, 64)
        found = cached(CAPTIONS)
        cached.close()
        assert cached.num_encoded == num_encoded
        for ours, theirs in zip(found, expected, strict=True):
            assert equal_bits(ours, theirs.bfloat16())
    padded = 4 * 64 * 64 * 2
    (held,) = holdings(tmp_path)
    assert held.num_bytes < padded / 2
    assert cached.text_ids(2).shape == (2, 64, 3)


def test_flux_encoders_come_back_bit_for_bit_padding_and_all(flux_directory, tmp_path):
    directory = flux_directory("schnell")
    encoder = FluxTextEncoder.from_directory(directory, 32)
    captions = CAPTIONS[:3]
    expected = encoder(captions)
    assert len(expected.tokens[0, 10:].unique(dim=0)) > 1, (
        "T5's padding rows differ: they may not be left out"
    )
    recipe = flux_text_recipe(directory, 32, torch.float32)
    for load in (lambda: encoder, refuse):
        cached = CachedTextEncoder(load, recipe, tmp_path, 32)
        found = cached(captions)
        cached.close()
        assert found.tokens.dtype == found.pooled.dtype == torch.bfloat16
        assert equal_bits(found.tokens, expected.tokens.bfloat16())
        assert equal_bits(found.pooled, expected.pooled.bfloat16())


def test_other_weights_or_another_length_are_another_recipe(flux_directory, tmp_path):
    import shutil

    directory = shutil.copytree(flux_directory("schnell"), tmp_path / "flux")
    first = flux_text_recipe(directory, 32, torch.float32)
    assert flux_text_recipe(directory, 32, torch.float32) == first
    assert flux_text_recipe(directory, 64, torch.float32) != first
    assert flux_text_recipe(directory, 32, torch.bfloat16) != first
    assert flux_text_recipe(directory, 32, torch.float32, "cuda:0") != first
    (weights,) = (directory / "text_encoder_2").glob("*.safetensors")
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    assert flux_text_recipe(directory, 32, torch.float32)["encoders"] != first["encoders"]
    with pytest.raises(InputError, match="no text encoders"):
        flux_text_recipe(tmp_path, 32, torch.float32)


@pytest.mark.parametrize("num_equal", [0, 1, 2, 5, 6])
@pytest.mark.parametrize("last", [0.0, -0.0, 3.5, float("nan")])
def test_any_equal_rows_at_the_end_are_restored(num_equal, last):
    tokens = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    tokens[6 - num_equal :] = last
    pooled = torch.randn(3).bfloat16()
    found = _unpacked(_packed(tokens, pooled))
    assert all(map(equal_bits, found, EncodedText(tokens, pooled)))
    assert len(_packed(tokens, pooled)) == 16 + 2 * (3 + 4 * (6 - max(num_equal - 1, 0)))
