"""What is wrong with a caption is seen, and what is right is left alone."""

import pytest

from fluxmodel.data.caption_flags import LOOP, REFUSAL, TokenCounts, is_loop, is_refusal, is_truncated
from fluxmodel.data.caption_rows import CaptionRow, trainable_captions
from fluxmodel.data.procedural import LEVELS, detailed_caption, draw_scene
from fluxmodel.encoders.captioner import Written
from fluxmodel.encoders.tokens import build_tokenizer
from fluxmodel.errors import InputError

GOOD = [
    "A sign on a door that says I'm sorry, we are closed.",
    "Sorry! board game box lying on a wooden table.",
    "A letter beginning with 'I cannot wait to see you'.",
    "An image of a dog catching a frisbee in the park.",
    "As the sun sets, a boat returns to the harbour.",
    "A very, very old man and a very small dog.",
    "Two cats, two dogs and two birds on two chairs.",
    "I ❤ NY printed on a T-shirt.",
    "Unfortunately placed traffic sign behind a tree.",
    "A row of no entry signs: no entry, no entry.",
    "I don't see any text in this image, which shows a brown dog.",
    "I cannot see any people; the street lies empty in the rain.",
    "We do not see the sky: the photo is taken under water.",
    "Title ---------- a poster with a ruled line",
    "A cheque over 10000000000000 dollars.",
    "........................ and then the word END.",
]


@pytest.mark.parametrize("text", GOOD)
def test_a_description_is_neither_refusal_nor_loop(text):
    assert not is_refusal(text)
    assert not is_loop(text)


def test_no_drawn_scene_is_a_loop():
    texts = [detailed_caption(draw_scene(level, 0, i)) for level in LEVELS.values() for i in range(300)]
    assert not [text for text in texts if is_loop(text) or is_refusal(text)]


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that request.",
        "I’m sorry, I cannot describe this image.",
        "I am very sorry, but this is not possible.",
        "Sorry, I can't help with identifying people.",
        "I cannot see any image.",
        "I don't see the attached picture.",
        "I can't see images.",
        "I can't identify people in photos.",
        "I can't provide a description.",
        "I'm unable to view images directly.",
        "I apologize, but the image seems to be blank.",
        "My apologies, there was an error.",
        "As an AI language model, I cannot see images.",
        "Unfortunately, I do not have access to the image.",
        "There is no image attached to your message.",
        "It seems you haven't attached an image.",
        '"I do not see a picture here."',
        "We're unable to process this file.",
    ],
)
def test_an_excuse_is_a_refusal(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "a cat cat cat cat",
        "A man on a horse and a man on a horse and a man on a horse and",
        "red, blue, red, blue, red, blue",
        "aaaaaaaaaaaaaaaaaaaaaaaa",
        "hahahahahahahahahahahaha",
        "的猫的猫的猫的猫的猫的猫的猫的猫的猫的猫的猫",
        " ".join(f"The dog is brown . It {verb} . The dog is brown and it sits there ." for verb in "abcdef"),
    ],
)
def test_what_repeats_itself_is_a_loop(text):
    assert is_loop(text)


def test_a_long_text_is_looked_at_in_no_time():
    assert is_loop("ab " * 10**6)
    assert not is_refusal(" " * 10**6)


@pytest.mark.parametrize(
    ("text", "finish", "cut"),
    [
        ("a red circle", "end", False),
        ("A cat on a", "length", True),
        ("A cat on a mat.", "unknown", False),
        ('A sign says "stop."', "unknown", False),
        ("A cat on a", "unknown", True),
        ("", "unknown", False),
    ],
)
def test_what_was_cut_off_is_seen_by_the_writers_word_else_by_its_last_character(text, finish, cut):
    assert is_truncated(Written(text, None, None, finish)) is cut


def test_lengths_are_counted_by_the_tokenizers_given_and_else_estimated_and_it_is_said(tmp_path):
    build_tokenizer(["a red circle"], 512).save_pretrained(tmp_path)
    counts = TokenCounts.of(clip=tmp_path)
    assert list(counts.flags("red " * 75)) == []  # 77 tokens with start and end
    assert list(counts.flags("red " * 76)) == ["long_for_clip"]
    assert list(counts.flags("red " * 600)) == ["long_for_clip", "long_for_t5"]
    told = counts.told()
    assert (told["clip"]["counted"], told["clip"]["over"], told["clip"]["longest"]) == (
        "by its tokenizer",
        2,
        602,
    )
    assert told["t5"]["counted"].startswith("estimated")
    with pytest.raises(InputError, match="no tokenizer can be read there"):
        TokenCounts.of(t5=tmp_path / "nothing")


@pytest.mark.parametrize("flag", [REFUSAL, LOOP])
def test_what_is_unfit_is_learned_from_only_where_there_is_nothing_else(flag):
    new = [CaptionRow(own, "train", "I'm sorry", "detailed", flags=(flag,)) for own in "ab"]
    old = CaptionRow("a", "train", "a dog", "given")
    assert trainable_captions([old, *new], ["a", "b"]) == [[old], [new[1]]]
