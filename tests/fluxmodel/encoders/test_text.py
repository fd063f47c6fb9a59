"""The embedded text encoder: fixed features of words, order made visible, nothing stored."""

import pytest
import torch

from fluxmodel.encoders.text import WordEncoder, WordEncoderConfig, words

FEATURES_OF_RED = [0.661643, -0.128514, -0.265359, 0.296836]


@pytest.fixture
def encoder():
    return WordEncoder(WordEncoderConfig(dim=32, max_tokens=6))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A red  Circle,top-left", ["a", "red", "circle", "top", "left"]),
        ("", []),
        ("  ...  ", []),
        ("8x8 pixels", ["8x8", "pixels"]),
    ],
)
def test_captions_are_cut_into_lower_case_words(text, expected):
    assert words(text) == expected


def test_a_caption_is_encoded_alike_alone_and_in_a_batch(encoder):
    together, alone = encoder(["red circle", "a blue bar"]), encoder(["a blue bar"])
    assert torch.equal(together.tokens[1], alone.tokens[0])
    assert torch.equal(together.pooled[1], alone.pooled[0])


def test_the_empty_caption_is_all_padding(encoder):
    empty = encoder(["", "red"])
    assert not empty.tokens[0].any()
    assert not empty.pooled[0].any()
    assert empty.tokens[1, 0].any()
    assert not empty.tokens[1, 1:].any()


def test_tokens_know_the_order_and_pooled_text_does_not(encoder):
    text = encoder(["red circle", "circle red"])
    assert not torch.equal(text.tokens[0], text.tokens[1])
    torch.testing.assert_close(text.pooled[0], text.pooled[1])


def test_the_same_word_at_another_place_differs_by_its_position_alone(encoder):
    config = WordEncoderConfig(dim=2000, position_std=0.5)
    text = WordEncoder(config)(["red red"]).tokens[0]
    assert (text[0] - text[1]).std().item() == pytest.approx(0.5 * 2**0.5, rel=0.05)
    assert text[0].std().item() == pytest.approx(1.25**0.5, rel=0.05)


def test_words_past_the_end_are_cut(encoder):
    long, cut = "one two three four five six seven", "one two three four five six"
    assert torch.equal(encoder([long]).tokens, encoder([cut]).tokens)


def test_different_words_have_nearly_orthogonal_features():
    encoder = WordEncoder(WordEncoderConfig(dim=1000))
    pooled = torch.nn.functional.normalize(encoder(["red", "blue", "circle", "left"]).pooled, dim=-1)
    assert ((pooled @ pooled.T) - torch.eye(4)).abs().max() < 0.15


def test_features_of_a_word_never_change():
    """Models in registries were trained on these numbers."""
    feature = WordEncoder(WordEncoderConfig(dim=4, position_std=0))(["red"]).tokens[0, 0]
    torch.testing.assert_close(feature, torch.tensor(FEATURES_OF_RED), rtol=0, atol=1e-6)


def test_text_stands_at_position_zero(encoder):
    ids = encoder.text_ids(2)
    assert ids.shape == (2, 6, 3)
    assert not ids.any()
