"""Adapters for the MM-DiT's inner linear layers, by peft: B starts at zero, so the adapted model starts as the base."""

from __future__ import annotations

import torch

from fluxmodel.mmdit.transformer import MMDiT

TARGETS = (
    r"double_blocks\.\d+\.(img|txt)_(attn\.(qkv|proj)|mlp\.[02]|mod\.lin)"
    r"|single_blocks\.\d+\.(linear[12]|modulation\.lin)"
)
"""Names of the adapted layers: projections, MLPs and modulations of double and single blocks."""


def add_adapters(model: MMDiT, rank: int, alpha: float, seed: int) -> MMDiT:
    """Put adapters into a model, in place, and freeze everything else; A is drawn from the seed."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS, bias="none")  # pyright: ignore[reportArgumentType] (peft takes any number)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    return model


@torch.no_grad()
def strengthen(model: MMDiT, strength: float) -> None:
    """Make the adapters of a model act `strength` times as strongly, in place, by their B."""
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.mul_(strength)
