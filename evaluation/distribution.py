"""What only a whole set of images tells, at the headline point: does it cover the real ones, is it learnt by heart?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fluxmodel.data.curated_dataset import CuratedDataset

from .calibration import reconstruct
from .contrast import contrast
from .instruments import Instruments, Measured
from .manifold import NAMES, NEIGHBOURS, manifold
from .mind import monge_distance
from .nearest import TrainingImages, memorised_share
from .prompts import MIN_TEST_IMAGES, Benchmark
from .settings import EvaluationSettings
from .statistics import Interval, clustered_bootstrap
from .stopwatch import timed

_MOST_BYTES = 2**30  # of training images held at once; 20 000 of 128 x 128


@timed("coverage")
def whole_set(reference: Tensor, features: Tensor) -> dict[str, Interval]:
    """Precision, recall, density, coverage and the Monge distance of features [m, d] against [n, d], by name."""
    found = {"mind": monge_distance(reference, features)}
    return manifold(reference, features) | found if min(len(reference), len(features)) > NEIGHBOURS else found


def whole_contrast(measured: Measured) -> dict[str, Interval]:
    """Mean contrast of the images, by name."""
    return {"contrast": clustered_bootstrap(contrast(measured.images), measured.asked.prompts, measured.seed)}


def measure_distribution(
    instruments: Instruments,
    benchmark: Benchmark,
    dataset: CuratedDataset,
    measured: Measured,
    settings: EvaluationSettings,
    autoencoder: Any = None,
) -> dict[str, Any] | None:
    """Add to `measured` what its images tell as a set; returns what is to be said of the nearest training images.

    What cannot be measured is noted in `instruments.skipped`.
    """
    measured.whole |= whole_contrast(measured)
    if measured.features is not None:
        measured.whole |= whole_set(instruments.reference.features, measured.features)
        for name in NAMES:
            if name not in measured.whole:
                instruments.skipped[name] = f"it takes more than {NEIGHBOURS} images on each side"
    reason = _why_not(benchmark, dataset, measured, settings)
    if reason:
        instruments.skipped["memorised"] = reason
        return None
    training = _training(instruments, benchmark, dataset, settings, autoencoder)
    measured.nearest = training.nearest(measured.images)
    measured.whole["memorised"] = memorised_share(measured.nearest, measured.asked.prompts, measured.seed)
    return training.summary(measured.nearest)


def _why_not(
    benchmark: Benchmark, dataset: CuratedDataset, measured: Measured, settings: EvaluationSettings
) -> str:
    """Why nearest training images are not sought; empty where they are."""
    if not settings.num_training:
        return "num_training is 0, so no training images were read"
    if not dataset.num("train"):
        return "the data set has no training images"
    if benchmark.level is None and dataset.num("test") < MIN_TEST_IMAGES:
        return "no real images are left that were not trained on, to say how near is near"
    if measured.images.shape[1:] != benchmark.reference.shape[1:]:
        return "the images are of another size than the training images"
    return ""


@timed("nearest training images")
def _training(
    instruments: Instruments,
    benchmark: Benchmark,
    dataset: CuratedDataset,
    settings: EvaluationSettings,
    autoencoder: Any,
) -> TrainingImages:
    limit = min(settings.num_training, max(1, _MOST_BYTES // benchmark.reference[0].numel()))
    pixels = torch.from_numpy(dataset.pixels("train", limit)).permute(0, 3, 1, 2).contiguous()
    redraw = None if autoencoder is None else (lambda images: reconstruct(autoencoder, images))
    extractor = instruments.extractor
    return TrainingImages(pixels, benchmark.reference, extractor, redraw, extractor.of_real(pixels))


def trained_on(nearest: dict[str, Any] | None, benchmark: Benchmark) -> dict[str, str]:
    """How the identity of the share memorised departs from the shared one: it has two references."""
    if nearest is None:
        return {}
    return {"reference": f"{nearest['num_training']} training images, and {benchmark.reference_source}"}
