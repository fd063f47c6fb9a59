"""The curves over the number of steps, guided and unguided, and which of their points is the headline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .instruments import Instruments, Measured
from .prompts import PromptSet
from .sampler import Sampler
from .settings import EvaluationSettings
from .statistics import Interval

CURVES = ("base_unguided", "base_guided", "rectified")
_MEASURED = ("fd", "kid", "attr_acc", "all_correct", "clip", "retrieval", "undecided")


@dataclass(frozen=True)
class Point:
    """One point of a curve."""

    curve: str
    steps: int
    guidance: float
    latency_ms: float
    measured: Measured
    variant: str = ""
    own_calls: int = 0
    """Network calls where its model counts them itself; 0 counts as ours do."""

    @property
    def calls(self) -> int:
        """Network calls an image costs: guidance asks twice a step."""
        return self.own_calls or self.steps * (1 if self.guidance == 1 else 2)

    def place(self) -> dict[str, Any]:
        """Where it lies, as the headline of `evaluation.json` says it."""
        return {"curve": self.curve, "steps": self.steps, "guidance": self.guidance, "calls": self.calls}

    def row(self) -> dict[str, Any]:
        """The row of `evaluation.json`; what was not measured is null."""
        row: dict[str, Any] = {"steps": self.steps, "calls": self.calls, "guidance": self.guidance}
        for name in _MEASURED:
            found = self.measured.intervals.get(name)
            row[name] = found.value if found else None
            row[f"{name}_ci"] = [found.ci_low, found.ci_high] if found else None
        return {**row, "latency_ms": self.latency_ms}


@dataclass(frozen=True)
class Place:
    """Where a point lies: curve, variant of the network, steps and guidance."""

    curve: str
    variant: str
    steps: int
    guidance: float
    own_calls: int = 0

    @property
    def said(self) -> str:
        """A few words for progress."""
        return f"{self.curve}, {self.steps} step{'s' if self.steps > 1 else ''}"


def places(variants: tuple[str, ...], settings: EvaluationSettings) -> list[Place]:
    """Return every point to measure, for a model with these variants, its default first."""
    base = "" if variants[0] == "base" else "base"
    found = []
    if "base" in variants:
        found += [Place("base_unguided", base, steps, 1.0) for steps in settings.steps]
        found += [Place("base_guided", base, steps, settings.guidance) for steps in settings.steps]
    if variants[0] == "rectified":
        found += [Place("rectified", "", steps, 1.0) for steps in settings.rectified_steps]
    return found


def draw_curves(
    sampler: Sampler,
    instruments: Instruments,
    asked: PromptSet,
    where: list[Place],
    settings: EvaluationSettings,
    drawn: Callable[[int, str], None],
    finished: Callable[[Point], None] | None,
) -> list[Point]:
    """Sample and measure every point; the same prompts and the same noise at each, so points are paired.

    All points are asked for at once: workers draw the next while this process measures the last. Latencies come
    first, when nothing else runs.
    """
    trials = settings.num_latency_trials
    latency = [sampler.latency_ms(asked.prompts[0], p.steps, p.guidance, trials, p.variant) for p in where]
    begun = [sampler.begin(asked, p.steps, p.guidance, p.variant) for p in where]
    points = []
    for place, batches, milliseconds in zip(where, begun, latency, strict=True):
        images = sampler.collect(batches, lambda count, said=place.said: drawn(count, said))
        measured = instruments.measure(images, asked)
        at = (place.curve, place.steps, place.guidance, milliseconds, measured)
        points.append(Point(*at, place.variant, place.own_calls))
        if finished is not None:
            finished(points[-1])
    return points


def headline_point(points: list[Point]) -> tuple[Point, str]:
    """The point that speaks for the model, and why.

    A rectified model is made for fewest steps, so its first point speaks, whatever the others say. A base model
    is judged at its best: attribute accuracy where there is a judge; else retrieval of the own caption; else the
    Frechet distance; on equal scores the point with fewer network calls.
    """
    rectified = [point for point in points if point.curve == "rectified"]
    if rectified:
        return rectified[0], "the fewest steps of the rectified model"
    if len(points) == 1:
        return points[0], "the only point"
    intervals = points[0].measured.intervals
    if "attr_acc" in intervals:
        names, said = ("attr_acc", "all_correct"), "attribute accuracy"
    elif "geneval" in intervals:
        names, said = ("geneval",), "GenEval-style score"
    elif "retrieval" in intervals:
        names, said = ("retrieval",), "retrieval of the own caption"
    else:
        best = min(points, key=lambda point: (point.measured.intervals["fd"].value, point.calls))
        return best, f"the best of {len(points)} points by Frechet distance"
    best = max(points, key=lambda point: (*(point.measured.value(name) for name in names), -point.calls))
    return best, f"the best of {len(points)} points by {said}"


def as_dict(interval: Interval) -> dict[str, Any]:
    """An interval for JSON."""
    return {
        "value": interval.value,
        "ci_low": interval.ci_low,
        "ci_high": interval.ci_high,
        "n": interval.n,
        "method": interval.method,
    }
