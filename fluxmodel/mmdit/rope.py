"""Rotary positions over several axes (Su et al. 2021, arXiv:2104.09864), as FLUX.1 turns interleaved pairs.

Pair i of an axis of width d is turned by position * theta^(-2i/d).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def rotary_table(
    ids: Float[Tensor, "b n axes"], axes_dim: Sequence[int], theta: float
) -> Complex[Tensor, "b n d/2"]:
    """Return exp(i angle), complex64, of every pair at every position."""
    angles = []
    for axis, width in enumerate(axes_dim):
        exponent = torch.arange(0, width, 2, dtype=torch.float64, device=ids.device) / width
        angles.append(ids[..., axis, None].double() * theta**-exponent)
    angle = torch.cat(angles, dim=-1)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def rotate(x: Float[Tensor, "b n ... d"], pe: Complex[Tensor, "#b n d/2"]) -> Float[Tensor, "b n ... d"]:
    """Turn the pairs (x0, x1), (x2, x3), ... of fp32 vectors, as complex numbers."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    table = pe.reshape(*pe.shape[:2], *[1] * (x.ndim - 3), -1)
    return torch.view_as_real(pairs * table).flatten(-2)
