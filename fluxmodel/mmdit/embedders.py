"""Time, guidance and pooled text to one conditioning vector."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


def timestep_embedding(
    t: Float[Tensor, " b"], dim: int = 256, max_period: float = 10_000.0
) -> Float[Tensor, "b dim"]:
    """Return cosines, then sines, of 1000 t at `dim`/2 geometric frequencies; t in [0, 1], or a guidance strength."""
    half = dim // 2
    frequencies = torch.exp(
        -math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / half
    )
    angle = 1000.0 * t.float()[:, None] * frequencies
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


class MLPEmbedder(nn.Module):
    """out_layer(silu(in_layer(x)))."""

    def __init__(self, in_dim: int, hidden_size: int):
        super().__init__()
        self.in_layer = nn.Linear(in_dim, hidden_size)
        self.out_layer = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(functional.silu(self.in_layer(x)))
