import json

import pytest
import torch
from torchmetrics.multimodal.clip_score import CLIPScore

from evaluation.clip_score import DualEncoderCLIPScore, admission, clip_scores
from evaluation.features import unit_range
from fluxmodel.encoders.dual_encoder import DualEncoder

CAPTIONS = [
    "a red circle top left",
    "a blue cross bottom right on white",
    "a green bar top right on beige",
] * 4


@pytest.fixture(scope="module")
def encoder(evaluators):
    return DualEncoder.from_directory(evaluators["dual_encoder"])


@pytest.fixture(scope="module")
def images():
    return torch.randint(
        0, 256, (12, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )


def test_each_image_scores_as_in_the_slow_form(encoder, images):
    scores, embeddings = clip_scores(encoder, images, CAPTIONS, batch_size=5)
    with torch.no_grad():
        for row in range(12):
            image = encoder.image_embeddings(unit_range(images[row : row + 1]))[0]
            text = encoder.text_embeddings([CAPTIONS[row]])[0]
            torch.testing.assert_close(embeddings[row], image, atol=1e-5, rtol=0)
            assert float(scores[row]) == pytest.approx(100 * float(image @ text), abs=1e-3)


def test_the_mean_is_torchmetrics_own(encoder, images):
    ours = DualEncoderCLIPScore(encoder)
    theirs = CLIPScore(lambda: (ours.model, ours.processor))
    ours.update(images, CAPTIONS)
    theirs.update(images, CAPTIONS)
    assert float(ours.compute()) == pytest.approx(float(theirs.compute()), abs=1e-4)
    assert isinstance(ours, CLIPScore)


def test_parts_merge_into_the_whole(encoder, images):
    whole, first, second = (DualEncoderCLIPScore(encoder) for _ in range(3))
    whole.update(images, CAPTIONS)
    first.update(images[:5], CAPTIONS[:5])
    second.update(images[5:], CAPTIONS[5:])
    first.merge_state(second)
    assert float(first.compute()) == pytest.approx(float(whole.compute()), abs=1e-4)
    assert len(first.per_image()) == 12


def test_long_captions_keep_their_end(encoder, images):
    long = "a red circle top left and a blue cross bottom right and a green bar top right on white on black"
    metric = DualEncoderCLIPScore(encoder)
    tokens = metric.processor(text=[long])["input_ids"]
    assert tokens.shape[1] == encoder.model.config.text_config.max_position_embeddings
    assert int(tokens[0, -1]) == encoder.tokenizer.eos_token_id


def test_images_of_another_size_are_brought_to_the_towers(encoder):
    large = torch.randint(
        0, 256, (2, 3, 48, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    scores, _ = clip_scores(encoder, large, CAPTIONS[:2])
    with torch.no_grad():
        expected = (encoder.image_embeddings(unit_range(large)) * encoder.text_embeddings(CAPTIONS[:2])).sum(
            1
        )
    torch.testing.assert_close(scores, 100 * expected, atol=1e-3, rtol=1e-3)


def test_a_caption_too_few_is_refused(encoder, images):
    with pytest.raises(ValueError, match="12 images and 11 captions"):
        DualEncoderCLIPScore(encoder).update(images, CAPTIONS[:11])


@pytest.mark.parametrize(
    ("card", "admitted", "reason"),
    [
        ({"metrics": {"retrieval_at_32": 0.95}}, True, "95.0%"),
        ({"metrics": {"retrieval_at_32": 0.9}}, True, "90.0%"),
        ({"metrics": {"retrieval_at_32": 0.72}}, False, "below the 90%"),
        ({"metrics": {}}, False, "does not say"),
        (None, False, "missing"),
    ],
)
def test_only_an_encoder_that_tells_captions_apart_may_score(tmp_path, card, admitted, reason):
    if card is not None:
        (tmp_path / "card.json").write_text(json.dumps(card))
    found = admission(tmp_path)
    assert found.admitted is admitted
    assert reason in found.reason


MEAN, DEVIATION = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


@pytest.fixture
def published(tmp_path, encoder):
    """A CLIP directory as it is published: no card of ours, its own pixel statistics."""
    encoder.save(tmp_path)
    said = {"image_mean": MEAN, "image_std": DEVIATION, "size": {"shortest_edge": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    return tmp_path


def test_a_published_clip_sees_pixels_as_it_was_trained_to(published, images):
    from transformers import CLIPModel

    encoder = DualEncoder.from_directory(published)
    scores, embeddings = clip_scores(encoder, images, CAPTIONS)
    model = CLIPModel.from_pretrained(published).eval()
    mean, deviation = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, DEVIATION))
    tokens = encoder.tokenize(CAPTIONS)
    with torch.no_grad():
        out = model(pixel_values=(images.float() / 255 - mean) / deviation, **tokens)
    torch.testing.assert_close(embeddings, out.image_embeds, atol=1e-5, rtol=0)
    cosine = out.logits_per_image.diagonal() / model.logit_scale.exp()
    torch.testing.assert_close(scores, 100 * cosine.detach(), atol=1e-3, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(
            encoder.image_embeddings(unit_range(images)), embeddings, atol=1e-5, rtol=0
        )


def test_a_published_clip_is_admitted_without_a_card(published, tmp_path):
    assert admission(published).admitted
    assert "published" in admission(published).reason


@pytest.mark.parametrize("said", ["{}", "no json", '{"image_mean": [0.5], "image_std": [0.5]}'])
def test_pixel_statistics_that_say_nothing_are_refused(published, said):
    from fluxmodel.errors import InputError

    (published / "preprocessor_config.json").write_text(said)
    with pytest.raises(InputError, match=r"preprocessor_config.json: image_mean and image_std"):
        DualEncoder.from_directory(published)
