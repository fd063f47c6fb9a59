"""The caption mix: the weights are met, and a choice depends on (seed, id, epoch) alone."""

from itertools import pairwise

import pytest
import torch

from fluxmodel.data.caption_mix import DEFAULT_WEIGHTS, CaptionMix
from fluxmodel.errors import InputError

ALL = {"detailed": "d", "short": "s", "alt": "a"}
EPOCHS = 40_000


def chosen(captions, ids, epochs=EPOCHS, seed=0, weights=DEFAULT_WEIGHTS):
    table = CaptionMix(weights).table(captions, ids, seed)
    samples = torch.arange(len(ids)).repeat_interleave(epochs)
    numbers = table.choose(samples, torch.arange(epochs).repeat(len(ids)))
    return [[table.texts[i] for i in row] for row in numbers.reshape(len(ids), epochs).tolist()]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (ALL, {"d": 0.475, "s": 0.475, "a": 0.05}),
        ({"detailed": "d", "given": "g"}, {"d": 0.95, "g": 0.05}),
        ({"detailed": "d", "alt": "a"}, {"d": 0.95, "a": 0.05}),
        ({"given": "g"}, {"g": 1.0}),
        ({"alt": "a"}, {"a": 1.0}),
        ({"detailed": "d", "short": "s"}, {"d": 0.5, "s": 0.5}),
    ],
)
def test_frequencies_over_epochs_are_the_weights(own, expected):
    (texts,) = chosen([own], ["x"])
    assert set(texts) <= set(expected)
    for text, share in expected.items():
        deviation = (share * (1 - share) / EPOCHS) ** 0.5
        assert texts.count(text) / EPOCHS == pytest.approx(share, abs=4.5 * deviation)


def test_frequencies_over_samples_are_the_weights_too():
    ids = [f"{i:09d}" for i in range(20_000)]
    texts = [row[0] for row in chosen([ALL] * len(ids), ids, epochs=1)]
    assert texts.count("a") / len(ids) == pytest.approx(0.05, abs=4.5 * (0.05 * 0.95 / len(ids)) ** 0.5)


def test_the_same_sample_in_the_same_epoch_has_the_same_caption_in_any_batch_and_order():
    ids = [f"image {i}" for i in range(50)]
    table = CaptionMix(DEFAULT_WEIGHTS).table([ALL] * 50, ids)
    samples, epochs = torch.arange(50), torch.full((50,), 7)
    whole = table.choose(samples, epochs)
    assert torch.equal(table.choose(samples.flip(0), epochs), whole.flip(0))
    assert torch.equal(table.choose(samples[3:4], epochs[3:4]), whole[3:4])
    again = CaptionMix(DEFAULT_WEIGHTS).table([ALL] * 20, ids[30:])  # other neighbours, other places
    assert torch.equal(again.choose(torch.arange(20), epochs[:20]), whole[30:])


def test_epochs_ids_and_seeds_choose_anew():
    first, second = chosen([ALL, ALL], ["x", "y"], epochs=200)
    assert len(set(first)) == 3
    assert first != second
    assert chosen([ALL], ["x"], epochs=200, seed=1)[0] != first
    agreeing = sum(a == b for a, b in pairwise(first)) / 199
    assert agreeing == pytest.approx(2 * 0.475**2, abs=0.16)  # neighbouring epochs are independent


def test_number_zero_is_the_empty_caption():
    assert CaptionMix(DEFAULT_WEIGHTS).table([ALL], ["x"]).texts[0] == ""


@pytest.mark.parametrize(
    ("weights", "captions", "said"),
    [
        ({"detailed": 1.0}, [{"given": "g"}], r"their kinds are given"),
        ({}, [{"given": "g"}], r"names nothing"),
        (
            {"detailed": 1.0},
            [{"detailed": "d"}, {"alt": "a"}],
            r"1 images have no caption of the kinds detailed",
        ),
    ],
)
def test_samples_without_a_caption_are_refused(weights, captions, said):
    with pytest.raises(InputError, match=said):
        CaptionMix(weights).table(captions, [str(i) for i in range(len(captions))])
