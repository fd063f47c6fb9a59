"""One model judged: prompts to images, images to numbers with intervals, numbers to files.

The output directory holds evaluation.json (everything, by name), rows.parquet (one row an image), grids and curves as
PNG, gallery.json (the images the report shows) and report.html.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fluxmodel.data.curated_dataset import CuratedDataset

from .baselines import measure_baselines
from .calibration import calibrate
from .contamination import contamination
from .curves import CURVES, Place, Point, draw_curves, headline_point
from .distribution import measure_distribution, trained_on
from .drawing_cost import DrawingCost, drawing_cost
from .entrant import Entrant, enter
from .feature_file import write_features
from .given_groups import given_groups, unanswered
from .groups import group_rows
from .instruments import Instruments, Measured, card_of
from .measurements import headline_metrics, shared_identity
from .prompts import Benchmark, build_benchmark
from .sampler import Sampler
from .scene_judge import SceneJudge
from .settings import ContestantSettings, EvaluationSettings
from .stopwatch import clocked, laps, timed
from .straightness import straightness_of
from .timeless import write_timeless

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation found and where it lies."""

    directory: Path
    document: dict[str, Any]

    @property
    def html(self) -> Path:
        """The page that tells it."""
        return self.directory / "report.html"

    def value(self, name: str) -> float | None:
        """Value of a metric by its name; None where it was not measured."""
        return next((each["value"] for each in self.document["metrics"] if each["name"] == name), None)


@clocked
def evaluate(
    model_dir: Path,
    dataset_dir: Path,
    evaluators: dict[str, Path],
    settings: EvaluationSettings,
    output: Path,
    progress: Progress | None = None,
    on_point: Callable[[Point], None] | None = None,
    pipe: Any = None,
    lora: Path | None = None,
    prompts: Path | None = None,
    contestant: ContestantSettings | None = None,
    cache: Path | None = None,
    pixels: Path | None = None,
    captions: Path | None = None,
) -> EvaluationReport:
    """Judge a model and write the evaluation into the directory `output`.

    Args:
        model_dir: what `TextToImage.from_pretrained` reads, or a diffusers pipeline.
        dataset_dir: the curated dataset.
        evaluators: places by name: dual_encoder; detector, style_classifier, inception (a file) if there are any.
        output: created where missing.
        progress, on_point: told (images drawn, images in all, what is being drawn), and each finished point.
        pipe: the model where it is loaded already; otherwise it is read from `model_dir`.
        lora: a LoRA to try on the model.
        prompts: file of prompts to ask instead of the data's.
        contestant: how the model is drawn where it is a diffusers pipeline.
        cache, pixels: folders for features of real images, and of all caches for decoded ones; None keeps none.
        captions: those the model learned from where they were written anew, in which leakage is looked for too.
    """
    started = time.perf_counter()
    benchmark = build_benchmark(dataset := CuratedDataset(dataset_dir, pixels), settings, prompts)
    entrant = enter(model_dir, pipe, benchmark.reference.shape[-1], settings, contestant)
    instruments = Instruments(evaluators, benchmark, settings, cache)
    drawn = _Counter(progress, _num_images(benchmark, entrant.places))
    made = _draw(entrant, instruments, benchmark, settings, drawn, on_point)
    headline = made.headline
    nearest = measure_distribution(
        instruments, benchmark, dataset, headline.measured, settings, entrant.pipe.autoencoder
    )
    adopted = _measure_lora(entrant, lora, evaluators, benchmark, settings, drawn)
    identity = shared_identity(model_dir, dataset_dir, benchmark, instruments, settings, entrant.precision)
    told = (made.points, headline, made.further)
    numbers = headline_metrics(*told, instruments, made.cost, trained_on(nearest, benchmark))
    document = {
        "identity": entrant.own_identity(identity).model_dump(),
        "headline": headline.place() | {"chosen_by": made.chosen_by},
        "metrics": [each.model_dump() for each in numbers],
        "nearest": nearest, "leakage": contamination(dataset, benchmark, captions),
        "curves": {name: rows for name in CURVES if (rows := [p.row() for p in made.points if p.curve == name])},
        "straightness": made.straightness, "lora": adopted,
        "baselines": measure_baselines(instruments, benchmark, headline, settings),
        "chance": {"retrieval": instruments.chance(benchmark.prompts)},
        "judge": _judge(instruments.judge, settings, entrant), **_circumstances(entrant, evaluators, dataset, settings),
        **_groups(headline.measured, made.further, instruments.skipped),
        "cost": _cost(started, drawn.total),
    }  # fmt: skip
    _keep_features(output, headline.measured, instruments)
    return _write(output, _finite(document), *told, benchmark, dataset.record)


@dataclass(frozen=True)
class _Made:
    """Everything a model drew, measured: the curves, further sets at the headline point, and what drawing costs."""

    points: list[Point]
    headline: Point
    chosen_by: str
    further: dict[str, Measured]
    cost: DrawingCost
    straightness: dict[str, Any] | None


def _draw(
    entrant: Entrant,
    instruments: Instruments,
    benchmark: Benchmark,
    settings: EvaluationSettings,
    drawn: _Counter,
    on_point: Callable[[Point], None] | None,
) -> _Made:
    """Draw and measure every point of the curves, choose the headline, and draw what is only asked there."""
    prompts, trials = benchmark.prompts, settings.num_latency_trials
    with entrant.sampler(settings) as sampler:
        points = draw_curves(sampler, instruments, prompts, entrant.places, settings, drawn, on_point)
        headline, chosen_by = headline_point(points)
        further = _further_sets(sampler, instruments, benchmark, headline, points, drawn)
        cost = drawing_cost(sampler, prompts, headline, trials, entrant.computes_in)
        straightness = straightness_of(sampler, prompts, entrant.variants, settings)
    return _Made(points, headline, chosen_by, further, cost, straightness)


def _judge(judge: SceneJudge | None, settings: EvaluationSettings, entrant: Entrant) -> dict[str, Any]:
    """The headline judge, and how far it can be trusted."""
    if judge is None:
        return {"name": None, "calibration": []}
    return {"name": judge.name, "calibration": calibrate(judge, settings, entrant.pipe.autoencoder)}


def _keep_features(output: Path, measured: Measured, instruments: Instruments) -> None:
    if measured.features is not None:
        output.mkdir(parents=True, exist_ok=True)
        reference = instruments.reference.features
        write_features(output, measured.features, reference, instruments.extractor.label)


def _circumstances(
    entrant: Entrant,
    evaluators: dict[str, Path],
    dataset: CuratedDataset,
    settings: EvaluationSettings,
) -> dict[str, Any]:
    """What was drawn and how, what was judged with, and on what."""
    return {
        "contestant": entrant.record,
        "evaluators": {name: card_of(directory) for name, directory in evaluators.items()},
        "settings": settings.semantic(),
        "data": str(dataset.record.get("data", "")),
        "thresholds": settings.thresholds,
    }


def _groups(measured: Measured, further: dict[str, Measured], skipped: dict[str, str]) -> dict[str, Any]:
    """The headline by group, and what was not measured."""
    groups = group_rows(measured, further.get("held_out"), measured.seed) | given_groups(measured)
    return {"groups": groups, "skipped": skipped | unanswered(measured)}


def _further_sets(
    sampler: Sampler,
    instruments: Instruments,
    benchmark: Benchmark,
    headline: Point,
    points: list[Point],
    drawn: _Counter,
) -> dict[str, Measured]:
    """Unseen combinations and prompts in full, at the headline point and at the guided one with most steps."""
    guided = [point for point in points if point.guidance > 1]
    last = max(guided, key=lambda point: point.steps) if guided else headline
    asked = [("held_out", benchmark.held_out, headline), ("detailed", benchmark.detailed, headline)]
    if last is not headline:
        asked.append(("held_out_guided_max", benchmark.held_out, last))
        asked.append(("detailed_guided_max", benchmark.detailed, last))
    sets = [(name, prompts, at) for name, prompts, at in asked if prompts is not None]
    drawn.total = drawn.done + sum(len(prompts) for _, prompts, _ in sets)
    found = {}
    for name, prompts, at in sets:
        said = f"{prompts.name} prompts, {at.steps} step{'s' if at.steps > 1 else ''}"
        images = sampler.sample(
            prompts, at.steps, at.guidance, lambda n, said=said: drawn(n, said), at.variant
        )
        found[name] = instruments.measure(images, prompts, distances=False)
        found[name].place = (at.steps, at.guidance)
    return found


@timed("trying the LoRA")
def _measure_lora(
    entrant: Entrant,
    lora: Path | None,
    evaluators: dict[str, Path],
    benchmark: Benchmark,
    settings: EvaluationSettings,
    drawn: _Counter,
) -> dict[str, Any] | None:
    """Try a LoRA on the base and on the rectified model; None where there is no LoRA."""
    if lora is None:
        return None
    from fluxmodel.encoders.style_classifier import StyleClassifier
    from fluxmodel.text_to_image import TextToImage

    from .style import LoraSettings, measure_lora

    drawn(0, "the LoRA's images")
    is_rectified = entrant.variants[0] == "rectified"
    return measure_lora(
        TextToImage.from_pretrained(entrant.directory, "base"),
        TextToImage.from_pretrained(entrant.directory) if is_rectified else None,
        lora,
        StyleClassifier.from_directory(evaluators["style_classifier"]),
        benchmark.level,
        LoraSettings(
            num_prompts=settings.num_lora,
            seed=settings.seed,
            base_steps=settings.lora_steps,
            guidance=settings.guidance,
            rectified_steps=settings.rectified_steps[:2],
            precision=entrant.precision,
        ),
        captions=benchmark.prompts.prompts,
    )


def _num_images(benchmark: Benchmark, where: list[Place]) -> int:
    """How many images are drawn at least; what follows the curves depends on what they show."""
    further = len(benchmark.held_out or ()) + len(benchmark.detailed or ())
    return len(where) * len(benchmark.prompts) + further


class _Counter:
    """Counts drawn images and tells `progress`; the total grows by what could not be foreseen."""

    def __init__(self, progress: Progress | None, total: int):
        self.progress = progress or (lambda done, total, message: None)
        self.total = total
        self.done = 0

    def __call__(self, count: int, message: str) -> None:
        self.done += count
        self.total = max(self.total, self.done)
        self.progress(self.done, self.total, message)


def _cost(started: float, num_images: int) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "images": num_images,
        "peak_memory_mib": round(peak),
        "parts": {name: round(seconds, 2) for name, seconds in laps().items()},
    }


def _finite(value: Any) -> Any:
    """The same document with null for what is not a number, as JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _write(
    output: Path,
    document: dict[str, Any],
    points: list[Point],
    headline: Point,
    further: dict[str, Measured],
    benchmark: Benchmark,
    curation: dict[str, Any],
) -> EvaluationReport:
    from .charts import save_curves
    from .grids import save_grids, save_story_grids
    from .report import write_report
    from .rows import write_rows

    output.mkdir(parents=True, exist_ok=True)
    write_rows(output / "rows.parquet", points, further)
    save_grids(
        output, points, headline, further.get("held_out"), benchmark, document["settings"]["grid_size"]
    )
    save_curves(output / "curves.png", document)
    save_story_grids(output, document)
    (output / "evaluation.json").write_text(
        json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )
    write_timeless(output, document)
    write_report(output, output / "report.html", curation=curation)
    return EvaluationReport(output, document)
