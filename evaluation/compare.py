"""Two models judged on the same prompts and noise: the differences, image by image, with their intervals.

A prompt that is hard for one model is hard for the other, so the difference of each pair (prompt, seed) varies far
less than either score. Its interval is a bootstrap that draws whole prompts, and beside it stands the exact
sign-flip test (`statistics.sign_flip_exact`), which stays honest where a handful of prompts differ and a bootstrap
does not: four alike give it an interval above zero, while p = 1/16. Scores that are no counts are put on a grid first.
A Frechet distance is paired by its features where both sides kept them; otherwise, and for what has no pairs, two
intervals are combined as if independent. Everywhere a positive difference means that the challenger is better.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fluxmodel.errors import IncomparableError, InputError

from .identity import Identity, Measurement, require_comparable
from .statistics import clustered_bootstrap, on_grid, sign_flip_exact

PAIRED = {
    "all_correct": "all_correct",
    "retrieval": "retrieved",
    "attr_acc": "attr_acc",
    "clip": "clip",
    "memorised": "memorised",
    "contrast": "contrast",
}
"""Metric -> its column in rows.parquet, at the headline point."""
COUNTED = ("all_correct", "retrieved", "memorised")
"""Columns whose sums by prompt are integers."""
HELD_OUT = {"held_out/all_correct": "all_correct", "held_out/attr_acc": "attr_acc"}
"""The same on combinations that training never showed."""
SETS = ("fd", "coverage")
GROUP = "group_"
"""Columns of rows.parquet with a group's share right, by image; the differences are named `group/<kind>_<name>`."""
FURTHER = {"challenger": "challenger.parquet", "champion": "champion.parquet"}
"""Rows of the same prompts with further noise, where the gate drew some."""
LORA = ("adoption/triggered_on", "adoption/plain_on", "following/triggered_on", "following/plain_on")
"""What a LoRA is compared by, each after the name of a sampling such as `base`."""
SUBJECT = ("model", "steps", "guidance")
"""What may differ: each side stands at its own headline point."""


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
        default=None, description="Of no difference, by the exact sign-flip test, where image by image."
    )
    p_better: float | None = Field(default=None, description="The same against better only.")
    p_worse: float | None = Field(default=None, description="The same against worse only.")
    paired: bool = Field(
        default=False, description="Whether both sides' images were paired by prompt and seed."
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
    num_stored: int
    """Rows of the evaluation itself; behind them lie those drawn further."""

    def at(self, curve: str) -> dict[tuple[str, int], int]:
        """Row of each (prompt, seed): of the headline point, or of a set such as `held_out` drawn at it."""
        head = self.document["headline"]
        chosen = self.columns["curve"] == (head["curve"] if curve == "headline" else curve)
        chosen &= (self.columns["steps"] == head["steps"]) & (self.columns["guidance"] == head["guidance"])
        rows = np.flatnonzero(chosen)
        prompts, seeds = self.columns["prompt"], self.columns["seed"]
        return {(str(prompts[row]), int(seeds[row])): int(row) for row in rows}


def compare_evaluations(
    challenger: Path, champion: Path, further: Path | None = None
) -> dict[str, Difference]:
    """Return how two evaluations differ, by metric; what only one of them measured is left out.

    Args:
        challenger: directory of its evaluation.
        champion: directory of the other's.
        further: where further images of the same prompts were judged (`evaluation.duel`), to be counted as well.

    Raises:
        InputError: a directory holds no whole evaluation.
        IncomparableError: they measured different things; names the fields.
    """
    places = {name: further / file if further else None for name, file in FURTHER.items()}
    new = read_side(challenger, places["challenger"])
    old = read_side(champion, places["champion"])
    require_comparable(new.identity, old.identity, SUBJECT)
    found: dict[str, Difference] = {}
    for curve, columns in (("headline", PAIRED), ("held_out", HELD_OUT)):
        for name, column in columns.items():
            if name in new.metrics and name in old.metrics:
                _require_alike(new, old, name)
                found[name] = _paired(name, column, curve, new, old)
    for name in SETS:
        if name in new.metrics and name in old.metrics:
            _require_alike(new, old, name)
            found[name] = (_frechet(new, old) if name == "fd" else None) or apart(
                name, new.metrics[name], old.metrics[name]
            )
    for column in sorted(name for name in new.columns if name.startswith(GROUP) and name in old.columns):
        if (row := _group(column, new, old)) is not None:
            found[row.name] = row
    return found | _lora(new.document.get("lora"), old.document.get("lora"))


def read_side(directory: Path, further: Path | None = None) -> Side:
    """Read an evaluation directory, and the rows drawn further at its headline point.

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
    columns = read_columns(directory / "rows.parquet")
    num_stored = len(columns["seed"])
    if further is not None:
        columns = _joined(columns, read_columns(further))
    side = Side(directory, document, columns, identity, metrics, num_stored)
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


def _joined(stored: dict[str, np.ndarray], further: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows below rows; what was not measured further is no number there."""
    num = len(further["seed"])
    return {
        name: np.concatenate([values, further[name] if name in further else np.full(num, np.nan)])
        for name, values in stored.items()
    }


def _paired(name: str, column: str, curve: str, new: Side, old: Side) -> Difference:
    left, right = new.at(curve), old.at(curve)
    if left.keys() != right.keys() or not left:
        raise InputError(
            f"{old.directory / 'rows.parquet'} does not hold the prompts and seeds of {new.directory} for {name}, "
            "although both say so; evaluate again."
        )
    keys = sorted(left)
    if column == "memorised":  # looked up in the training images once, not for images drawn further
        keys = [key for key in keys if left[key] < new.num_stored]
    values = [
        _values(side, column, [rows[key] for key in keys], name) for side, rows in ((new, left), (old, right))
    ]
    sign = -1.0 if new.metrics[name].direction == "lower" else 1.0
    prompts = [prompt for prompt, _ in keys]
    return pair_by_pair(name, values[0], values[1], prompts, sign, is_count=column in COUNTED)


def pair_by_pair(
    name: str,
    new: np.ndarray,
    old: np.ndarray,
    prompts: Sequence[str],
    sign: float = 1.0,
    is_count: bool = True,
) -> Difference:
    """Return how two models' scores of the same images asked for differ, with interval and exact p-values.

    Args:
        name: of the metric.
        new: the challenger's scores, [n].
        old: the other's, in the same order.
        prompts: of each image; those of one prompt are one witness.
        sign: -1 where lower is better.
        is_count: whether a prompt's scores sum to an integer; others are put on a grid for the test.
    """
    difference = sign * (new - old)
    interval = clustered_bootstrap(difference, prompts)
    _, index = np.unique(np.asarray(prompts, dtype=object).astype(str), return_inverse=True)
    sums = np.bincount(index, weights=difference)
    sums = sums if is_count else on_grid(sums)
    p_better, p_value = sign_flip_exact(sums)
    return Difference(
        name=name,
        challenger=float(new.mean()),
        champion=float(old.mean()),
        difference=interval.value,
        ci_low=interval.ci_low,
        ci_high=interval.ci_high,
        n=len(difference),
        method=f"pairs of (prompt, seed), {interval.method}",
        p_value=p_value,
        p_better=p_better,
        p_worse=sign_flip_exact(-sums)[0],
        paired=True,
    )


def _group(column: str, new: Side, old: Side) -> Difference | None:
    """One group's share right at the headline point; None where no image was asked for it."""
    left, right = new.at("headline"), old.at("headline")
    keys = sorted(left.keys() & right.keys())
    values = [
        side.columns[column][[rows[key] for key in keys]].astype(np.float64)
        for side, rows in ((new, left), (old, right))
    ]
    asked = np.isfinite(values[0]) & np.isfinite(values[1])
    if not asked.any():
        return None
    prompts = [prompt for (prompt, _), is_asked in zip(keys, asked, strict=True) if is_asked]
    name = f"group/{column.removeprefix(GROUP)}"
    return pair_by_pair(name, values[0][asked], values[1][asked], prompts, is_count=False)


def _frechet(new: Side, old: Side) -> Difference | None:
    """The Frechet distance paired by its features; None where a side has none, or too few for an interval."""
    from .feature_file import read_features

    sides = [read_features(side.directory) for side in (new, old)]
    if sides[0] is None or sides[1] is None:
        return None
    from .frechet import ReferenceFeatures

    places = [_stored_at_headline(side) for side in (new, old)]
    if [len(place) for place in places] != [len(side["headline"]) for side in sides if side]:
        return None
    order = [places[1][key] for key in places[0]]
    reference = ReferenceFeatures(sides[0]["reference"])
    interval = reference.difference(sides[0]["headline"], sides[1]["headline"][order])
    values = new.metrics["fd"].value, old.metrics["fd"].value
    if not math.isfinite(interval.ci_low) or values[0] is None or values[1] is None:
        return None
    return Difference(
        name="fd",
        challenger=values[0],
        champion=values[1],
        difference=-interval.value,
        ci_low=-interval.ci_high,
        ci_high=-interval.ci_low,
        n=interval.n,
        method=interval.method,
        paired=True,
    )


def _stored_at_headline(side: Side) -> dict[tuple[str, int], int]:
    """Number among the evaluation's own headline images of each (prompt, seed), as features.safetensors has them."""
    rows = [(row, key) for key, row in side.at("headline").items() if row < side.num_stored]
    return {key: number for number, (_, key) in enumerate(sorted(rows))}


def _values(side: Side, column: str, rows: list[int], name: str) -> np.ndarray:
    path = side.directory / "rows.parquet"
    if column not in side.columns:
        raise InputError(f"{path} lacks the column {column!r} that {name} is made of; evaluate again.")
    values = side.columns[column][rows].astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{path} holds images without {column!r} at the compared point; evaluate again.")
    return values


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a file of rows.

    Raises:
        InputError: it is missing, or holds no rows.
    """
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
    require_comparable(left.full_identity(new.identity), right.full_identity(old.identity), SUBJECT)
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
