"""How far the scene judge can be trusted: its verdict on scenes whose truth is known, whole and damaged.

The autoencoder's reconstructions matter most, for the model draws through the same decoder: what they lose, no model
can keep, and what the judge gets wrong on them it gets wrong on the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .features import unit_range
from .prompts import draw_scenes, render_tensor, scene_prompts
from .scene_judge import SceneJudge
from .settings import EvaluationSettings
from .stopwatch import timed
from .templates import gaussian_blur
from .verdicts import ATTRIBUTES, compare

BLURS = (0.7, 1.5)
NOISES = (8, 24)


@timed("calibrating the judge")
def calibrate(
    judge: SceneJudge, settings: EvaluationSettings, autoencoder: Any = None
) -> list[dict[str, Any]]:
    """One row a kind of image: shares of attributes right, undecided and wrong, and of images all correct."""
    if not settings.num_calibration:
        return []
    level = judge.bank.level.name
    scenes = draw_scenes(level, "calibration", settings.seed, settings.num_calibration)
    asked = scene_prompts("calibration", level, scenes, 0, "").asked
    rows = []
    for name, images in damaged(render_tensor(scenes), settings.seed, autoencoder):
        verdicts = compare(asked, judge.read(images))  # type: ignore[arg-type]
        right, undecided = verdicts.accuracy.mean(), verdicts.undecided_share.mean()
        rows.append(
            {
                "images": name,
                "right": float(right),
                "undecided": float(undecided),
                "wrong": float(max(0.0, 1 - right - undecided)),
                "all_correct": float(verdicts.all_correct.mean()),
                "n": len(scenes),
                "by_attribute": {
                    each: float(verdicts.right[each].sum() / max(1, verdicts.asked[each].sum()))
                    for each in ATTRIBUTES
                },
            }
        )
    return rows


def damaged(clean: Tensor, seed: int, autoencoder: Any = None) -> Iterator[tuple[str, Tensor]]:
    """The same uint8 images [n, 3, H, W] clean and damaged in named ways."""
    yield "clean renders", clean
    if autoencoder is not None:
        yield "autoencoder's reconstructions", reconstruct(autoencoder, clean)
    for sigma in BLURS:
        yield f"blurred by {sigma} pixels", _as_bytes(gaussian_blur(clean.float(), sigma))
    generator = torch.Generator().manual_seed(seed)
    for sigma in NOISES:
        yield (
            f"noise of {sigma} of 255",
            _as_bytes(clean + sigma * torch.randn(clean.shape, generator=generator)),
        )


@torch.inference_mode()
def reconstruct(autoencoder: Any, images: Tensor) -> Tensor:
    """Through the autoencoder and back."""
    batches = [autoencoder.decode(autoencoder.encode(unit_range(batch))) for batch in images.split(250)]
    return _as_bytes((torch.cat(batches) + 1) * 127.5)


def _as_bytes(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).byte()
