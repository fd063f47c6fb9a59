"""Decoded images at training size, kept between runs by the sha256 of the pixels they were fitted from."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path

import numpy as np

from fluxmodel.data.content_cache import ContentCache
from fluxmodel.data.decode import fit


class PixelCache(ContentCache):
    """Fitted uint8 RGB images of one size; a change of how images are fitted is another recipe."""

    def __init__(self, directory: str | Path, image_size: int) -> None:
        """Open the cache for images of [image_size, image_size, 3] below the folder of all caches."""
        from importlib.metadata import version

        self.shape = (image_size, image_size, 3)
        code = hashlib.sha256(inspect.getsource(fit).encode()).hexdigest()
        recipe = {"name": "pixels", "image_size": image_size, "fit": code, "pillow": version("pillow")}
        super().__init__(directory, recipe)

    def image(self, digest: str) -> np.ndarray | None:
        """Return the fitted image of the one whose decoded pixels have this digest, None where it is not kept."""
        value = self.get(digest)
        if value is None or len(value) != np.prod(self.shape):
            return None
        return np.frombuffer(bytearray(value), np.uint8).reshape(self.shape)
