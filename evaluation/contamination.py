"""How much of what a model is judged on lay in its training data, as `evaluation.json` says it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fluxmodel.data.caption_rows import read_rows
from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.data.leakage import measure_leakage

from .prompts import MIN_TEST_IMAGES, Benchmark
from .stopwatch import timed


@timed("leakage")
def contamination(
    dataset: CuratedDataset, benchmark: Benchmark, captions: Path | None = None
) -> dict[str, Any]:
    """Hold the benchmark's prompts and images against the training split; see `fluxmodel.data.leakage`.

    Args:
        dataset: with the split that was trained on.
        benchmark: what the model is judged on.
        captions: those the model learned from where they were written anew.

    Raises:
        ArtifactError: captions or images cannot be read.
    """
    prompts = benchmark.prompts.prompts
    learned = [row.text for row in read_rows(captions, "train")] if captions is not None else []
    if benchmark.level is None:
        return asdict(measure_leakage(dataset, prompts, None, dataset.num("test") < MIN_TEST_IMAGES, learned))
    sets = [benchmark.reference, *(each for each in (benchmark.second,) if each is not None)]
    rendered = np.concatenate([each.permute(0, 2, 3, 1).numpy() for each in sets])
    return asdict(measure_leakage(dataset, prompts, rendered, learned=learned))
