"""Random tiny captioners as transformers directories: ours, BLIP and LLaVA."""

from pathlib import Path

import torch

from fluxmodel.encoders.captioner import Captioner, CaptionerConfig
from fluxmodel.encoders.tokens import build_tokenizer

CAPTIONS = ["a red circle", "a blue bar on white", "describe the image in one sentence user"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


def save_ours(directory: Path) -> None:
    """Write the captioner that is trained here, untrained."""
    config = CaptionerConfig(
        image_size=16, patch_size=8, width=16, image_layers=1, text_layers=1, num_heads=2, max_tokens=8
    )
    torch.manual_seed(0)
    Captioner.create(config, build_tokenizer(CAPTIONS, config.max_tokens)).save(directory)


def save_blip(directory: Path) -> None:
    """Write a BLIP as a hub has them: its own shape, a BERT tokenizer over word pieces."""
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessorPil,
        BlipProcessor,
    )

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[DEC]",
        "a",
        "red",
        "blue",
        "circle",
        "##s",
        "on",
        "white",
    ]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    vision = {
        "image_size": 24,
        "patch_size": 8,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
    }
    text = {
        "vocab_size": len(words), "hidden_size": 16, "encoder_hidden_size": 24, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "bos_token_id": 5, "eos_token_id": 2, "sep_token_id": 3,
        "pad_token_id": 0, "max_position_embeddings": 32, "is_decoder": True,
    }  # fmt: skip
    torch.manual_seed(1)
    config = BlipConfig(
        vision_config={**vision, "num_attention_heads": 2},
        text_config=text,
        projection_dim=16,
        initializer_range=1.0,
    )
    BlipForConditionalGeneration(config).save_pretrained(directory)
    image_processor = BlipImageProcessorPil(size={"height": 24, "width": 24})
    BlipProcessor(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(directory)


def save_llava(directory: Path) -> None:
    """Write a directory as a hub has them: LLaVA with a CLIP tower, a Llama and a chat template, random and tiny."""
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
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
