"""A LoRA in memory, under the original FLUX.1 names, and the algebra of low-rank changes.

A LoRA (Hu et al. 2021, arXiv:2106.09685) changes a matrix by a product of two thin ones: W + alpha / rank * B A.
A layer that is several in another layout is cut by the rows of B; several become one by standing their A upon each
other and their B along the diagonal, or, where the A are the same, by stacking B alone: then no rank is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """The change alpha / rank * B A of one layer's weight; A [rank, in], B [out, rank]."""

    a: Tensor
    b: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return len(self.a)

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def delta(
        self,
        weight: float = 1.0,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Return the change [out, in], computed in `dtype`, `weight` times as strong."""
        return weight * self.scale * (self.b.to(device, dtype) @ self.a.to(device, dtype))

    def rows(self, where: slice) -> LowRank:
        """Return the change of some rows only."""
        return replace(self, b=self.b[where])


@dataclass(frozen=True)
class Lora:
    """Low-rank changes by the name of the layer, and what the file's header said besides."""

    modules: Mapping[str, LowRank]
    header: Mapping[str, str] = field(default_factory=dict)

    def folded(self) -> Lora:
        """Return the same changes with alpha = rank everywhere, so that a reader that knows no alpha does right."""
        modules = {}
        for name, module in self.modules.items():
            b = module.b if module.scale == 1 else module.b.float() * module.scale
            modules[name] = LowRank(module.a, b, float(module.rank))
        return replace(self, modules=modules)


def fuse(pieces: Sequence[tuple[slice, LowRank]], num_rows: int) -> LowRank:
    """Return one change of `num_rows` rows from changes of disjoint parts of them; rows of no part stay unchanged."""
    if len(pieces) == 1 and pieces[0][0] == slice(0, num_rows):
        return pieces[0][1]
    groups: list[Tensor] = []
    members = []
    for _, piece in pieces:
        same = [n for n, a in enumerate(groups) if a.shape == piece.a.shape and torch.equal(a, piece.a)]
        members.append(same[0] if same else len(groups))
        groups += [] if same else [piece.a]
    starts = [sum(len(a) for a in groups[:n]) for n in range(len(groups) + 1)]
    scale = max((piece.scale for _, piece in pieces), key=abs)
    is_even = all(piece.scale == scale for _, piece in pieces)
    dtypes = {half.dtype for _, piece in pieces for half in (piece.a, piece.b)}
    dtype = dtypes.pop() if is_even and len(dtypes) == 1 else torch.float32
    b = torch.zeros(num_rows, starts[-1], dtype=dtype)
    for (where, piece), member in zip(pieces, members, strict=True):
        part = piece.b.to(dtype) if is_even else piece.b.to(dtype) * (piece.scale / scale)
        b[where, starts[member] : starts[member + 1]] = part
    return LowRank(torch.cat([a.to(dtype) for a in groups]), b, scale * starts[-1])


def split(module: LowRank, num_rows: Sequence[int]) -> list[LowRank | None]:
    """Return the changes of consecutive parts of a layer; None for a part that does not change while another does.

    Columns of B that a part never reads are left out with their rows of A, where the parts read equal or disjoint
    columns; so what `fuse` put along a diagonal comes apart at its old ranks.
    """
    parts = module.b.split(list(num_rows))
    if len(parts) == 1:
        return [module]
    read = [(part != 0).any(0) for part in parts]
    if not any(columns.any() for columns in read):
        return [replace(module, b=part.contiguous()) for part in parts]
    used = [columns for columns in read if columns.any()]
    is_apart = all(torch.equal(x, y) or not (x & y).any() for x in used for y in used)
    found: list[LowRank | None] = []
    for part, columns in zip(parts, read, strict=True):
        kept = columns if is_apart else torch.ones_like(columns)
        rank = int(kept.sum())
        alpha = module.alpha if rank == module.rank else module.scale * rank
        changed = LowRank(module.a[kept], part[:, kept].contiguous(), alpha)
        found.append(changed if columns.any() else None)
    return found


def swap_halves(module: LowRank) -> LowRank:
    """Return the change of a layer whose two halves of rows stand the other way round."""
    return replace(module, b=torch.cat(module.b.chunk(2)[::-1]))


def relative_difference(source: LowRank, other: LowRank) -> float:
    """Return the Frobenius norm of the difference of two changes over the source's; 0 where their factors agree.

    Exact in fp64 and without either product: orthogonal factors keep the norm, so |C D| = |R_C R_D^T| where
    C = Q_C R_C holds both B side by side and D^T = Q_D R_D both A.
    """
    source, other = _trimmed(source), _trimmed(other)
    if (
        source.scale == other.scale
        and source.a.shape == other.a.shape
        and source.b.shape == other.b.shape
        and torch.equal(source.a.double(), other.a.double())
        and torch.equal(source.b.double(), other.b.double())
    ):
        return 0.0
    if source.b.shape[0] != other.b.shape[0] or source.a.shape[1] != other.a.shape[1]:
        return float("inf")
    tall = torch.cat((source.scale * source.b.double(), -other.scale * other.b.double()), 1)
    wide = torch.cat((source.a.double(), other.a.double()))
    difference = _product_norm(tall, wide)
    size = _product_norm(tall[:, : source.rank], wide[: source.rank])
    if difference == 0:
        return 0.0
    return difference / size if size else float("inf")


def _trimmed(module: LowRank) -> LowRank:
    """Leave out columns of B that are all zero; at least one stays."""
    kept = (module.b != 0).any(0)
    if kept.all():
        return module
    kept[0] |= not kept.any()
    return LowRank(module.a[kept], module.b[:, kept], module.scale * int(kept.sum()))


def _product_norm(tall: Tensor, wide: Tensor) -> float:
    triangles = [torch.linalg.qr(each, mode="r").R for each in (tall, wide.T)]
    return float(torch.linalg.matrix_norm(triangles[0] @ triangles[1].T))
