"""The embedded text encoder: fixed random features of words, so any vocabulary works and nothing is trained.

A word's embedding is a standard normal vector drawn from the hash of the word; words of a caption differ by it,
and a second one for the position is added at deviation 0.5. The order must be as visible as the words: at 0.02
a model cannot tell whose colour is whose (0.67 of colours right against 1.00). FLUX.1 uses T5 in this place, whose
embeddings know the words around them; `context` gives these a little of that: the features of near words, each
under its own distance, are added.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

_WORD = re.compile(r"[a-z0-9]+")


class WordEncoderConfig(BaseModel):
    """How many words are seen and how wide their embeddings are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["word_features"] = "word_features"
    dim: int = Field(default=64, gt=0, description="Width of a token's embedding.")
    max_tokens: int = Field(default=16, gt=0, description="Words seen of a caption; the rest is cut.")
    position_std: float = Field(
        default=0.5, ge=0, description="Deviation of position embeddings; a word's is 1."
    )
    context: int = Field(
        default=0, ge=0, description="Words on each side whose features are added to a word's."
    )
    context_std: float = Field(default=0.7, ge=0, description="Deviation of a neighbour's features.")


class EncodedText(NamedTuple):
    """Token embeddings [b, max_tokens, dim], zero where padded, and pooled embeddings [b, dim]."""

    tokens: Tensor
    pooled: Tensor


@lru_cache(maxsize=65536)
def _features(key: str, dim: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.Philox(seed)).standard_normal(dim).astype(np.float32)


def words(text: str) -> list[str]:
    """Cut a caption into lower-case words of letters and digits."""
    return _WORD.findall(text.lower())


class WordEncoder:
    """Captions to token embeddings; the empty caption is all padding."""

    def __init__(self, config: WordEncoderConfig):
        self.config = config

    def __call__(self, captions: Sequence[str]) -> EncodedText:
        """Encode captions; pooled is the sum of their word features over the root of their number."""
        config = self.config
        tokens = np.zeros((len(captions), config.max_tokens, config.dim), np.float32)
        pooled = np.zeros((len(captions), config.dim), np.float32)
        for row, caption in enumerate(captions):
            seen = words(caption)[: config.max_tokens]
            for place, word in enumerate(seen):
                feature = _features(f"word:{word}", config.dim)
                tokens[row, place] = feature + self._surroundings(seen, place)
                pooled[row] += feature / len(seen) ** 0.5
        return EncodedText(torch.from_numpy(tokens), torch.from_numpy(pooled))

    def _surroundings(self, seen: list[str], place: int) -> np.ndarray:
        config = self.config
        total = config.position_std * _features(f"position:{place}", config.dim)
        for distance in range(-config.context, config.context + 1):
            if distance and 0 <= place + distance < len(seen):
                near = _features(f"word{distance:+d}:{seen[place + distance]}", config.dim)
                total = total + config.context_std * near
        return total

    def text_ids(self, batch: int) -> Float[Tensor, "batch max_tokens 3"]:
        """Return the rotary positions of text tokens: all zero, as in FLUX.1."""
        return torch.zeros(batch, self.config.max_tokens, 3)
