"""One optimizer over fp32 master weights: AdamW, and Muon for the inner matrices where asked.

Muon (Jordan et al. 2024) replaces a matrix's momentum by its nearest orthogonal matrix, found by five
Newton-Schulz steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fluxmodel.training.parallel import ALONE, World
from fluxmodel.training_job import OptimizerSettings

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_MUON_MOMENTUM = 0.95


def learning_rate_factor(step: int, total: int, settings: OptimizerSettings) -> float:
    """Return the factor of the peak rate at a step counted from 0: linear up, constant, linear down to 0."""
    warm = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    decay_steps = settings.decay_fraction * total
    return warm * (min(1.0, (total - step) / decay_steps) if decay_steps else 1.0)


def orthogonalize(
    matrices: Iterable[Float[Tensor, "m n"]], num_iterations: int = 5, world: World = ALONE
) -> list[Float[Tensor, "m n"]]:
    """Return matrices with about the same singular vectors and all singular values near 1.

    One iteration is X <- P(G) X with G = X X^T and P(G) = a I + b G + c G^2. Since all P commute, they are
    multiplied up on the small side first and meet X once: products of side m only, m <= n. Matrices of one small
    side are treated together, and the processes of `world` share that part of the work.
    """
    wide = [m.mT if m.shape[0] > m.shape[1] else m for m in matrices]
    wide = [m / (m.norm() + 1e-7) for m in wide]
    result: list[Tensor] = [torch.empty(0)] * len(wide)
    for side in sorted({m.shape[0] for m in wide}):
        members = [i for i, m in enumerate(wide) if m.shape[0] == side]
        gram = torch.stack([wide[i] @ wide[i].mT for i in members])
        for i, factor in zip(members, world.share(lambda g: _product(g, num_iterations), gram), strict=True):
            result[i] = factor @ wide[i]
    return [m.mT if t.shape[0] > t.shape[1] else m for m, t in zip(result, matrices, strict=True)]


def _product(gram: Float[Tensor, "k m m"], num_iterations: int) -> Float[Tensor, "k m m"]:
    """Return the product of the polynomials of all iterations."""
    a, b, c = _NEWTON_SCHULZ
    identity = torch.eye(gram.shape[1]).expand_as(gram)
    total = identity
    for left in reversed(range(num_iterations)):
        polynomial = torch.baddbmm(b * gram, gram, gram, beta=1.0, alpha=c).add_(identity, alpha=a)
        total = polynomial if total is identity else polynomial @ total
        if left:
            gram = polynomial @ (polynomial @ gram)
    return total


def is_inner_matrix(name: str, parameter: Tensor) -> bool:
    """Return whether Muon fits: a matrix or convolution inside a block, neither modulation nor embedding nor end."""
    inside = any(part in name for part in ("blocks.", "layers.", ".layer.", ".conv"))
    is_modulation = "_mod." in name or "modulation." in name  # not "mod": a CLIP's names begin with "model."
    return parameter.ndim in (2, 4) and inside and not is_modulation


class MasterOptimizer:
    """Steps fp32 masters of a module's parameters and copies them back into the working dtype."""

    def __init__(self, module: nn.Module, settings: OptimizerSettings, world: World = ALONE):
        self.settings = settings
        self.world = world
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        self.names = [n for n, _ in named]
        self.working = [p for _, p in named]
        self.masters = [p.detach().clone().float() for p in self.working]
        use_muon = settings.muon_learning_rate is not None
        self._muon = [i for i, (n, p) in enumerate(named) if use_muon and is_inner_matrix(n, p)]
        self._momenta = {i: torch.zeros_like(self.masters[i]) for i in self._muon}
        rest = [m for i, m in enumerate(self.masters) if i not in self._momenta]
        self._adamw = torch.optim.AdamW(
            rest,
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def step(self, step: int, total: int) -> float:
        """Clip, update and copy back; return the gradient norm before clipping."""
        for master, parameter in zip(self.masters, self.working, strict=True):
            # A parameter no sample used has no gradient in this step; it still decays.
            master.grad = torch.zeros_like(master) if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        norm = nn.utils.clip_grad_norm_(self.masters, self.settings.clip_norm)
        factor = learning_rate_factor(step, total, self.settings)
        for group in self._adamw.param_groups:
            group["lr"] = factor * self.settings.learning_rate
        self._adamw.step()
        if self._muon:
            self._muon_step(factor * (self.settings.muon_learning_rate or 0.0))
        torch._foreach_copy_([p.data for p in self.working], self.masters)
        for master in self.masters:
            master.grad = None  # else a whole fp32 gradient lies idle through the next forward and backward
        return float(norm)

    @torch.no_grad()
    def _muon_step(self, rate: float) -> None:
        updates = []
        for i in self._muon:
            gradient = self.masters[i].grad
            assert gradient is not None
            self._momenta[i].lerp_(gradient, 1 - _MUON_MOMENTUM)
            updates.append(gradient.lerp(self._momenta[i], _MUON_MOMENTUM).flatten(1))
        for i, update in zip(self._muon, orthogonalize(updates, world=self.world), strict=True):
            scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
            self.masters[i].mul_(1 - rate * self.settings.weight_decay)
            self.masters[i].sub_(update.reshape(self.masters[i].shape), alpha=rate * scale)

    def state_dict(self) -> dict[str, Any]:
        """Return everything a resumed run needs to go on bit for bit."""
        return {"masters": self.masters, "momenta": self._momenta, "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        _copy_all(self.masters, state["masters"])
        _copy_all(self._momenta.values(), state["momenta"].values())
        self._adamw.load_state_dict(state["adamw"])
        torch._foreach_copy_([p.data for p in self.working], self.masters)


def _copy_all(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
