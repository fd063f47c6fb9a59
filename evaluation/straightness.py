"""How straight the flow runs from noise to image (Liu et al. 2022, arXiv:2209.03003).

Along the path x_1 = noise -> x_0 that a sampler follows in N even steps:

    straightness error = mean over steps of |v(x_t, t) - (x_1 - x_0)|^2 / |x_1 - x_0|^2      (0 for straight paths)
    path length        = sum of |x_{t+1} - x_t| / |x_1 - x_0|                                (1 for straight paths)

Both are measured at the velocity that is followed, so a guided path is judged with its guidance.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fluxmodel.flow.schedule import sampling_times
from fluxmodel.flow.solvers import VelocityField
from fluxmodel.text_to_image import TextToImage

from .curves import as_dict
from .prompts import PromptSet
from .sampler import Sampler
from .settings import EvaluationSettings
from .statistics import Interval, clustered_bootstrap
from .stopwatch import timed

NUM_DRAWN = 24
"""Paths shown in the report."""


@dataclass(frozen=True)
class Paths:
    """The points [steps + 1, n, ...] that n images pass, noise first, and each image's two figures [n]."""

    points: Float[Tensor, "k n ..."]
    error: Float[Tensor, " n"]
    length: Float[Tensor, " n"]


@torch.inference_mode()
def follow(velocity: VelocityField, noise: Float[Tensor, "n ..."], num_steps: int) -> Paths:
    """Follow a velocity by Euler steps and measure how straight the way was."""
    times = sampling_times(num_steps).tolist()
    points, velocities = [noise], []
    for t, t_next in pairwise(times):
        velocities.append(velocity(points[-1], t))
        points.append(points[-1] + (t_next - t) * velocities[-1])
    chord = (points[0] - points[-1]).flatten(1)
    scale = chord.square().sum(1)
    error = torch.stack([(v.flatten(1) - chord).square().sum(1) / scale for v in velocities]).mean(0)
    steps = [(b - a).flatten(1).norm(dim=1) for a, b in pairwise(points)]
    return Paths(torch.stack(points), error, torch.stack(steps).sum(0) / scale.sqrt())


def measure_straightness(
    pipe: TextToImage,
    prompts: list[str],
    seeds: list[int],
    guidance: float,
    num_steps: int,
    batch_size: int = 250,
) -> tuple[dict[str, Interval], Paths]:
    """Return both figures with intervals over the prompts, and the paths."""
    size = (pipe.index.image_size, pipe.index.image_size)
    times, parts = sampling_times(num_steps).tolist()[:-1], []
    for start in range(0, len(prompts), batch_size):
        rows = slice(start, start + batch_size)
        velocity = pipe.velocity(prompts[rows], guidance, size, times)
        parts.append(follow(velocity, pipe.noise(seeds[rows], size), num_steps))
    paths = Paths(
        torch.cat([p.points for p in parts], dim=1),
        torch.cat([p.error for p in parts]),
        torch.cat([p.length for p in parts]),
    )
    figures = {"straightness_error": paths.error, "path_length": paths.length}
    return {name: clustered_bootstrap(v.double().numpy(), prompts) for name, v in figures.items()}, paths


@timed("straightness")
def straightness_of(
    sampler: Sampler, asked: PromptSet, variants: tuple[str, ...], settings: EvaluationSettings
) -> dict[str, Any] | None:
    """Measure the first prompts before and after Reflow, on the same noise; None where there is nothing to measure.

    A single step is straight by itself. Before: the base as it taught, guided, and for its own sake unguided. After:
    the rectified network, unguided.
    """
    num = min(settings.num_paths, len(asked))
    if not num or settings.steps[-1] == 1 or not isinstance(sampler.pipe(""), TextToImage):
        return None
    base = "" if variants[0] == "base" else "base"
    where = [("base_guided", base, settings.guidance), ("base_unguided", base, 1.0)]
    if variants[0] == "rectified":
        where.append(("rectified", "", 1.0))
    steps, rows, paths = settings.steps[-1], [], {}
    for curve, variant, guidance in where:
        figures, paths[curve] = measure_straightness(
            sampler.pipe(variant), asked.prompts[:num], asked.seeds[:num], guidance, steps
        )
        rows.append({"curve": curve, "guidance": guidance, **{k: as_dict(v) for k, v in figures.items()}})
    drawn = drawn_paths(paths["base_guided"], paths["rectified"]) if "rectified" in paths else {}
    return {"num_steps": steps, "n": num, "rows": rows, "paths": drawn}


def drawn_paths(before: Paths, after: Paths, num: int = NUM_DRAWN) -> dict[str, Any]:
    """Return both sets of paths as lines in one plane, for a picture.

    The plane is that of the two directions in which the ends of the paths before vary most, which is where the
    choices between images are made; the first `num` images are kept.
    """
    points = {"before": before.points.flatten(2), "after": after.points.flatten(2)}
    ends = points["before"][-1].double()
    _, _, directions = torch.linalg.svd(ends - ends.mean(0), full_matrices=False)
    plane = directions[:2].T
    lines = {}
    for name, each in points.items():
        flat = (each[:, :num].double() - ends.mean(0)) @ plane
        lines[name] = np.round(flat.transpose(0, 1).numpy(), 3).tolist()
    return lines
