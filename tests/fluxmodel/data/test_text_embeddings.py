"""Cached text embeddings: what comes back is the encoder's answer, bit for bit."""

import hashlib
import os
import shutil

import pytest
import torch

from fluxmodel.data import file_digests
from fluxmodel.data.cache_quota import holdings
from fluxmodel.data.file_digests import kept_digests
from fluxmodel.data.text_embeddings import CachedTextEncoder, _packed, _unpacked, flux_text_recipe
from fluxmodel.encoders.flux_text import FluxTextEncoder
from fluxmodel.encoders.text import EncodedText, WordEncoder, WordEncoderConfig
from fluxmodel.errors import InputError
from fluxmodel.text_to_image import TextToImage

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


@pytest.fixture
def counted(monkeypatch):
    """What was asked of FLUX.1's text encoders: how often they were read, and the captions they encoded."""
    asked = {"read": 0, "captions": []}
    forward, read = FluxTextEncoder.forward, FluxTextEncoder.from_directory.__func__

    def counting_forward(self, captions):
        asked["captions"] += captions
        return forward(self, captions)

    def counting_read(kind, *arguments):
        asked["read"] += 1
        return read(kind, *arguments)

    monkeypatch.setattr(FluxTextEncoder, "forward", counting_forward)
    monkeypatch.setattr(FluxTextEncoder, "from_directory", classmethod(counting_read))
    return asked


def drawn(directory, prompts, cache, asked, **how):
    """The pictures of a model that was just read, and what that took of its text encoders."""
    asked.update(read=0, captions=[])
    pipe = TextToImage.from_pretrained(directory, cache=cache, **how)
    images = pipe(prompts, num_steps=1, height=16, width=16)
    return [image.tobytes() for image in images], asked["read"], asked["captions"]


@pytest.mark.filterwarnings("ignore")  # diffusers and transformers deprecate themselves
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flux_draws_the_same_from_kept_embeddings_without_its_text_encoders(
    flux_directory, tmp_path, counted, dtype
):
    directory, cache = flux_directory("schnell"), tmp_path / "cache"
    prompts = ["a red circle", "a blue square"]
    plain, num_read, captions = drawn(directory, prompts, None, counted, dtype=dtype)
    assert (num_read, captions) == (1, prompts)
    assert drawn(directory, prompts, cache, counted, dtype=dtype) == (plain, 1, prompts)
    assert drawn(directory, prompts, cache, counted, dtype=dtype) == (plain, 0, [])
    changed = [prompts[0], "a green square"]
    images, num_read, captions = drawn(directory, changed, cache, counted, dtype=dtype)
    assert (num_read, captions) == (1, ["a green square"]), "exactly the changed caption is encoded"
    assert images[0] == plain[0]
    assert images == drawn(directory, changed, None, counted, dtype=dtype)[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", ["text_encoder_2/model.safetensors", "tokenizer/tokenizer.json"])
def test_other_weights_or_another_tokenizer_encode_all_again(flux_directory, tmp_path, counted, part):
    directory = shutil.copytree(flux_directory("schnell"), tmp_path / "flux")
    prompts = ["a red circle", "a blue square"]
    drawn(directory, prompts, tmp_path / "cache", counted)
    path = directory / part
    content = path.read_bytes()
    if path.suffix == ".json":
        content += b"\n"
    else:
        content = content[:-1] + bytes([content[-1] ^ 1])
    path.write_bytes(content)
    assert drawn(directory, prompts, tmp_path / "cache", counted)[2] == prompts


def test_a_file_is_read_for_its_digest_once_and_again_when_it_changes(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    monkeypatch.setattr(file_digests, "_RACY_NS", 0)
    expected = [hashlib.sha256(b"one").hexdigest()]
    assert kept_digests([path], tmp_path / "cache") == expected
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", lambda *_: refuse())
        assert kept_digests([path], tmp_path / "cache") == expected
    before = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a copy that keeps times would leave it
    assert kept_digests([path], tmp_path / "cache") == [hashlib.sha256(b"two").hexdigest()]


def test_a_file_written_just_now_is_read_again(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    kept_digests([path], tmp_path / "cache")
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: refuse())
    with pytest.raises(AssertionError, match="not to be loaded"):
        kept_digests([path], tmp_path / "cache")


@pytest.mark.parametrize("num_equal", [0, 1, 2, 5, 6])
@pytest.mark.parametrize("last", [0.0, -0.0, 3.5, float("nan")])
def test_any_equal_rows_at_the_end_are_restored(num_equal, last):
    tokens = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    tokens[6 - num_equal :] = last
    pooled = torch.randn(3).bfloat16()
    found = _unpacked(_packed(tokens, pooled), torch.bfloat16)
    assert all(map(equal_bits, found, EncodedText(tokens, pooled)))
    assert len(_packed(tokens, pooled)) == 16 + 2 * (3 + 4 * (6 - max(num_equal - 1, 0)))
