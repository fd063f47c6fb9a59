"""adaLN: shift, scale and gate of a block from the conditioning vector (Peebles & Xie 2022, arXiv:2212.09748)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Modulation(nn.Module):
    """lin(silu(vec)), cut into (shift, scale, gate) triples: one for a single block, two for a stream of a double."""

    def __init__(self, dim: int, is_double: bool):
        super().__init__()
        self.num_chunks = 6 if is_double else 3
        self.lin = nn.Linear(dim, self.num_chunks * dim)

    def forward(self, vec: Float[Tensor, "b d"]) -> tuple[Tensor, ...]:
        """Return 3 or 6 tensors [b, 1, d]."""
        return self.lin(functional.silu(vec))[:, None].chunk(self.num_chunks, dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return (1 + scale) * layer_norm(x) + shift; the norm has no parameters, eps 1e-6."""
    return (1 + scale) * functional.layer_norm(x, (x.shape[-1],), eps=1e-6) + shift
