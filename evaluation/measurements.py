"""The numbers of an evaluation by name, each with its interval and with what it was measured on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .curves import Point
from .drawing_cost import DrawingCost
from .identity import Identity, Measurement, code_digest, digest_of_directory
from .instruments import Instruments, Measured, agreement
from .prompts import Benchmark, PromptSet, noise_seed
from .settings import EvaluationSettings
from .statistics import Interval, mean_share
from .stopwatch import timed

_DIRECTION = {
    "fd": "lower",
    "kid": "lower",
    "undecided": "lower",
    "extra_objects": "lower",
    "mind": "lower",
    "memorised": "lower",
}


@timed("digests")
def shared_identity(
    model_dir: Path,
    dataset_dir: Path,
    benchmark: Benchmark,
    instruments: Instruments,
    settings: EvaluationSettings,
    precision: str,
) -> Identity:
    """The identity that all numbers of an evaluation share."""
    size = benchmark.reference.shape[-1]
    encoder = instruments.text_image
    return Identity(
        model=digest_of_directory(model_dir),
        dataset=digest_of_directory(dataset_dir, (".json", ".parquet")),
        reference=benchmark.reference_source,
        feature_extractor=instruments.extractor.label,
        judge=instruments.judge.name if instruments.judge else None,
        text_image=encoder and f"{encoder}, {settings.num_candidates} candidates",
        prompts=benchmark.prompts.identity,
        seeds=f"{noise_seed(settings)} and on, one an image",
        solver="Euler",
        steps=None,
        guidance=None,
        n=len(benchmark.prompts),
        resize=f"{size}x{size}, none",
        dtype=f"{precision} network in batches of {settings.batch_size}, fp32 solver and autoencoder",
        code=code_digest(),
    )


@timed("intervals")
def headline_metrics(
    points: list[Point],
    headline: Point,
    further: dict[str, Measured],
    instruments: Instruments,
    cost: DrawingCost,
    trained_on: dict[str, str],
) -> list[Measurement]:
    """Every headline number with its interval, where its identity departs from the shared one, and its direction.

    `trained_on` is how the share memorised departs: it has training images for a second reference.
    """
    at_headline = {"steps": headline.steps, "guidance": headline.guidance}
    found = _measurements("", headline.measured.intervals, at_headline)
    for name, interval in headline.measured.whole.items():
        departs = at_headline | (trained_on if name == "memorised" else {})
        found += _measurements("", {name: interval}, departs)
    found += _agreement(instruments, headline.measured, at_headline)
    found += cost.measurements(at_headline)
    guided = [point for point in points if point.guidance > 1]
    last = max(guided, key=lambda point: point.steps) if guided else headline
    if last is not headline:
        at_last = {"steps": last.steps, "guidance": last.guidance}
        found += _measurements("guided_max/", last.measured.intervals, at_last)
    for name, measured in further.items():
        steps, guidance = measured.place
        where = {"steps": steps, "guidance": guidance, **_of(measured.asked)}
        found += _measurements(f"{name}/", measured.intervals, where)
    return found


def _of(asked: PromptSet) -> dict[str, Any]:
    return {"prompts": asked.identity, "n": len(asked)}


def _measurements(prefix: str, intervals: dict[str, Interval], identity: dict[str, Any]) -> list[Measurement]:
    return [
        Measurement(
            name=prefix + name,
            value=each.value,
            ci_low=None if math.isnan(each.ci_low) else each.ci_low,
            ci_high=None if math.isnan(each.ci_high) else each.ci_high,
            n=each.n,
            method=each.method,
            direction=_DIRECTION.get(name, "higher"),  # type: ignore[arg-type]
            identity=identity,
        )
        for name, each in intervals.items()
    ]


def _agreement(instruments: Instruments, measured: Measured, identity: dict[str, Any]) -> list[Measurement]:
    """How often the learned detector says the same as the judge, and what it would have given itself."""
    other = instruments.detector_verdicts(measured)
    if other is None or measured.verdicts is None:
        return []
    prompts, seed = measured.asked.prompts, instruments.settings.seed
    found = {
        "detector_attr_acc": mean_share(other.accuracy, prompts, seed),
        "detector_agreement": mean_share(agreement(measured.verdicts, other), prompts, seed),
    }
    return [
        Measurement(name=name, value=each.value, ci_low=each.ci_low, ci_high=each.ci_high, n=each.n,
                    method=each.method, direction="none", identity=identity)
        for name, each in found.items()
    ]  # fmt: skip
