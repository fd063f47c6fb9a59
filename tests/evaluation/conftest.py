"""A model whose faults are known: it renders its prompt, and errs more the fewer steps it is given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fluxmodel.data.procedural import LEVELS, Scene, SceneObject, parse_caption, render


class DrawingPipe:
    """Stands in for TextToImage: renders prompts, each object in a wrong colour at a rate of 1 / (4 steps)."""

    def __init__(self, level: str):
        self.level = LEVELS[level]
        self.autoencoder = IdentityAutoencoder()
        self.num_images = 0

    def sample(self, prompts, *, num_steps, guidance, seeds, batch_size=256):
        self.num_images += len(prompts)
        rate = 1 / (4 * num_steps) if guidance > 1 else 1 / (2 * num_steps)
        scenes = [self._scene(prompt, seed, rate) for prompt, seed in zip(prompts, seeds, strict=True)]
        return torch.from_numpy(render(scenes)).permute(0, 3, 1, 2).contiguous()

    def _scene(self, prompt: str, seed: int, rate: float) -> Scene:
        rng = np.random.default_rng(seed)
        said = parse_caption(prompt, self.level)
        objects = []
        for item in said.objects:
            color = item.color
            if rng.random() < rate:
                color = self.level.colors[(self.level.colors.index(color) + 1) % len(self.level.colors)]
            dx, dy = rng.uniform(-self.level.jitter, self.level.jitter, 2)
            size = item.size or self.level.sizes[0]
            objects.append(SceneObject(item.shape, color, size, item.row, item.col, dx, dy))
        return Scene(self.level.name, said.background or "white", tuple(objects))


class IdentityAutoencoder:
    def encode(self, images):
        return images

    def decode(self, latents):
        return latents


@pytest.fixture(scope="session")
def drawing_pipe():
    return DrawingPipe


def save_dual_encoder(directory: Path, captions: list[str], retrieval: float, image_size: int = 32) -> Path:
    from fluxmodel.encoders.dual_encoder import DualEncoder, DualEncoderConfig
    from fluxmodel.encoders.tokens import build_tokenizer

    config = DualEncoderConfig(
        image_size=image_size, image_width=32, text_width=32, image_layers=1, text_layers=1, projection_dim=16
    )
    torch.manual_seed(0)
    directory.mkdir(parents=True)
    DualEncoder.create(config, build_tokenizer(captions, config.max_tokens)).save(directory)
    card = {"kind": "dual_encoder", "data": "", "level": None, "metrics": {"retrieval_at_32": retrieval}}
    (directory / "card.json").write_text(json.dumps(card))
    return directory


@pytest.fixture(scope="session")
def evaluators(tmp_path_factory):
    """Untrained evaluators for level demo; the dual encoder claims to retrieve well."""
    from fluxmodel.encoders.detector import SceneDetector, SceneDetectorConfig

    level = LEVELS["demo"]
    root = tmp_path_factory.mktemp("evaluators")
    words = [" ".join((*level.colors, *level.shapes, *level.backgrounds, "a and on top bottom left right"))]
    torch.manual_seed(0)
    config = SceneDetectorConfig(
        grid=level.grid,
        shapes=level.shapes,
        colors=level.colors,
        sizes=level.sizes,
        backgrounds=level.backgrounds,
        width=16,
        num_blocks=1,
        cell_features=8,
    )
    (root / "detector").mkdir()
    SceneDetector(config).save(root / "detector")
    (root / "detector" / "card.json").write_text(json.dumps({"kind": "detector", "metrics": {}}))
    return {
        "detector": root / "detector",
        "dual_encoder": save_dual_encoder(root / "dual_encoder", words, 0.95),
    }


@pytest.fixture(scope="session")
def scenes_dataset(tmp_path_factory):
    from fluxmodel.data.curation import curate
    from fluxmodel.data.curation_rules import CurationRules

    directory = tmp_path_factory.mktemp("scenes")
    curate("procedural:shapes?level=demo&n=40&seed=0", CurationRules(near_duplicate_distance=None), directory)
    return directory


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory):
    """Only its digest is asked for where a pipe is given."""
    directory = tmp_path_factory.mktemp("model")
    (directory / "model_index.json").write_text("{}")
    return directory
