"""Joint attention over (txt, img) tokens with normalised queries and keys.

Queries, keys and values keep the layout their projection gives them, [b, n, 3, heads, d]: both norms and the rotary
turn work on queries and keys at once, and nothing is copied to bring heads before tokens.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fluxmodel.mmdit.rope import rotate


class RMSNorm(nn.Module):
    """The scale of x / rms(x) * scale; applied to queries and keys at once by `normalize_and_turn`."""

    def __init__(self, dim: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))


class QKNorm(nn.Module):
    """The two norms before the product of queries and keys."""

    def __init__(self, dim: int):
        super().__init__()
        self.query_norm = RMSNorm(dim)
        self.key_norm = RMSNorm(dim)

    def scales(self) -> Float[Tensor, "1 2 1 d"]:
        """Return both scales, fp32, to be laid over [n, 2, heads, d]."""
        both = torch.stack((self.query_norm.scale, self.key_norm.scale))
        return both.float().view(1, 2, 1, -1)


class SelfAttention(nn.Module):
    """The projections of one stream; `attend` is called on the joined streams."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.norm = QKNorm(dim // num_heads)
        self.proj = nn.Linear(dim, dim)


def attend(
    q: Float[Tensor, "b n h d"], k: Float[Tensor, "b m h d"], v: Float[Tensor, "b m h d"]
) -> Float[Tensor, "b n h*d"]:
    """Return softmax(q k / sqrt(d)) v."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if q.requires_grad and q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # There SDPA's backward costs 3-4 times the plain products (58 ms against 14.5 measured). Its forward pass is
        # the more exact one: it keeps the products of queries and keys in fp32.
        weights = torch.softmax((q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-1, -2), dim=-1)
        joined = weights @ v
    else:
        joined = functional.scaled_dot_product_attention(q, k, v)
    return joined.transpose(1, 2).flatten(2)


def normalize_and_turn(
    x: Float[Tensor, "b n p h d"],
    scale: Float[Tensor, "#n p 1 d"],
    pe: Complex[Tensor, "#b n d/2"],
) -> Float[Tensor, "b n p h d"]:
    """Return x / rms(x) * scale, turned by its positions: in fp32 within, in the dtype of x again at the end.

    Args:
        x: queries and keys (p = 2), or one of them.
        scale: of the norms, fp32; a row for each token where the streams have norms of their own.
        pe: rotary table.
    """
    if not torch.is_grad_enabled():  # a node of the graph costs 20 us even where there is no graph
        return rotate(_unit(x)[0] * scale, pe).to(x.dtype)
    return _NormalizeAndTurn.apply(x, scale, pe)  # pyright: ignore[reportReturnType] (apply is untyped)


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x / rms(x) and 1 / rms(x) over the last axis, fp32."""
    wide = x.float()
    inverse = wide.square().mean(-1, keepdim=True).add_(1e-6).rsqrt_()
    return wide * inverse, inverse


class _NormalizeAndTurn(torch.autograd.Function):
    """One node for what would be ten: half the kernels in the backward pass, and nothing saved but 1 / rms.

    With u = x / rms(x) and y = R (u s), g the gradient turned back by R^T:
    ds = sum g u,  dx = (g s - u mean(g s u)) / rms(x).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, pe: Tensor) -> Tensor:
        unit, inverse = _unit(x)
        ctx.save_for_backward(x, inverse, scale, pe)  # x lies in the memory of the values, which stay anyway
        return rotate(unit * scale, pe).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, inverse, scale, pe = ctx.saved_tensors
        unit = x.float() * inverse
        turned_back = rotate(gradients[0].float().contiguous(), pe.conj())
        along = turned_back * unit
        for_scale = along.sum_to_size(scale.shape)
        mean = (along * scale).mean(-1, keepdim=True)
        for_x = torch.addcmul(turned_back * scale, unit, mean, value=-1).mul_(inverse)
        return for_x.to(gradients[0].dtype), for_scale, None
