"""LoRA and style classifier as jobs of the one loop: only adapters move, and a resumed job ends alike."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fluxmodel.encoders.autoencoder import Autoencoder, AutoencoderConfig
from fluxmodel.encoders.style_classifier import StyleClassifier
from fluxmodel.encoders.text import WordEncoderConfig
from fluxmodel.lora_files import load_lora, read_lora
from fluxmodel.lora_passport import Passport, read_passport
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.randomness import keyed_generator
from fluxmodel.text_to_image import INDEX, ModelIndex
from fluxmodel.training.__main__ import run
from fluxmodel.training.checkpoint import CheckpointFolder
from fluxmodel.training.loop import Interrupted, train
from fluxmodel.training.lora import add_adapters, strengthen, target_layers
from fluxmodel.training.objectives.lora import LoraObjective
from fluxmodel.training.parallel import ALONE
from fluxmodel.training_job import TrainingJob
from fluxmodel.weights import load_mmdit, save_mmdit

from .tiny_jobs import SETTINGS, SPEC, write_encoded


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    for name in ("model/transformer", "model/text_encoder", "autoencoder"):
        (root / name).mkdir(parents=True)
    model = MMDiT(
        MMDiTConfig.model_validate({**SETTINGS["flow"]["model"], "in_channels": 16, "out_channels": 16})
    )
    model.initialize(keyed_generator(0))
    torch.nn.init.normal_(model.final_layer.linear.weight, std=0.1, generator=keyed_generator(1))
    save_mmdit(model, root / "model/transformer")
    text = WordEncoderConfig(dim=16)
    (root / "model/text_encoder/config.json").write_text(text.model_dump_json())
    (root / "model" / INDEX).write_text(ModelIndex(image_size=32).model_dump_json())
    torch.manual_seed(0)
    Autoencoder(AutoencoderConfig(latent_channels=4, width=16, num_blocks=1)).save(root / "autoencoder")
    return root


def lora_job(parts: Path, output: Path, **changes) -> TrainingJob:
    encoded = parts / "encoded"
    if not encoded.exists():
        write_encoded(encoded)
        latents = torch.randn(24, 4, 8, 8, generator=keyed_generator(2)).half()
        save_file({"latents": latents}, str(encoded / "latents.safetensors"))
    fields = {
        "kind": "lora",
        "data": str(encoded),
        "inputs": {
            "start": str(parts / "model"),
            "autoencoder": str(parts / "autoencoder"),
            "style": "style:glow?level=demo&n=8",
        },
        "output": str(output),
        "objective": {"rank": 2, "caption_dropout": 0.1},
        "optimizer": {"warmup_steps": 2, "learning_rate": 1e-2},
        "steps": 8,
        "batch_size": 6,
        "ema_decay": 0.5,
        "precision": "fp32",
        "log_every": 1,
    }
    return TrainingJob.model_validate(fields | changes)


def test_a_lora_job_leaves_a_lora_that_changes_the_base(parts, tmp_path):
    assert run(lora_job(parts, tmp_path)) == 0
    final = tmp_path / "final"
    about = json.loads((final / "lora.json").read_text())
    assert (about["trigger"], about["num_images"], about["rank"]) == ("glowline", 8, 2)
    assert (about["targets"], about["num_layers"]) == ("blocks", 13)
    weights = (parts / "model/transformer/model.safetensors").read_bytes()
    assert about["base"] == hashlib.sha256(weights).hexdigest()
    proof = about["files"]["pytorch_lora_weights.safetensors"]
    assert proof["layout"] == "peft"
    assert proof["largest_difference"] < 1e-12
    assert (
        proof["sha256"]
        == hashlib.sha256((final / "pytorch_lora_weights.safetensors").read_bytes()).hexdigest()
    )
    passport = read_passport(final / "pytorch_lora_weights.safetensors")
    assert passport == Passport.model_validate(about).model_copy(update={"files": {}})
    assert len(json.loads((final / "story.json").read_text())["images"]) == 8
    assert (final / "images.png").stat().st_size > 0
    tensors = load_file(final / "pytorch_lora_weights.safetensors")
    assert all(".lora_" in name for name in tensors)
    assert any(t.abs().max() > 0 for name, t in tensors.items() if "lora_B" in name)
    plain, merged = (load_mmdit(parts / "model/transformer") for _ in range(2))
    load_lora(merged, final)
    moved = [n for n, p in merged.named_parameters() if not torch.equal(p, plain.get_parameter(n))]
    assert moved
    assert all("blocks" in name for name in moved)


def test_a_lora_job_trains_the_layers_it_is_told_to_and_its_file_needs_no_alpha(parts, tmp_path):
    settings = {"rank": 2, "alpha": 5.0, "strength": 1.5, "targets": "embedders+final"}
    assert run(lora_job(parts, tmp_path, objective=settings, steps=2)) == 0
    base = load_mmdit(parts / "model/transformer")
    lora = read_lora(tmp_path / "final", base.config)
    assert set(lora.modules) == set(target_layers(base, "embedders+final"))
    assert {change.scale for change in lora.modules.values()} == {1.0}


def test_checkpoints_hold_adapters_only_and_resume_bit_for_bit(parts, tmp_path):
    def finish(folder, stop_at):
        job = lora_job(parts, tmp_path / folder)
        for report in train(
            objective := LoraObjective(job), job, CheckpointFolder(tmp_path / folder), ALONE, stop_at
        ):
            if isinstance(report, Interrupted):
                return None
        return {n: p.detach() for n, p in objective.model.named_parameters() if p.requires_grad}

    straight = finish("a", lambda: False)
    calls = iter([False, False, True])
    assert finish("b", lambda: next(calls)) is None
    saved = CheckpointFolder(tmp_path / "b").newest()
    assert straight is not None
    assert saved is not None
    assert len(saved["optimizer"]["masters"]) == len(straight)
    again = finish("b", lambda: False)
    assert again is not None
    for name, parameter in straight.items():
        torch.testing.assert_close(again[name], parameter, rtol=0, atol=0)


def test_every_batch_holds_its_share_of_prior_data_on_every_rank(parts, tmp_path):
    objective = LoraObjective(lora_job(parts, tmp_path, batch_size=12))
    styled = {tuple(row.flatten()[:4].tolist()) for row in objective.styled.data[:]}
    for part in (slice(0, 6), slice(6, 12)):
        rows = objective.batch(3, part).data
        num = sum(tuple(row.flatten()[:4].tolist()) in styled for row in rows)
        assert num == 4


def test_a_style_classifier_job_leaves_a_classifier(tmp_path):
    job = TrainingJob(
        kind="style_classifier",
        data=SPEC,
        inputs={"style": "style:glow?level=demo"},
        output=str(tmp_path),
        model={"width": 16},
        objective={"num_images": 32, "num_validation": 16},
        steps=4,
        batch_size=8,
        precision="fp32",
    )
    assert run(job) == 0
    assert StyleClassifier.from_directory(tmp_path / "final").config.style == "glow"
    metrics = json.loads((tmp_path / "final" / "card.json").read_text())["metrics"]
    assert {"accuracy", "accuracy/style", "accuracy/ground_only"} <= set(metrics)


def test_strength_scales_what_the_adapters_add():
    torch.manual_seed(0)
    config = MMDiTConfig.model_validate(SETTINGS["flow"]["model"])
    model = add_adapters(MMDiT(config), 2, 2.0, 0)
    layer = model.get_submodule("double_blocks.0.img_attn.qkv")
    torch.nn.init.normal_(layer.lora_B["default"].weight)  # pyright: ignore (peft's layer)
    x = torch.randn(3, config.hidden_size)
    base = layer.base_layer(x)  # pyright: ignore (peft's layer)
    added = layer(x) - base
    strengthen(model, 1.5)
    torch.testing.assert_close(layer(x) - base, 1.5 * added)
