"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): v = v_empty + guidance (v_caption - v_empty)."""

from __future__ import annotations

import torch
from torch import Tensor

from fluxmodel.flow.solvers import VelocityField


def guided(conditional: VelocityField, unconditional: VelocityField, guidance: float) -> VelocityField:
    """Return the guided field; guidance 1 is the conditional field and costs one call instead of two."""
    if guidance == 1.0:
        return conditional

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        empty = unconditional(x, t)
        return torch.lerp(empty, conditional(x, t), guidance)

    return velocity
