"""What the numbers would be without a model: the floors and ceilings beside them.

Real against real is the best a model can reach at its number of images; noise is what an untrained one gives; the
model's own images against shuffled captions show how much of a score comes without following the prompt.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from .curves import Point, as_dict
from .distribution import whole_set
from .frechet import ReferenceFeatures
from .instruments import Instruments, Measured
from .kid import kernel_distance
from .prompts import Benchmark, PromptSet
from .settings import EvaluationSettings
from .stopwatch import timed
from .verdicts import compare

_SHUFFLED = ("attr_acc", "all_correct", "clip", "retrieval")


@timed("floors and ceilings")
def measure_baselines(
    instruments: Instruments, benchmark: Benchmark, headline: Point, settings: EvaluationSettings
) -> dict[str, dict[str, Any]]:
    """Baselines by name; each holds a note and the intervals of what it can be measured by."""
    real: dict[str, Any] = {}
    if benchmark.real is not None:
        real = _intervals(instruments.measure(benchmark.real, benchmark.prompts, distances=False))
    real |= _real_against_real(instruments, benchmark)
    generator = torch.Generator().manual_seed(settings.seed)
    noise = torch.randint(0, 256, headline.measured.images.shape, generator=generator, dtype=torch.uint8)
    return {
        "real_against_real": {"note": "other real images in the model's place", **real},
        "noise": {
            "note": "uniformly random pixels",
            **_intervals(instruments.measure(noise, benchmark.prompts)),
        },
        "shuffled_captions": {
            "note": "the model's images at the headline point, judged by each other's captions",
            **_shuffled(instruments, headline.measured, settings),
        },
    }


def _intervals(measured: Measured) -> dict[str, Any]:
    return {name: as_dict(interval) for name, interval in measured.intervals.items()}


def _real_against_real(instruments: Instruments, benchmark: Benchmark) -> dict[str, Any]:
    """Distances of a second draw of real images; on folders between two halves of the reference, so of fewer."""
    if benchmark.second is not None:
        features, reference = instruments.extractor(benchmark.second), instruments.reference
    else:
        half = len(instruments.reference.features) // 2
        features = instruments.reference.features[half:]
        reference = ReferenceFeatures(instruments.reference.features[:half])
    return {
        "fd": as_dict(reference.distance(features)),
        "kid": as_dict(kernel_distance(reference.features, features)),
        **{name: as_dict(each) for name, each in whole_set(reference.features, features).items()},
    }


def _shuffled(instruments: Instruments, measured: Measured, settings: EvaluationSettings) -> dict[str, Any]:
    """The same images with captions moved to other images."""
    order = derangement(len(measured.asked), settings.seed)
    asked = measured.asked
    moved = PromptSet(
        name="shuffled",
        prompts=[asked.prompts[index] for index in order],
        seeds=asked.seeds,
        source=asked.source,
        asked=asked.asked.take(order) if asked.asked is not None else None,
    )
    if measured.reading is not None and moved.asked is not None:
        verdicts = compare(moved.asked, measured.reading)
    else:
        verdicts = None
    retold = instruments.measure(measured.images, replace(moved, asked=None), distances=False)
    retold.verdicts = verdicts
    found = _intervals(retold)
    return {name: found[name] for name in _SHUFFLED if name in found}


def derangement(n: int, seed: int) -> np.ndarray:
    """A reordering of n that leaves nothing in place: a shuffled circle moved on by one."""
    circle = np.random.default_rng(np.random.SeedSequence([seed, n])).permutation(n)
    order = np.empty(n, np.int64)
    order[circle] = np.roll(circle, 1)
    return order
