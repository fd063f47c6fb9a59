"""The captioner: ours and a hub model's directory take one path; scores are the tokens' log-probabilities."""

import json

import pytest
import torch

from fluxmodel.encoders.captioner import PROMPT, Captioner, CaptionerConfig
from fluxmodel.encoders.tokens import build_tokenizer
from fluxmodel.errors import InputError

IMAGES = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
CAPTIONS = ["a red circle", "a blue bar on white", "describe the image in one sentence user"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


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
    """A directory as a hub has them: LLaVA with a CLIP tower, a Llama and a chat template, random and tiny."""
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = build_tokenizer(CAPTIONS, 64)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.padding_side = "left"
    vision = CLIPVisionConfig(
        image_size=16,
        patch_size=8,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=image_token)
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    directory = tmp_path_factory.mktemp("llava")
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
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
    assert all(w.score < 0 and w.num_tokens > 0 and "<" not in w.text for w in written)
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
