"""Random tiny models that score images, as transformers directories: a CLIP and image classifiers."""

from pathlib import Path
from typing import Literal

import torch

from fluxmodel.encoders.dual_encoder import DualEncoder, DualEncoderConfig
from fluxmodel.encoders.tokens import build_tokenizer


def save_clip(directory: Path) -> Path:
    """Write an untrained CLIP that knows the words `picture` and the digits."""
    config = DualEncoderConfig(
        image_size=16, patch_size=8, image_width=16, text_width=16, image_layers=1, text_layers=1,
        num_heads=2, projection_dim=8, max_tokens=8,
    )  # fmt: skip
    torch.manual_seed(0)
    directory.mkdir(parents=True)
    words = ["a picture of number " + " ".join(str(n) for n in range(40))]
    DualEncoder.create(config, build_tokenizer(words, config.max_tokens)).save(directory)
    return directory


def save_classifier(
    directory: Path,
    labels: tuple[str, ...],
    seed: int = 0,
    problem: Literal["multi_label_classification"] | None = None,
) -> Path:
    """Write an untrained vision transformer with these labels, and its image processor."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    torch.manual_seed(seed)
    config = ViTConfig(
        image_size=16, patch_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)},
        problem_type=problem, initializer_range=1.0,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(directory)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(directory)
    return directory
