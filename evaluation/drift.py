"""Drift: is a champion still what it was when it was promoted? What has changed is told apart from luck.

    a year may raise a false alarm with probability   A = yearly_alpha
    one night of N                                    a = A / N
    each of a night's two looks                       a / 2

The looks, both on the primary metric at the headline point, by the exact one-sided sign-flip test over prompts:

    same     the noise of the promotion, against its rows. While nothing changed every image is judged as it was: the
             difference is exactly 0 and p = 1. No luck is involved, and what differs is the machine's doing.
    fresh    noise of tonight, against the first night's rows. Of an unchanged model a prompt's results of two nights
             may be exchanged, so P(p <= a/2) <= a/2 whatever the prompts. Not against the rows of the promotion: those
             were chosen for being good, and any model falls back from its luckiest draw.

A look raises the alarm when p is that small, the loss is at least `min_effect`, and the value lies below the interval
stored at promotion. By the union bound a year errs with at most A, although all its nights share one first night and
one promotion (tests/evaluation/test_drift.py simulates them). A night is a day: looked at twice it draws the same noise
and is one test, so no more than N fit into a year.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.errors import InputError

from .compare import PAIRED, Difference, Side, pair_by_pair, read_columns, read_side
from .identity import Identity, differing_fields
from .rules import PRIMARIES
from .statistics import Interval, proportion

FILE = "vigil.json"
ROWS = {"same": "same.parquet", "fresh": "fresh.parquet"}
NUM_LOOKS = len(ROWS)
Verdict = Literal["steady", "drifted", "first", "incomparable"]


class DriftSettings(BaseModel):
    """What an alarm takes; shares are of 1, so 0.01 is a point."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    yearly_alpha: float = Field(
        default=0.05, gt=0, lt=1, description="Probability of a false alarm in a year of nights, at most."
    )
    nights_per_year: int = Field(default=365, ge=1, le=366, description="Nights that share that probability.")
    min_effect: float = Field(
        default=0.01, ge=0, description="Least loss of the primary metric that counts; 0.01 is a point."
    )

    @property
    def look_alpha(self) -> float:
        """The largest p-value of one look of one night that raises the alarm."""
        return self.yearly_alpha / self.nights_per_year / NUM_LOOKS


class DriftLook(BaseModel):
    """One look of a night: against what, how much worse, and whether that is an alarm."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    row: Difference
    drifted: bool


class Night(BaseModel):
    """What one night said."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    night: int
    verdict: Verdict
    said: str = Field(description="The verdict as a sentence.")
    metric: str
    value: float = Field(description="Of the metric with tonight's noise.")
    ci_low: float
    ci_high: float
    n: int
    promoted: float | None = Field(description="The value at promotion.")
    promoted_low: float | None
    promoted_high: float | None
    looks: list[DriftLook] = []
    differing: list[str] = Field(
        default=[], description="Fields of the identity in which tonight is another than the promotion."
    )


@dataclass(frozen=True)
class _Rows:
    night: int
    identity: Identity
    differing: list[str]
    columns: dict[str, dict[str, np.ndarray]]


def judge_night(promotion: Path, tonight: Path, first: Path | None, settings: DriftSettings) -> Night:
    """Return what a night's rows say of the champion.

    Args:
        promotion: directory of the evaluation it was promoted on.
        tonight: what `vigil.keep_vigil` left.
        first: what it left in the first night after the promotion; None where tonight is that.
        settings: what an alarm takes.

    Raises:
        InputError: a directory is not what it should be.
    """
    side, rows = read_side(promotion), _read(tonight)
    metric = next((name for name in PRIMARIES if name in side.metrics), "")
    if not metric:
        raise InputError(
            f"{promotion} measured neither all_correct nor retrieval, so there is nothing to watch."
        )
    fresh = _column(rows.columns["fresh"], metric, tonight)
    interval = proportion(fresh > 0, [str(prompt) for prompt in rows.columns["fresh"]["prompt"]])
    stored = side.metrics[metric]
    known: dict[str, Any] = {
        "night": rows.night, "metric": metric, "value": interval.value, "ci_low": interval.ci_low,
        "ci_high": interval.ci_high, "n": interval.n, "promoted": stored.value, "promoted_low": stored.ci_low,
        "promoted_high": stored.ci_high, "differing": rows.differing,
    }  # fmt: skip
    beside = _read(first) if first is not None else None
    if beside is not None and (fields := _unlike(rows.identity, beside.identity)):
        said = f"Tonight was measured otherwise than the first night ({', '.join(fields)}), so it is a first night."
        return Night(verdict="incomparable", said=said, **known)
    looks = []
    if "same" in rows.columns:
        looks.append(_look("same", metric, rows.columns["same"], _promoted(side), side, settings))
    if beside is not None and beside.night != rows.night:
        looks.append(_look("fresh", metric, rows.columns["fresh"], beside.columns["fresh"], side, settings))
    verdict = _verdict(looks, beside is None)
    return Night(verdict=verdict, said=_said(verdict, looks, metric, interval, side), looks=looks, **known)


def is_drifted(row: Difference, promoted_low: float | None, settings: DriftSettings) -> bool:
    """Return whether a look raises the alarm: shown worse, by enough, and below the interval stored at promotion."""
    is_shown = row.p_worse is not None and row.p_worse <= settings.look_alpha
    is_beyond = promoted_low is None or row.challenger < promoted_low
    return is_shown and -row.difference >= settings.min_effect - 1e-12 and is_beyond


def _look(
    name: str,
    metric: str,
    new: dict[str, np.ndarray],
    old: dict[str, np.ndarray],
    side: Side,
    settings: DriftSettings,
) -> DriftLook:
    prompts = [str(prompt) for prompt in new["prompt"]]
    if prompts != [str(prompt) for prompt in old["prompt"]]:
        raise InputError(f"The prompts of {side.directory} are not those of the night; keep the vigil again.")
    row = pair_by_pair(metric, _column(new, metric), _column(old, metric), prompts)
    return DriftLook(name=name, row=row, drifted=is_drifted(row, side.metrics[metric].ci_low, settings))


def _promoted(side: Side) -> dict[str, np.ndarray]:
    """The rows of the promotion at its headline point, in the order they were drawn."""
    rows = sorted(row for row in side.at("headline").values() if row < side.num_stored)
    return {name: values[rows] for name, values in side.columns.items()}


def _column(columns: dict[str, np.ndarray], metric: str, place: Path | None = None) -> np.ndarray:
    values = columns.get(PAIRED[metric])
    if values is None:
        raise InputError(
            f"{place or 'A night'} has no {PAIRED[metric]}, which {metric} is made of; keep the vigil again."
        )
    return values.astype(np.float64)


def _verdict(looks: list[DriftLook], is_first: bool) -> Verdict:
    if any(look.drifted for look in looks):
        return "drifted"
    return "first" if is_first else "steady"


def _said(verdict: Verdict, looks: list[DriftLook], metric: str, tonight: Interval, side: Side) -> str:
    stored = side.metrics[metric]
    at = f"{stored.value:.4g} [{_end(stored.ci_low)}, {_end(stored.ci_high)}] at promotion"
    if verdict == "drifted":
        look = next(look for look in looks if look.drifted)
        row, noise = look.row, "the same noise" if look.name == "same" else "other noise"
        return (
            f"{metric} fell from {row.champion:.4g} to {row.challenger:.4g} on {noise} (exact p = {row.p_worse:.2g}), "
            f"below its interval: {at}."
        )
    now = f"{metric} is {tonight.value:.4g} [{tonight.ci_low:.4g}, {tonight.ci_high:.4g}]; {at}"
    again = next((look.row for look in looks if look.name == "same"), None)
    if again is not None:
        now += f"; the same noise gives {again.challenger:.4g}"
    return f"{now}. Later nights are compared with this one." if verdict == "first" else f"{now}."


def _end(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _unlike(one: Identity, other: Identity) -> list[str]:
    return [each for each in differing_fields(one, other) if each != "model"]


def _read(directory: Path) -> _Rows:
    path = directory / FILE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        night, identity = int(told["night"]), Identity.model_validate(told["identity"])
        differing = [str(each) for each in told["differing"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}); keep the vigil again.") from error
    columns = {
        name: read_columns(directory / file) for name, file in ROWS.items() if (directory / file).is_file()
    }
    return _Rows(night, identity, differing, columns)
