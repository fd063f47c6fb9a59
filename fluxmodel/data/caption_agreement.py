"""How well captions agree with their images, by a dual encoder (CLIP): the cosine of the two embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fluxmodel.encoders.dual_encoder import DualEncoder
from fluxmodel.pixels import to_signed

if TYPE_CHECKING:
    import numpy as np

_BATCH = 64


class Agreement:
    """A dual encoder as a judge of captions.

    Raises:
        InputError: the directory holds none.
    """

    def __init__(self, dual_encoder: str | Path):
        self._encoder = DualEncoder.from_directory(dual_encoder)

    @torch.inference_mode()
    def of(self, images: np.ndarray, captions: Sequence[str]) -> list[float]:
        """Return the cosine of each image, uint8 RGB [n, h, w, 3], and its caption."""
        found: list[float] = []
        for start in range(0, len(images), _BATCH):
            pixels = torch.from_numpy(images[start : start + _BATCH])
            seen = self._encoder.image_embeddings(to_signed(pixels))
            read = self._encoder.text_embeddings(captions[start : start + _BATCH])
            found += (seen * read).sum(1).tolist()
        return found
