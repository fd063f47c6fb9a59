"""Generators keyed by integers: any batch, and any image's noise, can be drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def keyed_generator(*keys: int) -> torch.Generator:
    """Return a CPU generator seeded by all keys together, such as (seed, stream, step); keys are at least 0."""
    state = np.random.SeedSequence(keys).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def image_noise(seeds: Sequence[int], shape: Sequence[int]) -> Float[Tensor, "n ..."]:
    """Return standard normal noise, one sample of `shape` a seed; a sample depends on its own seed alone."""
    return torch.stack([torch.randn(*shape, generator=keyed_generator(s)) for s in seeds])


def latent_noise(seeds: Sequence[int], shape: Sequence[int]) -> Float[Tensor, "n ..."]:
    """Return noise as `image_noise` does, drawn as FLUX.1's users know it: `torch.Generator().manual_seed(seed)`."""
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(s)) for s in seeds])


@lru_cache(maxsize=4)
def _order(num: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(num, generator=keyed_generator(seed, 1, epoch))


def epoch_batch(
    num: int, batch_size: int, seed: int, step: int
) -> tuple[Int[Tensor, " batch_size"], Int[Tensor, " batch_size"]]:
    """Return (sample, epoch) of every place in batch `step`: each epoch visits all `num` samples in a new order."""
    places = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs = places // num
    samples = torch.empty_like(places)
    for epoch in epochs.unique().tolist():
        here = epochs == epoch
        samples[here] = _order(num, seed, epoch)[places[here] % num]
    return samples, epochs
