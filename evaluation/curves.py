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

CURVES = ("base_unguided", "base_guided")
_MEASURED = ("fd", "kid", "attr_acc", "all_correct", "clip", "retrieval", "undecided")


@dataclass(frozen=True)
class Point:
    """One point of a curve."""

    curve: str
    steps: int
    guidance: float
    latency_ms: float
    measured: Measured

    @property
    def calls(self) -> int:
        """Network calls an image costs: guidance asks twice a step."""
        return self.steps * (1 if self.guidance == 1 else 2)

    def row(self) -> dict[str, Any]:
        """The row of `evaluation.json`; what was not measured is null."""
        row: dict[str, Any] = {"steps": self.steps, "calls": self.calls, "guidance": self.guidance}
        for name in _MEASURED:
            found = self.measured.intervals.get(name)
            row[name] = found.value if found else None
            row[f"{name}_ci"] = [found.ci_low, found.ci_high] if found else None
        return {**row, "latency_ms": self.latency_ms}


def draw_curves(
    sampler: Sampler,
    instruments: Instruments,
    asked: PromptSet,
    settings: EvaluationSettings,
    drawn: Callable[[int, str], None],
    finished: Callable[[Point], None],
) -> list[Point]:
    """Sample and measure every point; the same prompts and the same noise at each, so points are paired."""
    points = []
    for curve, guidance in zip(CURVES, (1.0, settings.guidance), strict=True):
        for steps in settings.steps:
            said = f"{curve}, {steps} step{'s' if steps > 1 else ''}"
            images = sampler.sample(asked, steps, guidance, lambda count, said=said: drawn(count, said))
            latency = sampler.latency_ms(asked.prompts[0], steps, guidance, settings.num_latency_trials)
            points.append(Point(curve, steps, guidance, latency, instruments.measure(images, asked)))
            finished(points[-1])
    return points


def headline_point(points: list[Point]) -> tuple[Point, str]:
    """The best point and what it is best by; on equal scores the one with fewer network calls.

    Attribute accuracy where there is a judge; else retrieval of the own caption; else the Frechet distance.
    """
    intervals = points[0].measured.intervals
    if "attr_acc" in intervals:
        names, said = ("attr_acc", "all_correct"), "attribute accuracy"
    elif "retrieval" in intervals:
        names, said = ("retrieval",), "retrieval of the own caption"
    else:
        return min(
            points, key=lambda point: (point.measured.intervals["fd"].value, point.calls)
        ), "Frechet distance"
    best = max(points, key=lambda point: (*(point.measured.value(name) for name in names), -point.calls))
    return best, said


def as_dict(interval: Interval) -> dict[str, Any]:
    """An interval for JSON."""
    return {
        "value": interval.value,
        "ci_low": interval.ci_low,
        "ci_high": interval.ci_high,
        "n": interval.n,
        "method": interval.method,
    }
