"""Training jobs that take a second, and the data they need."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from fluxmodel.data.procedural import LEVELS, detailed_caption, draw_scene, short_caption
from fluxmodel.randomness import keyed_generator
from fluxmodel.training_job import TrainingJob

SPEC = "procedural:shapes?level=demo&n=64&seed=0"
SETTINGS = {
    "autoencoder": {
        "model": {"latent_channels": 4, "width": 16, "num_blocks": 1},
        "objective": {"num_images": 32, "num_validation": 8},
    },
    "detector": {
        "model": {"width": 16, "num_blocks": 1, "cell_features": 12},
        "objective": {"num_images": 32, "num_validation": 8, "pixel_noise": 0.0},
    },
    "dual_encoder": {
        "model": {
            "patch_size": 8,
            "image_width": 32,
            "text_width": 32,
            "image_layers": 1,
            "text_layers": 1,
            "num_heads": 2,
            "projection_dim": 16,
        },
        "objective": {"num_images": 32, "num_validation": 32},
    },
    "captioner": {
        "model": {
            "image_size": 16,
            "width": 16,
            "image_layers": 1,
            "text_layers": 1,
            "num_heads": 2,
            "patch_size": 8,
        },
        "objective": {"num_images": 32, "num_validation": 8},
    },
    "flow": {
        "model": {
            "in_channels": 16,
            "out_channels": 16,
            "vec_in_dim": 16,
            "context_in_dim": 16,
            "hidden_size": 32,
            "num_heads": 2,
            "depth": 1,
            "depth_single_blocks": 1,
            "mlp_ratio": 2.0,
            "axes_dim": (4, 6, 6),
            "guidance_embed": False,
        },
        "objective": {"text": {"dim": 16}},
    },
}
KINDS = tuple(SETTINGS)


def write_encoded(directory: Path, num: int = 24) -> Path:
    """Write an encoded dataset whose latents are far from noise."""
    directory.mkdir(parents=True, exist_ok=True)
    scenes = [draw_scene(LEVELS["demo"], 0, i) for i in range(num)]
    base = torch.randn(1, 4, 4, 4, generator=keyed_generator(0))
    latents = base + 0.1 * torch.randn(num, 4, 4, 4, generator=keyed_generator(1))
    save_file({"latents": latents.half()}, str(directory / "latents.safetensors"))
    captions = [
        [
            {"text": detailed_caption(s), "kind": "detailed"},
            {"text": short_caption(s), "kind": "short"},
        ]
        for s in scenes
    ]
    (directory / "captions.json").write_text(json.dumps(captions))
    return directory


def tiny_job(kind: str, root: Path, **changes) -> TrainingJob:
    """Return a job of 12 steps writing to root/output; flow reads the encoded dataset at root/encoded."""
    data = str(write_encoded(root / "encoded")) if kind == "flow" else SPEC
    fields = {
        "kind": kind,
        "data": data,
        "output": str(root / "output"),
        "steps": 12,
        "batch_size": 8,
        "ema_decay": 0.5,
        "precision": "fp32",
        "checkpoint_every": 5,
        "log_every": 1,
        "optimizer": {"warmup_steps": 2, "muon_learning_rate": 0.02 if kind == "flow" else None},
        **SETTINGS[kind],
    }
    return TrainingJob.model_validate(fields | changes)


def tiny_model(directory):
    """An untrained model directory whose velocity is not zero."""
    from fluxmodel.encoders.autoencoder import Autoencoder, AutoencoderConfig
    from fluxmodel.encoders.text import WordEncoderConfig
    from fluxmodel.mmdit.config import MMDiTConfig
    from fluxmodel.mmdit.transformer import MMDiT
    from fluxmodel.text_to_image import assemble
    from fluxmodel.weights import save_mmdit

    torch.manual_seed(0)
    text = WordEncoderConfig(dim=16)
    config = MMDiTConfig(
        in_channels=32, out_channels=32, vec_in_dim=16, context_in_dim=16, hidden_size=32, mlp_ratio=2, num_heads=2,
        depth=1, depth_single_blocks=1, axes_dim=(4, 6, 6), guidance_embed=False,
    )  # fmt: skip
    model = MMDiT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for name in ("trained/transformer", "autoencoder", "model"):
        (directory / name).mkdir(parents=True)
    save_mmdit(model, directory / "trained" / "transformer")
    (directory / "trained" / "text_encoder.json").write_text(text.model_dump_json())
    Autoencoder(AutoencoderConfig(width=16, num_blocks=1)).save(directory / "autoencoder")
    assemble(directory / "trained", directory / "autoencoder", directory / "model", 32, 8, 2.0)
    return directory / "model"
