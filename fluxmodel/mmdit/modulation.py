"""adaLN: shift, scale and gate of a block from the conditioning vector (Peebles & Xie 2022, arXiv:2212.09748)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Modulated(NamedTuple):
    """What a sublayer does to its input and to its output, each [b, 1, d]; `gain` is 1 + scale."""

    shift: Tensor
    gain: Tensor
    gate: Tensor


class Modulation(nn.Module):
    """lin(silu(vec)), cut into (shift, scale, gate) triples: one for a single block, two for a stream of a double."""

    def __init__(self, dim: int, is_double: bool):
        super().__init__()
        self.num_triples = 2 if is_double else 1
        self.lin = nn.Linear(dim, 3 * self.num_triples * dim)

    def forward(self, active: Float[Tensor, "b d"]) -> list[Modulated]:
        """Return a triple for each sublayer; `active` is silu(vec), the same for all blocks."""
        chunks = self.lin(active)[:, None].chunk(3 * self.num_triples, dim=-1)
        return [Modulated(chunks[i], 1 + chunks[i + 1], chunks[i + 2]) for i in range(0, len(chunks), 3)]


def modulate(x: Float[Tensor, "b n d"], shift: Tensor, gain: Tensor) -> Float[Tensor, "b n d"]:
    """Return gain * layer_norm(x) + shift; the norm has no parameters of its own, eps 1e-6."""
    if len(x) == 1:  # one kernel instead of two
        return functional.layer_norm(x, gain.shape[-1:], gain.view(-1), shift.view(-1), eps=1e-6)
    return torch.addcmul(shift, functional.layer_norm(x, (x.shape[-1],), eps=1e-6), gain)
