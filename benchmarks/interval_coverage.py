"""How often the intervals hold the truth, where the truth is known: evaluations resampled from trained seeds.

The population is a trained seed's images (benchmarks/trained_seeds.py): 1000 prompts x 8 noise seeds. Evaluations are
drawn from it prompt by prompt with replacement, so what each interval should hold is the population's own value;
for a Frechet distance, whose expectation depends on the number of images, the mean over all evaluations drawn.

Run after benchmarks.trained_seeds: python -m benchmarks.interval_coverage [--trials 600] --json
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Row, publish, show
from benchmarks.trained_seeds import PROMPTS, file_of, read_pool
from evaluation.statistics import Interval, clustered_bootstrap, wilson

STATED = 0.95


def main() -> int:
    """Draw evaluations, count intervals that hold the truth, publish."""
    parser = argparse.ArgumentParser(description="Coverage of the 95 % intervals.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--kind", default="rectified", help="which trained seeds")
    parser.add_argument("--trials", type=int, default=600, help="evaluations drawn an interval")
    arguments = parser.parse_args()
    if not file_of(arguments.kind).exists():
        print(
            "No verdicts to resample: `make demo`, then `python -m benchmarks.trained_seeds`.",
            file=sys.stderr,
        )
        return 0
    pool, trials = read_pool(arguments.kind), arguments.trials
    correct, attributes = pool.all_correct.astype(float), pool.right / pool.asked[:, None]
    found = {
        "Wilson, all_correct, 1000 images": shares(correct, 1000, 1, trials),
        "Wilson, all_correct, 100 images": shares(correct, 100, 1, trials),
        "bootstrap, attr_acc, 1000 prompts x 1": means(attributes, 1000, 1, trials),
        "bootstrap, attr_acc, 1000 prompts x 4": means(attributes, 1000, 4, trials),
        "bootstrap, all_correct, 100 prompts x 4": means(correct, 100, 4, trials),
        "bootstrap, paired all_correct, 1000 x 1": differences(correct, 1000, 1, trials),
        "bootstrap, paired all_correct, 1000 x 8": differences(correct, 1000, 8, trials),
        "bootstrap, paired attr_acc, 1000 x 1": differences(attributes, 1000, 1, trials),
    }
    from tasks.home import open_home

    folder = open_home().root / "benchmarks" / f"seeds_{arguments.kind}"
    if (folder / "1" / "features.safetensors").exists():
        found |= distances(folder, trials)
    rows = [Row(f"coverage: {name}", rate, STATED, rate / STATED, "share") for name, rate in found.items()]
    show(
        publish("interval_coverage", rows, ("numpy", "torch"), {"evaluations drawn": trials}), arguments.json
    )
    return 0


def held(intervals: Iterable[tuple[Interval, Any]]) -> float:
    """Return the share of intervals that hold their truth."""
    return float(np.mean([each.ci_low <= truth <= each.ci_high for each, truth in intervals]))


def draws(
    shape: tuple[int, ...], prompts: int, noises: int, trials: int
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Yield indices of one evaluation's prompts [prompts, 1] and noise seeds [prompts, noises], no noise twice."""
    rng = np.random.default_rng([prompts, noises])
    for _ in range(trials):
        order = rng.random((prompts, shape[-1])).argsort(1)[:, :noises]
        yield rng.integers(shape[-2], size=(prompts, 1)), order


def shares(scores: np.ndarray, prompts: int, noises: int, trials: int) -> float:
    """Return the coverage of Wilson's interval, seeds taken in turn."""
    seeds = itertools.cycle(scores)
    return held(
        (wilson(int((drawn := seed[where]).sum()), drawn.size), float(seed.mean()))
        for seed, where in zip(seeds, draws(scores.shape, prompts, noises, trials), strict=False)
    )


def means(scores: np.ndarray, prompts: int, noises: int, trials: int) -> float:
    """Return the coverage of the bootstrap by prompt of a mean."""
    names = [str(prompt) for prompt in range(prompts) for _ in range(noises)]
    seeds = itertools.cycle(scores)
    return held(
        (clustered_bootstrap(seed[where].ravel(), names), float(seed.mean()))
        for seed, where in zip(seeds, draws(scores.shape, prompts, noises, trials), strict=False)
    )


def differences(scores: np.ndarray, prompts: int, noises: int, trials: int) -> float:
    """Return the coverage of the bootstrap by prompt of a paired difference, two seeds drawn on the same noise."""
    pairs = itertools.combinations(scores, 2)
    return means(np.stack([new - old for new, old in pairs]), prompts, noises, trials)


def distances(folder: Path, trials: int) -> dict[str, float]:
    """Return the coverage of the jackknife of a Frechet distance, and of a paired difference of two."""
    import torch
    from safetensors.torch import load_file

    from benchmarks.reflow import latest
    from evaluation.features import detector_extractor
    from evaluation.frechet import ReferenceFeatures
    from evaluation.prompts import draw_scenes, render_tensor
    from tasks.home import open_home

    one, other = (load_file(folder / seed / "features.safetensors")["features"] for seed in ("0", "1"))
    extractor = detector_extractor(latest(open_home(), "prepare-detector"))
    extractor.standardise(render_tensor(draw_scenes("full", "reference", 0, PROMPTS)))
    real = extractor(render_tensor(draw_scenes("full", "second", 0, 4 * PROMPTS)))
    rng, single, paired = np.random.default_rng(0), [], []
    for prompts, order in draws(tuple(one.shape[:2]), PROMPTS, 1, trials):
        rows = torch.from_numpy(prompts[:, 0]), torch.from_numpy(order[:, 0])
        reference = ReferenceFeatures(real[torch.from_numpy(rng.integers(len(real), size=PROMPTS))])
        single.append(reference.distance(one[rows]))
        paired.append(reference.difference(one[rows], other[rows]))
    return {
        f"jackknife, {name}, 1000 images": held(
            (each, np.mean([one.value for one in found])) for each in found
        )
        for name, found in (("Frechet distance", single), ("paired difference of two", paired))
    }


if __name__ == "__main__":
    sys.exit(main())
