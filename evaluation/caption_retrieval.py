"""Does an image lead back to its own caption? Among N captions, by the dual encoder; chance is 1/N.

Works on any data, so it is the headline where no scene judge exists. The other captions differ from the right one
as texts, and a tie counts as not found.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .features import unit_range


class CaptionChoice:
    """The captions each image has to choose among; embedded once, used for every point of a curve."""

    def __init__(self, dual_encoder: Any, captions: list[str], num_candidates: int = 32, seed: int = 0):
        self.dual_encoder = dual_encoder
        texts = sorted(set(captions))
        number = {text: index for index, text in enumerate(texts)}
        self.own = np.array([number[caption] for caption in captions])
        self.others = draw_others(self.own, len(texts), min(num_candidates, len(texts)) - 1, seed)
        with torch.inference_mode():
            batches = [texts[start : start + 250] for start in range(0, len(texts), 250)]
            self.text = torch.cat([dual_encoder.text_embeddings(batch) for batch in batches])

    @torch.inference_mode()
    def hits(self, images: Tensor, embeddings: Tensor | None = None) -> np.ndarray:
        """Whether each uint8 image [n, 3, H, W] finds its own caption, bool [n]; empty where there is no choice.

        `embeddings` [n, d] are the images' own where they are known already.
        """
        if len(self.text) < 2:
            return np.zeros(0, bool)
        if embeddings is None:
            batches = [unit_range(batch) for batch in images.split(250)]
            embeddings = torch.cat([self.dual_encoder.image_embeddings(batch) for batch in batches])
        similarity = (embeddings @ self.text.T).cpu().numpy()
        rows = np.arange(len(self.own))
        return similarity[rows, self.own] > similarity[rows[:, None], self.others].max(1)


def chance(captions: list[str], num_candidates: int = 32) -> float:
    """Share found by guessing; with fewer different captions than candidates all of them are used."""
    return 1 / max(1, min(num_candidates, len(set(captions))))


def draw_others(own: np.ndarray, num_texts: int, num_others: int, seed: int) -> np.ndarray:
    """For each own caption, `num_others` different other ones, [n, num_others]."""
    generator = np.random.default_rng(np.random.SeedSequence([seed, num_texts, num_others]))
    keys = generator.random((len(own), num_texts))
    keys[np.arange(len(own)), own] = np.inf
    return np.argpartition(keys, num_others - 1, axis=1)[:, :num_others]
