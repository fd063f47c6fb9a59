"""Pairs for Reflow (Liu et al. 2022, arXiv:2209.03003): the noise a teacher started from and the latent it drew.

The directory reads as an encoded dataset that also knows each latent's noise, as the seed it is drawn from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from fluxmodel.data.caption_mix import DEFAULT_WEIGHTS, CaptionMix
from fluxmodel.data.latent_cache import EncodedDataset
from fluxmodel.progress import Progress, silent
from fluxmodel.randomness import epoch_batch
from fluxmodel.sampling import Request, SamplingPool
from fluxmodel.training.precision import choose_precision
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
    encoded = EncodedDataset.from_directory(latents)
    prompts = choose_prompts(encoded.captions, encoded.ids, settings.num, seed)
    first = PAIR_SEED_OFFSET + seed * settings.num
    seeds = list(range(first, first + settings.num))
    request = Request(prompts, seeds, settings.num_steps, settings.guidance, latents=True)
    done = 0

    def drawn(count: int) -> None:
        nonlocal done
        done += count
        progress(done, settings.num, "drawing pairs")

    precision = choose_precision(settings.precision)
    with SamplingPool(model, settings.workers, precision=precision) as pool:
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
        json.dumps({**settings.semantic(), "precision": precision, "seed": seed, **figures}, indent=2) + "\n"
    )
    return figures


def choose_prompts(
    captions: Sequence[Mapping[str, str]], ids: Sequence[str], num: int, seed: int
) -> list[str]:
    """Return a caption for each pair by the mix policy, each sample once before any comes again.

    Raises:
        InputError: a sample has no caption.
    """
    table = CaptionMix(DEFAULT_WEIGHTS).table(captions, ids, seed)
    samples, epochs = epoch_batch(len(captions), num, seed, 0)
    return [table.texts[number] for number in table.choose(samples, epochs).tolist()]
