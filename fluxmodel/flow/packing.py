"""Latents to tokens and back: 2 x 2 latent positions are one token, as in FLUX.1."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def latent_side(pixels: int, downscale: int) -> int:
    """Return the side of the latents that cover so many pixels: whole tokens, 2 ceil(pixels / (2 downscale))."""
    return 2 * -(-pixels // (2 * downscale))


def pack(latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h/2*w/2 c*4"]:
    """Fold 2 x 2 positions into channels and rows into one axis; h and w are even."""
    return rearrange(latents, "b c (h ph) (w pw) -> b (h w) (c ph pw)", ph=2, pw=2)


def unpack(tokens: Float[Tensor, "b n c*4"], height: int, width: int) -> Float[Tensor, "b c height width"]:
    """Undo `pack`; height and width are those of the latents."""
    return rearrange(
        tokens, "b (h w) (c ph pw) -> b c (h ph) (w pw)", h=height // 2, w=width // 2, ph=2, pw=2
    )


def image_ids(batch: int, height: int, width: int) -> Float[Tensor, "batch h/2*w/2 3"]:
    """Return (0, row, column) of every token of latents of this height and width."""
    rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    ids = torch.stack((torch.zeros_like(rows), rows, columns), dim=-1).float().reshape(1, -1, 3)
    return ids.expand(batch, -1, -1)
