"""Guidance, of two kinds: a number that a network is told, and classifier-free guidance, which costs a second row.

Embedded (FLUX.1 dev): the network was distilled to draw at any strength, and takes it as an input beside the time.
Classifier-free (Ho & Salimans 2022, arXiv:2207.12598): v = v_negative + strength (v_caption - v_negative), where the
negative prompt is empty unless one is given. A network may do both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fluxmodel.errors import InputError
from fluxmodel.flow.solvers import VelocityField


@dataclass(frozen=True)
class Guidance:
    """How strongly images follow their prompts.

    Attributes:
        strength: of classifier-free guidance; 1 is unguided and costs half.
        embedded: what the network is told; None where it takes none.
        negative: what classifier-free guidance leads away from.
    """

    strength: float = 1.0
    embedded: float | None = None
    negative: str = ""


def choose_guidance(
    is_embedded: bool, guidance: float, true_guidance: float = 1.0, negative: str = ""
) -> Guidance:
    """Return what the numbers of a request mean to a network.

    Args:
        is_embedded: whether the network takes guidance as an input (`config.guidance_embed`).
        guidance: what it is told; of a network that takes none, the strength of classifier-free guidance.
        true_guidance: strength of classifier-free guidance beside embedded one (`true_cfg_scale` in diffusers).
        negative: what classifier-free guidance leads away from.

    Raises:
        InputError: a number is out of its range, or there is nothing it would act on.
    """
    least, meaning = (0, "what the network is told, such as 3.5") if is_embedded else (1, "1 means unguided")
    if not least <= guidance < math.inf:
        raise InputError(f"guidance is {guidance}; use at least {least} ({meaning})")
    if not 1 <= true_guidance < math.inf:
        raise InputError(f"true_guidance is {true_guidance}; use at least 1 (1 means unguided)")
    if true_guidance != 1 and not is_embedded:
        raise InputError(
            f"true_guidance is {true_guidance}, but this network embeds no guidance; give the strength as guidance"
        )
    strength = true_guidance if is_embedded else guidance
    if negative and strength == 1:
        name = "true_guidance" if is_embedded else "guidance"
        raise InputError(
            f"negative is {negative!r}, but {name} is 1 and leads away from nothing; raise it above 1"
        )
    return Guidance(float(strength), float(guidance) if is_embedded else None, negative)


def guided(conditional: VelocityField, unconditional: VelocityField, strength: float) -> VelocityField:
    """Return the guided field of two; strength 1 is the conditional field and costs one call instead of two."""
    if strength == 1.0:
        return conditional

    def velocity(x: Tensor, t: float) -> Tensor:
        return torch.lerp(unconditional(x, t), conditional(x, t), strength)

    return velocity


def guided_together(stacked: VelocityField, strength: float) -> VelocityField:
    """Return the guided field of one whose rows are the captioned ones, then the negative ones: one call for both."""

    def velocity(x: Tensor, t: float) -> Tensor:
        captioned, negative = stacked(torch.cat((x, x)), t).chunk(2)
        return torch.lerp(negative, captioned, strength)

    return velocity
