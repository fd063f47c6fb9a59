import numpy as np
import pytest
import torch

from evaluation.caption_retrieval import CaptionChoice, chance, draw_others


class NumberEncoder:
    """Captions are numbers, and an image's first pixel is one: embeddings are one-hot."""

    def __init__(self, blind=False):
        self.blind = blind

    def image_embeddings(self, images):
        number = ((images[:, 0, 0, 0] + 1) * 127.5).round().long()
        return (
            torch.zeros(len(images), 256) if self.blind else torch.nn.functional.one_hot(number, 256).float()
        )

    def text_embeddings(self, captions):
        return torch.nn.functional.one_hot(torch.tensor([int(each) for each in captions]), 256).float()


def images_of(numbers):
    images = torch.zeros(len(numbers), 3, 4, 4, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor(numbers, dtype=torch.uint8)
    return images


def test_an_encoder_that_knows_finds_every_caption():
    numbers = list(range(100)) * 2
    choice = CaptionChoice(NumberEncoder(), [str(n) for n in numbers])
    assert choice.hits(images_of(numbers)).all()
    assert not choice.hits(images_of([n + 1 for n in numbers])).any()


def test_a_tie_is_not_found():
    assert not CaptionChoice(NumberEncoder(blind=True), ["1", "2", "3"]).hits(images_of([1, 2, 3])).any()


def test_random_images_find_their_caption_as_often_as_chance():
    class Guess(NumberEncoder):
        def image_embeddings(self, images):
            return torch.randn(len(images), 256, generator=torch.Generator().manual_seed(0))

    numbers = list(range(256)) * 8
    hits = CaptionChoice(Guess(), [str(n) for n in numbers]).hits(images_of(numbers))
    assert hits.mean() == pytest.approx(1 / 32, abs=0.012)


def test_the_other_captions_are_different_and_never_the_own():
    own = np.arange(50)
    others = draw_others(own, 50, 31, 0)
    assert others.shape == (50, 31)
    assert not (others == own[:, None]).any()
    assert all(len(set(row)) == 31 for row in others.tolist())


def test_chance_follows_the_number_of_different_captions():
    assert chance([str(i) for i in range(100)], 32) == 1 / 32
    assert chance(["a", "b", "a"], 32) == 1 / 2


def test_one_caption_leaves_no_choice():
    assert len(CaptionChoice(NumberEncoder(), ["1", "1"]).hits(images_of([1, 1]))) == 0
