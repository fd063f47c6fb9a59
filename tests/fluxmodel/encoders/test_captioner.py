"""The captioner: ours and a hub model's directory take one path; scores are the tokens' log-probabilities."""

import json

import pytest
import torch

from fluxmodel.encoders.captioner import PROMPT, Captioner, CaptionerConfig
from fluxmodel.encoders.tokens import build_tokenizer
from fluxmodel.errors import InputError
from tests.fluxmodel.encoders.tiny_captioners import CAPTIONS, save_llava

IMAGES = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def ours():
    config = CaptionerConfig(
        image_size=16, patch_size=8, width=16, image_layers=1, text_layers=1, num_heads=2, max_tokens=8
    )
    torch.manual_seed(0)
    captioner = Captioner.create(config, build_tokenizer(CAPTIONS, config.max_tokens))
    captioner.model.eval()
    return captioner


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    directory = tmp_path_factory.mktemp("llava")
    save_llava(directory)
    return directory


def test_what_is_saved_captions_alike_through_the_auto_classes(ours, tmp_path):
    ours.save(tmp_path)
    again = Captioner.from_directory(tmp_path)
    assert again.caption(IMAGES) == ours.caption(IMAGES)
    assert again.text is None
    assert (again.name, again.max_tokens) == ("blip", 7)


def test_a_caption_does_not_depend_on_its_batch(ours):
    whole, parts = ours.caption(IMAGES), ours.caption(IMAGES, batch_size=2)
    assert [w.text for w in whole] == [p.text for p in parts]
    assert [w.score for w in whole] == pytest.approx([p.score for p in parts], abs=1e-5)


@torch.no_grad()
def test_the_score_is_the_mean_log_probability_of_the_tokens_and_the_end(ours):
    for image, written in zip(IMAGES, ours.caption(IMAGES), strict=True):
        tokens = ours.processor.tokenizer(written.text, return_tensors="pt")["input_ids"]
        if written.num_tokens == ours.max_tokens:  # cut short: no end was written
            tokens = tokens[:, :-1]
        logits = ours.model(pixel_values=ours.pixel_values(image[None]), input_ids=tokens[:, :-1]).logits
        logged = logits.log_softmax(-1).gather(2, tokens[:, 1:, None])
        if written.num_tokens == tokens.shape[1] - 1:  # no special token among the words
            assert written.score == pytest.approx(logged.mean().item(), abs=1e-4)


def test_a_hub_model_takes_the_same_path(llava):
    captioner = Captioner.from_directory(llava)
    assert captioner.name == "llava"
    assert captioner.text is not None
    assert "<image>" in captioner.text
    assert PROMPT in captioner.text
    written = captioner.caption(IMAGES, batch_size=2)
    assert len(written) == len(IMAGES)
    assert all((w.score or 0) < 0 and (w.num_tokens or 0) > 0 and "<" not in w.text for w in written)
    asked = Captioner.from_directory(llava, "a red circle")
    assert "a red circle" in (asked.text or "")
    assert asked.prompt_hash != captioner.prompt_hash


def test_a_directory_without_a_captioner_is_refused_by_name(ours, tmp_path):
    with pytest.raises(InputError, match=r"no config\.json there"):
        Captioner.from_directory(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="transformers finds no captioner there"):
        Captioner.from_directory(tmp_path)
    ours.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="transformers finds no captioner there"):
        Captioner.from_directory(tmp_path)


def test_a_text_model_is_no_captioner(ours, tmp_path):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    BertModel(config).save_pretrained(tmp_path)
    ours.processor.tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "bert"
    with pytest.raises(InputError, match="image-text-to-text"):
        Captioner.from_directory(tmp_path)


def test_a_model_that_brings_its_own_code_is_refused_and_the_code_never_runs(ours, tmp_path):
    ours.save(tmp_path)
    (tmp_path / "modeling_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config = json.loads((tmp_path / "config.json").read_text())
    own = {"AutoConfig": "modeling_evil.Config", "AutoModelForImageTextToText": "modeling_evil.Model"}
    known = config | {"auto_map": own}
    (tmp_path / "config.json").write_text(json.dumps(known | {"model_type": "evil"}))
    with pytest.raises(InputError, match="'evil' is code of its own, which is never run here"):
        Captioner.from_directory(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(known))  # transformers has the architecture itself
    assert Captioner.from_directory(tmp_path).caption(IMAGES) == ours.caption(IMAGES)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_refused(ours, tmp_path):
    ours.save(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle, which can run code"):
        Captioner.from_directory(tmp_path)
