"""How much an image's pixels differ from its mean: what fading takes away and no feature sees.

An image 4 % flatter keeps every attribute, its caption and its place in feature space; the demo's Frechet distance
moved by 0.03 of 1.7, its standard error being 0.2. Its contrast falls by exactly 4 %, and beside the same prompt and
noise that is far outside the interval.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor


def contrast(images: Tensor) -> np.ndarray:
    """Return the standard deviation over the pixels, mean of the three channels, of 255, for uint8 [n, 3, H, W]."""
    return images.flatten(2).float().std(2, correction=0).mean(1).double().numpy()
