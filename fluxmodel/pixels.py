"""Between uint8 pixels and the floats networks see."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_signed(pixels: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    """Return pixels as floats in [-1, 1], channels first."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(images: Float[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """Return floats, clipped to [-1, 1], as uint8."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
