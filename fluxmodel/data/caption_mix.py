"""Which caption of a sample is learned from in which epoch: a hash of (seed, sample id, epoch) decides.

So the choice is a pure function: the same sample in the same epoch always has the same caption, in any batch, order or
process, and over many epochs each kind comes as often as its weight says.

    mix = CaptionMix(weights).table(captions, ids, seed)   # once
    text = mix.choose(samples, epochs)                      # long [b], numbers into mix.texts; number 0 is ""

`samples` and `epochs` are what `fluxmodel.randomness.epoch_batch` returns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fluxmodel.errors import InputError

DEFAULT_WEIGHTS: dict[str, float] = {"detailed": 0.475, "short": 0.475, "alt": 0.05, "given": 0.05}
"""95 % synthetic, 5 % original; "alt" and "given" are two names of the original, and a sample rarely has both."""
ORIGINAL_KINDS = ("alt", "given")


@dataclass(frozen=True)
class CaptionTable:
    """The captions of a data set, numbered, and how likely each is.

    Attributes:
        texts: all different captions; the first is the empty one, which guidance needs.
        text_of: number of each sample's caption of each kind; 0 where it has none.
        cumulative: share of the kinds up to each, the last is 1.
        keys: hash of each sample's id.
    """

    texts: list[str]
    text_of: Int[Tensor, "n kinds"]
    cumulative: Float[Tensor, "n kinds"]
    keys: np.ndarray

    def choose(self, samples: Int[Tensor, " b"], epochs: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Return the number, in `texts`, of the caption of each sample in each epoch."""
        drawn = torch.from_numpy(_uniform(self.keys[samples.numpy()], epochs.numpy())).unsqueeze(1)
        column = (drawn >= self.cumulative[samples]).sum(1).clamp(max=self.text_of.shape[1] - 1)
        return self.text_of[samples, column]


@dataclass(frozen=True)
class CaptionMix:
    """Relative weight of each kind of caption; kinds that are not named are not used.

    Synthetic captions (all kinds but `ORIGINAL_KINDS`) have their common weight as soon as one of them exists, and so
    have originals: a sample with a "detailed" and a "given" caption alone still learns 95 % from the detailed one.
    A sample with originals alone learns from those.
    """

    weights: Mapping[str, float]

    def table(self, captions: Sequence[Mapping[str, str]], ids: Sequence[str], seed: int = 0) -> CaptionTable:
        """Number the captions of a data set.

        Args:
            captions: of every sample kind -> text.
            ids: of every sample its id.
            seed: another seed chooses other captions.

        Raises:
            InputError: a sample has no caption of the kinds named.
        """
        found = set().union(*captions)
        kinds = [k for k, w in self.weights.items() if w > 0 and k in found]
        if not kinds:
            raise InputError(
                f"the caption mix names {', '.join(self.weights) or 'nothing'}, and the data have no such caption; "
                f"their kinds are {', '.join(sorted(found)) or 'none'}"
            )
        has = np.array([[k in own for k in kinds] for own in captions])
        if num_without := int((~has.any(1)).sum()):
            raise InputError(
                f"{num_without} images have no caption of the kinds {', '.join(kinds)}: "
                "caption them, or name their kinds in the caption mix"
            )
        texts = {"": 0}
        numbers = [[texts.setdefault(own.get(k, ""), len(texts)) for k in kinds] for own in captions]
        share = self._shares(kinds, has)
        keys = np.array([_key(name, seed) for name in ids], np.uint64)
        return CaptionTable(list(texts), torch.tensor(numbers), torch.from_numpy(share.cumsum(1)), keys)

    def _shares(self, kinds: list[str], has: np.ndarray) -> np.ndarray:
        """Return the share of each kind of each sample, float64 [n, kinds]."""
        weight = np.array([self.weights[k] for k in kinds]) * has
        is_original = np.array([k in ORIGINAL_KINDS for k in kinds])
        named = {k: w for k, w in self.weights.items() if w > 0}
        synthetic = sum(w for k, w in named.items() if k not in ORIGINAL_KINDS)
        original = max((w for k, w in named.items() if k in ORIGINAL_KINDS), default=0.0)
        for group, total in ((~is_original, synthetic), (is_original, original)):
            own = weight[:, group].sum(1, keepdims=True)
            weight[:, group] *= total / np.where(own > 0, own, 1)
        return weight / weight.sum(1, keepdims=True)


def _key(name: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), "little")


def _uniform(keys: np.ndarray, epochs: np.ndarray) -> np.ndarray:
    """Return a number in [0, 1) for every (key, epoch), by splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = keys + (epochs.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
