"""How much of what a model is judged on lay in its training data, as `evaluation.json` says it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.data.leakage import measure_leakage

from .prompts import MIN_TEST_IMAGES, Benchmark
from .stopwatch import timed


@timed("leakage")
def contamination(dataset: CuratedDataset, benchmark: Benchmark) -> dict[str, Any]:
    """Hold the benchmark's prompts and images against the training split; see `fluxmodel.data.leakage`."""
    prompts = benchmark.prompts.prompts
    if benchmark.level is None:
        return asdict(measure_leakage(dataset, prompts, None, dataset.num("test") < MIN_TEST_IMAGES))
    sets = [benchmark.reference, *(each for each in (benchmark.second,) if each is not None)]
    rendered = np.concatenate([each.permute(0, 2, 3, 1).numpy() for each in sets])
    return asdict(measure_leakage(dataset, prompts, rendered))
