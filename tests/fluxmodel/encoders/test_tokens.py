"""The word-level tokenizer and its transformers directory."""

import warnings

import pytest

from fluxmodel.encoders.tokens import SPECIAL, build_tokenizer

CAPTIONS = ["a red circle top left", "a blue bar", "A red bar!"]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(CAPTIONS, max_tokens=8)


def test_special_tokens_come_first_then_words_by_frequency_and_alphabet(tokenizer):
    vocabulary = tokenizer.get_vocab()
    ranked = sorted(vocabulary, key=vocabulary.__getitem__)
    assert ranked == [*SPECIAL, "a", "bar", "red", "blue", "circle", "left", "top"]


def test_a_caption_stands_between_start_and_end(tokenizer):
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("A RED, circle-top").input_ids)
    assert tokens == ["<start>", "a", "red", "circle", "top", "<end>"]


def test_an_unknown_word_is_marked(tokenizer):
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("a mauve bar").input_ids)
    assert tokens == ["<start>", "a", "<unk>", "bar", "<end>"]


def test_long_captions_keep_their_end(tokenizer):
    ids = tokenizer("a " * 30, truncation=True, max_length=8).input_ids
    assert len(ids) == 8
    assert tokenizer.convert_ids_to_tokens(ids)[-1] == "<end>"


def test_rare_words_are_left_out_of_a_small_vocabulary():
    assert len(build_tokenizer(CAPTIONS, 8, max_words=2)) == len(SPECIAL) + 2


def test_a_saved_tokenizer_reads_alike(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own deprecations
        again = AutoTokenizer.from_pretrained(str(tmp_path), local_files_only=True)
    text = "a red mauve bar"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.pad_token_id == tokenizer.pad_token_id == 0
