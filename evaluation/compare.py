"""Two models judged on the same prompts and noise: the differences, image by image, with their intervals.

A prompt that is hard for one model is hard for the other, so the difference of each pair (prompt, seed) varies far
less than either score. Its interval is a bootstrap that draws whole prompts, and beside it stands the
sign-flip test: under "no difference" each prompt's difference is as likely with the other sign, so

    p = share of random flips of the signs whose |sum| is at least the observed |sum|,

which stays honest where a handful of prompts differ and a bootstrap does not (four alike give it an interval above
zero, while p = 2/16). Distances of whole sets have no pairs: their two jackknife intervals are combined as if
independent. Everywhere a positive difference means that the challenger is better.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fluxmodel.errors import IncomparableError, InputError

from .identity import Identity, Measurement, require_comparable
from .statistics import clustered_bootstrap

PAIRED = {"all_correct": "all_correct", "retrieval": "retrieved", "attr_acc": "attr_acc", "clip": "clip"}
"""Metric -> its column in rows.parquet, at the headline point."""
HELD_OUT = {"held_out/all_correct": "all_correct", "held_out/attr_acc": "attr_acc"}
"""The same on combinations that training never showed."""
SETS = ("fd",)
LORA = ("adoption/triggered_on", "adoption/plain_on", "following/triggered_on", "following/plain_on")
"""What a LoRA is compared by, each after the name of a sampling such as `base`."""
NUM_FLIPS = 4000
_SUBJECT = ("model", "steps", "guidance")  # each side stands at its own headline point


class Difference(BaseModel):
    """How one number differs between two models; positive means that the challenger is better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    challenger: float
    champion: float
    difference: float = Field(description="Challenger against champion, positive is better.")
    ci_low: float | None = None
    ci_high: float | None = None
    n: int = Field(description="Images behind it: pairs, where the method is paired.")
    method: str
    p_value: float | None = Field(
        default=None, description="Of the sign-flip test, where the method is paired."
    )
    margin: float | None = Field(default=None, description="Loss that is borne, where the gate guards it.")
    passed: bool | None = Field(default=None, description="Whether it keeps within its margin.")

    @property
    def half_width(self) -> float:
        """Half the width of the interval; infinity without one."""
        if self.ci_low is None or self.ci_high is None:
            return math.inf
        return (self.ci_high - self.ci_low) / 2


@dataclass(frozen=True)
class Side:
    """One evaluation as it lies on disk: what it says, and a row an image."""

    directory: Path
    document: dict[str, Any]
    columns: dict[str, np.ndarray]
    identity: Identity
    metrics: dict[str, Measurement]

    def at(self, curve: str) -> dict[tuple[str, int], int]:
        """Row of each (prompt, seed): of the headline point, or of a set such as `held_out` drawn at it."""
        head = self.document["headline"]
        chosen = self.columns["curve"] == (head["curve"] if curve == "headline" else curve)
        chosen &= (self.columns["steps"] == head["steps"]) & (self.columns["guidance"] == head["guidance"])
        rows = np.flatnonzero(chosen)
        prompts, seeds = self.columns["prompt"], self.columns["seed"]
        return {(str(prompts[row]), int(seeds[row])): int(row) for row in rows}


def compare_evaluations(challenger: Path, champion: Path) -> dict[str, Difference]:
    """Return how two evaluations differ, by metric; what only one of them measured is left out.

    Raises:
        InputError: a directory holds no whole evaluation.
        IncomparableError: they measured different things; names the fields.
    """
    new, old = read_side(challenger), read_side(champion)
    require_comparable(new.identity, old.identity, _SUBJECT)
    found: dict[str, Difference] = {}
    for curve, columns in (("headline", PAIRED), ("held_out", HELD_OUT)):
        for name, column in columns.items():
            if name in new.metrics and name in old.metrics:
                _require_alike(new, old, name)
                found[name] = _paired(name, column, curve, new, old)
    for name in SETS:
        if name in new.metrics and name in old.metrics:
            _require_alike(new, old, name)
            found[name] = apart(name, new.metrics[name], old.metrics[name])
    return found | _lora(new.document.get("lora"), old.document.get("lora"))


def read_side(directory: Path) -> Side:
    """Read an evaluation directory.

    Raises:
        InputError: a file is missing, or is no evaluation; names it and the cure.
    """
    directory = Path(directory)
    path = directory / "evaluation.json"
    cure = "name a directory that `fluxline run` or `python -m evaluation` wrote"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        identity = Identity.model_validate(document["identity"])
        metrics = {each["name"]: Measurement.model_validate(each) for each in document["metrics"]}
        head = {name: document["headline"][name] for name in ("curve", "steps", "guidance")}
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {cure}.") from error
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise InputError(f"{path} is no evaluation ({_brief(error)}); {cure}.") from error
    side = Side(directory, document, _columns(directory / "rows.parquet"), identity, metrics)
    if not side.at("headline"):
        raise InputError(f"{directory / 'rows.parquet'} has no images at the headline point {head}; {cure}.")
    return side


def apart(name: str, new: Measurement, old: Measurement) -> Difference:
    """Difference of two numbers that have no pairs, from their own intervals."""
    assert new.value is not None
    assert old.value is not None
    sign = -1.0 if new.direction == "lower" else 1.0
    difference = sign * (new.value - old.value)
    halves = [_half(each) for each in (new, old)]
    half = math.hypot(*halves)  # infinity where a side has no interval
    known = math.isfinite(half)
    return Difference(
        name=name,
        challenger=new.value,
        champion=old.value,
        difference=difference,
        ci_low=difference - half if known else None,
        ci_high=difference + half if known else None,
        n=min(new.n, old.n),
        method="two intervals combined as independent, 95 %" if known else "two figures without intervals",
    )


def sign_flip_p(differences: np.ndarray, clusters: list[str], seed: int = 0) -> float:
    """Two-sided p of "no difference" by flipping the signs of whole clusters at random."""
    _, index = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    sums = np.bincount(index, weights=np.asarray(differences, dtype=np.float64))
    sums = sums[sums != 0]  # a prompt without a difference has no sign to flip
    if not sums.size:
        return 1.0
    signs = (
        np.random.default_rng(np.random.SeedSequence([seed, 7])).integers(0, 2, (NUM_FLIPS, sums.size)) * 2
        - 1
    )
    reached = np.abs(signs @ sums) >= abs(sums.sum()) * (1 - 1e-12)
    return float((1 + reached.sum()) / (1 + NUM_FLIPS))


def _paired(name: str, column: str, curve: str, new: Side, old: Side) -> Difference:
    left, right = new.at(curve), old.at(curve)
    if left.keys() != right.keys() or not left:
        raise InputError(
            f"{old.directory / 'rows.parquet'} does not hold the prompts and seeds of {new.directory} for {name}, "
            "although both say so; evaluate again."
        )
    keys = sorted(left)
    values = [
        _values(side, column, [rows[key] for key in keys], name) for side, rows in ((new, left), (old, right))
    ]
    difference, prompts = values[0] - values[1], [prompt for prompt, _ in keys]
    interval = clustered_bootstrap(difference, prompts)
    return Difference(
        name=name,
        challenger=float(values[0].mean()),
        champion=float(values[1].mean()),
        difference=interval.value,
        ci_low=interval.ci_low,
        ci_high=interval.ci_high,
        n=len(keys),
        method=f"pairs of (prompt, seed), {interval.method}",
        p_value=sign_flip_p(difference, prompts),
    )


def _values(side: Side, column: str, rows: list[int], name: str) -> np.ndarray:
    path = side.directory / "rows.parquet"
    if column not in side.columns:
        raise InputError(f"{path} lacks the column {column!r} that {name} is made of; evaluate again.")
    values = side.columns[column][rows].astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{path} holds images without {column!r} at the compared point; evaluate again.")
    return values


def _columns(path: Path) -> dict[str, np.ndarray]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as stream:
            table = pq.read_table(stream)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); evaluate again.") from error
    except pa.ArrowException as error:
        raise InputError(f"{path} is no parquet file; evaluate again.") from error
    missing = {"curve", "steps", "guidance", "prompt", "seed"} - set(table.column_names)
    if missing:
        raise InputError(f"{path} lacks the columns {', '.join(sorted(missing))}; evaluate again.")
    return {name: table[name].to_numpy() for name in table.column_names}


def _require_alike(new: Side, old: Side, name: str) -> None:
    left, right = new.metrics[name], old.metrics[name]
    require_comparable(left.full_identity(new.identity), right.full_identity(old.identity), _SUBJECT)
    if left.value is None or right.value is None:
        raise IncomparableError(f"{name} has no value on one side, so there is nothing to compare.")


def _lora(new: Any, old: Any) -> dict[str, Difference]:
    """The LoRA's figures where both evaluations have one of the same style and were asked alike."""
    if not (isinstance(new, dict) and isinstance(old, dict)) or new.get("identity") != old.get("identity"):
        return {}
    left, right = _figures(new), _figures(old)
    names = [name for name in left if name in right and name.endswith(LORA)]
    return {f"lora/{name}": apart(f"lora/{name}", left[name], right[name]) for name in names}


def _figures(block: dict[str, Any]) -> dict[str, Measurement]:
    found = {}
    for each in block.get("metrics", []):
        measured = Measurement.model_validate(each)
        if measured.value is not None:
            found[measured.name] = measured
    return found


def _half(measured: Measurement) -> float:
    if measured.ci_low is None or measured.ci_high is None:
        return math.inf
    return (measured.ci_high - measured.ci_low) / 2


def _brief(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg'].lower()}"
    return f"no {error}" if isinstance(error, KeyError) else "not JSON of the right form"
