"""Pairs for Reflow (Liu et al. 2022, arXiv:2209.03003): the noise a teacher started from and the latent it drew.

The directory reads as an encoded dataset that also knows each latent's noise, as the seed it is drawn from.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from fluxmodel.data.latent_cache import EncodedDataset
from fluxmodel.errors import InputError
from fluxmodel.progress import Progress, silent
from fluxmodel.randomness import keyed_generator
from fluxmodel.sampling import Request, SamplingPool
from fluxmodel.training_job import PairSettings

PAIR_SEED_OFFSET = 3_000_000_000
"""Added to the seeds of pairs, so that no evaluation starts from a noise the student has seen."""
MANIFEST = "pairs.json"


def draw_pairs(
    model: str | Path,
    latents: str | Path,
    settings: PairSettings,
    seed: int,
    output: str | Path,
    progress: Progress = silent,
) -> dict[str, float]:
    """Draw pairs with a model's default variant into the existing directory `output`.

    Args:
        model: the teacher, what `TextToImage.from_pretrained` reads.
        latents: the encoded dataset whose captions are drawn.
        settings: how many, and how the teacher samples.
        seed: of captions and noise.
        output: receives latents.safetensors, captions.json and pairs.json.
        progress: told after every batch.

    Returns:
        Figures of the pairs: their number, and mean and standard deviation of the latents.
    """
    output = Path(output)
    prompts = choose_prompts(EncodedDataset.from_directory(latents).captions, settings, seed, str(latents))
    first = PAIR_SEED_OFFSET + seed * settings.num
    seeds = list(range(first, first + settings.num))
    request = Request(prompts, seeds, settings.num_steps, settings.guidance, latents=True)
    done = 0

    def drawn(count: int) -> None:
        nonlocal done
        done += count
        progress(done, settings.num, "drawing pairs")

    with SamplingPool(model, settings.workers) as pool:
        drawn_latents = pool.sample(request, settings.batch_size, drawn).half()
    tensors = {"latents": drawn_latents.contiguous(), "noise_seeds": torch.tensor(seeds)}
    save_file(tensors, str(output / "latents.safetensors"))
    (output / "captions.json").write_text(json.dumps([[{"text": p, "kind": "prompt"}] for p in prompts]))
    figures = {
        "num_pairs": float(settings.num),
        "latent_mean": drawn_latents.float().mean().item(),
        "latent_std": drawn_latents.float().std().item(),
    }
    (output / MANIFEST).write_text(
        json.dumps({**settings.semantic(), "seed": seed, **figures}, indent=2) + "\n"
    )
    return figures


def choose_prompts(
    captions: list[dict[str, str]], settings: PairSettings, seed: int, where: str
) -> list[str]:
    """Return a caption for each pair, of samples in a random order that starts over when all were taken."""
    kinds = {k: w for k, w in settings.caption_mix.items() if w > 0}
    generator = keyed_generator(seed, 4)
    orders = [
        torch.randperm(len(captions), generator=generator) for _ in range(-(-settings.num // len(captions)))
    ]
    picks = torch.rand(settings.num, generator=generator).tolist()
    chosen = []
    for sample, pick in zip(torch.cat(orders).tolist(), picks, strict=False):
        chosen.append(_pick(captions[sample], kinds, pick, where))
    return chosen


def _pick(own: dict[str, str], kinds: dict[str, float], pick: float, where: str) -> str:
    weights = {kind: weight for kind, weight in kinds.items() if kind in own}
    if not weights:
        raise InputError(f"an image of {where} has no caption of the kinds {', '.join(kinds)}: caption it")
    kind = list(weights)[
        np.searchsorted(np.cumsum(list(weights.values())), pick * sum(weights.values()), "right")
    ]
    return own[kind]
