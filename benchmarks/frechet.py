"""The Frechet distance at Inception's 2048 dimensions, beside torchmetrics' compute and SciPy's matrix square root.

Two cases. Fewer images than dimensions: ours takes singular values of the features. More: all sides begin with the
means and covariances. torchmetrics' states are filled beforehand, so its time is its compute alone.
Run: python -m benchmarks.frechet --json
"""

import argparse
import warnings

import numpy as np
import torch
from scipy import linalg
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from benchmarks.measure import Row, faster, median_seconds, publish, show
from evaluation.frechet import Moments, frechet_distance, frechet_from_moments

NUM_FEATURES = 2048


class Given(nn.Module):
    """Takes features for images."""

    num_features = NUM_FEATURES

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description="Time the Frechet distance at 2048 dimensions.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count")
    parser.add_argument("--few", type=int, default=1000, help="images a side, fewer than dimensions")
    parser.add_argument("--many", type=int, default=5000, help="images a side, more than dimensions")
    arguments = parser.parse_args()
    rows, figures = [], {}
    for count in (arguments.few, arguments.many):
        found, differences = compared(count, arguments.rounds)
        rows += found
        figures |= differences
    figures["threads"] = torch.get_num_threads()
    result = publish("frechet", rows, ("torch", "torchmetrics", "scipy", "numpy"), figures)
    show(result, arguments.json)


def compared(count: int, rounds: int) -> tuple[list[Row], dict[str, float]]:
    """Rows against both peers at `count` images a side, and how far their answers lie from ours."""
    real, fake = features(count, 0), features(count, 1) + 0.05
    metric = filled(real, fake)
    sides = [Moments.of(side) for side in (real, fake)]
    is_few = count <= NUM_FEATURES
    contestants = {
        "ours": lambda: frechet_distance(real, fake) if is_few else float(frechet_from_moments(*sides)),
        "scipy": lambda: by_square_root(*sides),
        "torchmetrics": lambda: float(metric.compute()),
    }
    answers = {name: call() for name, call in contestants.items()}
    metric._computed = None
    contestants["torchmetrics"] = lambda: uncached(metric)
    seconds = median_seconds(contestants, rounds)
    case = f"{count} images of {NUM_FEATURES} features"
    rows = [faster(f"{case}, {peer}", seconds["ours"], seconds[peer]) for peer in ("scipy", "torchmetrics")]
    return rows, {
        f"{case}: relative difference from {peer}": abs(answers["ours"] / answers[peer] - 1)
        for peer in ("scipy", "torchmetrics")
    }


def features(count: int, seed: int) -> Tensor:
    """Features whose spread falls off over the dimensions, as a network's do, [count, 2048] in fp32."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0, 4, NUM_FEATURES).neg().exp()
    turn = torch.randn(NUM_FEATURES, NUM_FEATURES, generator=torch.Generator().manual_seed(99))
    return (torch.randn(count, NUM_FEATURES, generator=generator) * scale) @ turn / NUM_FEATURES**0.5


def filled(real: Tensor, fake: Tensor) -> FrechetInceptionDistance:
    """Return torchmetrics' metric with both sides taken in."""
    metric = FrechetInceptionDistance(Given())
    metric.set_dtype(torch.float64)
    for side, is_real in ((real, True), (fake, False)):
        metric.update(side[..., None, None].double(), real=is_real)
    return metric


def uncached(metric: FrechetInceptionDistance) -> float:
    """Compute again what torchmetrics would remember."""
    metric._computed = None
    return float(metric.compute())


def by_square_root(real: Moments, fake: Moments) -> float:
    """The usual form: SciPy's square root of the product of the covariances."""
    covariances = [side.covariance.numpy() for side in (real, fake)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the product is singular where images are few; SciPy says so
        root = np.real(linalg.sqrtm(covariances[0] @ covariances[1]))
    shift = (real.mean - fake.mean).square().sum()
    return float(shift + sum(np.trace(each) for each in covariances) - 2 * np.trace(root))


if __name__ == "__main__":
    main()
