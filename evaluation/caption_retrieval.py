"""Does an image lead back to its own caption? Among N captions, by the dual encoder; chance is 1/N.

Works on any data, so it is the headline where no scene judge exists. The other captions differ from the right one
as texts, and a tie counts as not found.
"""

import numpy as np
import torch
from torch import Tensor

from .features import unit_range


def retrieval_hits(
    dual_encoder: object, images: Tensor, captions: list[str], num_candidates: int = 32, seed: int = 0
) -> np.ndarray:
    """Whether each uint8 image [n, 3, H, W] finds its caption among `num_candidates`, bool [n]."""
    texts = sorted(set(captions))
    if len(texts) < 2:
        return np.zeros(0, bool)
    with torch.inference_mode():
        image = torch.cat([dual_encoder.image_embeddings(unit_range(part)) for part in images.split(250)])
        text = torch.cat(
            [dual_encoder.text_embeddings(texts[i : i + 250]) for i in range(0, len(texts), 250)]
        )
    similarity = (image @ text.T).cpu().numpy()
    own = _index(texts, captions)
    others = draw_others(own, len(texts), min(num_candidates, len(texts)) - 1, seed)
    rows = np.arange(len(captions))
    return similarity[rows, own] > similarity[rows[:, None], others].max(1)


def chance(captions: list[str], num_candidates: int = 32) -> float:
    """Share found by guessing; with fewer different captions than candidates all of them are used."""
    return 1 / max(1, min(num_candidates, len(set(captions))))


def draw_others(own: np.ndarray, num_texts: int, num_others: int, seed: int) -> np.ndarray:
    """For each own caption, `num_others` different other ones, [n, num_others]."""
    generator = np.random.default_rng(np.random.SeedSequence([seed, num_texts, num_others]))
    keys = generator.random((len(own), num_texts))
    keys[np.arange(len(own)), own] = np.inf
    return np.argpartition(keys, num_others - 1, axis=1)[:, :num_others]


def _index(texts: list[str], captions: list[str]) -> np.ndarray:
    number = {text: index for index, text in enumerate(texts)}
    return np.array([number[caption] for caption in captions])
