"""The dual encoder as a CLIP directory: embeddings of length 1, its loss, its retrieval."""

import math
import warnings

import pytest
import torch

from fluxmodel.encoders.dual_encoder import DualEncoder, DualEncoderConfig
from fluxmodel.encoders.tokens import build_tokenizer
from fluxmodel.errors import InputError
from fluxmodel.training.objectives.dual_encoder import retrieval

CAPTIONS = ["a red circle", "a blue bar", "two dogs"]
IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def encoder():
    config = DualEncoderConfig(
        image_size=16,
        patch_size=4,
        image_width=16,
        text_width=16,
        image_layers=1,
        text_layers=1,
        num_heads=2,
        projection_dim=8,
        max_tokens=6,
    )
    torch.manual_seed(0)
    return DualEncoder.create(config, build_tokenizer(CAPTIONS, config.max_tokens)).eval()


@torch.no_grad()
def test_embeddings_have_length_one_in_one_space(encoder):
    image, text = encoder.image_embeddings(IMAGES), encoder.text_embeddings(CAPTIONS)
    assert image.shape == text.shape == (3, encoder.num_features)
    for rows in (image, text):
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(3))


@torch.no_grad()
def test_a_caption_is_embedded_alike_alone_and_in_a_batch(encoder):
    torch.testing.assert_close(encoder.text_embeddings(CAPTIONS)[1:2], encoder.text_embeddings(CAPTIONS[1:2]))
    assert not torch.allclose(*encoder.text_embeddings(CAPTIONS[:2]))


@torch.no_grad()
def test_the_order_of_words_counts(encoder):
    first, second = encoder.text_embeddings(["red blue", "blue red"])
    assert not torch.allclose(first, second)


@torch.no_grad()
def test_images_of_another_size_are_resized(encoder):
    assert encoder.image_embeddings(torch.zeros(1, 3, 40, 24)).shape == (1, 8)


@torch.no_grad()
def test_the_directory_is_a_clip_model_of_transformers(encoder, tmp_path):
    from transformers import CLIPModel

    encoder.save(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own deprecations
        again = DualEncoder.from_directory(tmp_path)
        plain = CLIPModel.from_pretrained(str(tmp_path), local_files_only=True).eval()
    torch.testing.assert_close(again.image_embeddings(IMAGES), encoder.image_embeddings(IMAGES))
    torch.testing.assert_close(again.text_embeddings(CAPTIONS), encoder.text_embeddings(CAPTIONS))
    scores = plain(pixel_values=IMAGES, **encoder.tokenize(CAPTIONS)).logits_per_image
    expected = encoder.image_embeddings(IMAGES) @ encoder.text_embeddings(CAPTIONS).T
    torch.testing.assert_close(scores / plain.logit_scale.exp(), expected, rtol=1e-4, atol=1e-5)


def test_no_clip_directory_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json there"):
        DualEncoder.from_directory(tmp_path)


@torch.no_grad()
def test_the_loss_of_indifferent_embeddings_is_the_log_of_the_batch(encoder):
    same = torch.nn.functional.normalize(torch.ones(16, 8), dim=-1)
    assert encoder.contrastive_loss(same, same).item() == pytest.approx(math.log(16), rel=1e-5)
    apart = torch.eye(8)
    assert encoder.contrastive_loss(apart, apart) < encoder.contrastive_loss(apart, apart.roll(1, 0))


def test_retrieval_of_random_embeddings_is_at_chance():
    image, text = torch.randn(2, 32 * 200, 16, generator=torch.Generator().manual_seed(0)).unbind(0)
    chance, num = 1 / 32, 32 * 200
    assert retrieval(image, text) == pytest.approx(chance, abs=4 * (chance / num) ** 0.5)


def test_retrieval_of_equal_embeddings_is_perfect_and_of_shifted_ones_nil():
    rows = torch.nn.functional.normalize(
        torch.randn(70, 16, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    assert retrieval(rows, rows) == 1
    assert retrieval(rows, rows.roll(1, 0)) < 0.1
    assert retrieval(rows[:5], rows[:5]) == 1  # fewer than 32: all of them are candidates
