"""Two models asked for the same prompts with further noise until the gate can decide; and timed in turn.

The first look has one image a prompt, as both evaluations have it. Each further look adds noise seeds (1, 2, 4, 8 a
prompt) at both headline points, and the exact test by prompt takes all rows so far; it stops as soon as nothing is
open that noise can settle. Seeds are fixed by the settings: the same two models give the same rows whenever asked.

Latencies of two evaluations come from different hours of a machine. Here the two draw one image each in turn, so what
slows the machine slows both, and the median of the ratios counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fluxmodel.data.curated_dataset import CuratedDataset

from .compare import FURTHER, Side, read_side
from .curves import Place
from .entrant import Entrant, enter
from .gate import DRAWN, decide, needs_more_noise
from .gate_settings import GateSettings
from .identity import differing_fields
from .instruments import Instruments
from .measurements import shared_identity
from .prompts import Benchmark, PromptSet, build_benchmark
from .rows import columns_of
from .sampler import Sampler
from .settings import EvaluationSettings

FIRST_NOISE = 1_000_000_000_039
"""Beyond the noise of every evaluation."""
NUM_TURNS = 21
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class _Duellist:
    """One side: its evaluation, its model, and the point that speaks for it."""

    name: str
    side: Side
    entrant: Entrant
    place: Place
    sampler: Sampler


def duel(
    challenger: Path,
    champion: Path,
    challenger_model: Path,
    champion_model: Path,
    dataset: Path,
    evaluators: dict[str, Path],
    gate: GateSettings,
    output: Path,
    draws: bool = True,
    gates_spent: int = 0,
    progress: Progress | None = None,
) -> None:
    """Write further rows of both models, and their latencies in turn, into the directory `output`.

    Args:
        challenger: directory of its evaluation.
        champion: directory of the champion's.
        challenger_model: what `TextToImage.from_pretrained` reads.
        champion_model: the same of the champion.
        dataset: curated dataset both were judged on.
        evaluators: what both were judged with, by name.
        gate: what the gate asks.
        output: is filled with challenger.parquet, champion.parquet and duel.json.
        draws: whether to draw further noise; without, the two are only timed.
        gates_spent: gates of this model in the 365 days before.
        progress: told (images drawn, images at most, what is being drawn).
    """
    tell = progress or (lambda done, total, message: None)
    sides = {"challenger": read_side(challenger), "champion": read_side(champion)}
    settings = EvaluationSettings.model_validate(sides["challenger"].document["settings"])
    benchmark = build_benchmark(CuratedDataset(dataset), settings)
    instruments = Instruments(evaluators, benchmark, settings)
    models = {"challenger": challenger_model, "champion": champion_model}
    entrants = {name: _enter(models[name], benchmark, settings) for name in sides}
    found: dict[str, Any] = {"look": 1, "num_seeds": 1, "latency": None, "said": []}
    for name, entrant in entrants.items():
        shared = shared_identity(models[name], dataset, benchmark, instruments, settings, entrant.precision)
        fields = [each for each in differing_fields(shared, sides[name].identity) if each != "model"]
        if fields:
            said = f"No further noise was drawn: the {name} would be measured otherwise now ({', '.join(fields)})."
            _write(output, found | {"said": [said]})
            return
    with (
        entrants["challenger"].sampler(settings) as one,
        entrants["champion"].sampler(settings) as other,
    ):
        samplers = {"challenger": one, "champion": other}
        pair = [
            _Duellist(name, side, entrants[name], place_of(side, entrants[name]), samplers[name])
            for name, side in sides.items()
        ]
        if gate.latency_ratio:
            tell(0, 0, "timing both in turn")
            found["latency"] = timed_in_turn(pair, benchmark.prompts.prompts[0])
        _write(output, found)
        if draws:
            _draw_until_decided(
                pair, instruments, benchmark, settings, gate, output, found, gates_spent, tell
            )


def further_seeds(settings: EvaluationSettings, num_prompts: int, number: int) -> list[int]:
    """Return the seeds of the `number`th further image of each prompt, from 1 on."""
    first = FIRST_NOISE + settings.seed * 1_000_000_007 + (number - 1) * num_prompts
    return list(range(first, first + num_prompts))


def timed_in_turn(pair: list[_Duellist], prompt: str) -> dict[str, float]:
    """Time single images of both in turn.

    Returns:
        `challenger_ms` and `champion_ms` (medians), `ratio` (median of the turns' ratios) with its distribution-free
        95 % interval `ci_low`, `ci_high`: the order statistics that a fair coin falls outside of in 5 % at most.
    """
    times = np.empty((NUM_TURNS, 2))
    for turn in range(NUM_TURNS):
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        for which in order:
            place = pair[which].place
            times[turn, which] = pair[which].sampler.latency_ms(
                prompt, place.steps, place.guidance, 1, place.variant
            )
    ratios = np.sort(times[:, 0] / times[:, 1])
    low = _rank_of_interval(NUM_TURNS)
    medians = np.median(times, axis=0)
    return {
        "challenger_ms": float(medians[0]),
        "champion_ms": float(medians[1]),
        "ratio": float(np.median(ratios)),
        "ci_low": float(ratios[low]),
        "ci_high": float(ratios[-1 - low]),
    }


def _rank_of_interval(n: int) -> int:
    """Rank, from 0, of the sorted value at which a 95 % interval of the median begins."""
    share, rank = 0.0, 0
    while True:
        share += math.comb(n, rank) / 2**n
        if share > 0.025:
            return max(0, rank - 1)
        rank += 1


def _enter(model: Path, benchmark: Benchmark, settings: EvaluationSettings) -> Entrant:
    return enter(model, None, benchmark.reference.shape[-1], settings)


def place_of(side: Side, entrant: Entrant) -> Place:
    """Return the point that speaks for an evaluated model."""
    head = side.document["headline"]
    wanted = (head["curve"], head["steps"], head["guidance"])
    return next(place for place in entrant.places if (place.curve, place.steps, place.guidance) == wanted)


def _draw_until_decided(
    pair: list[_Duellist],
    instruments: Instruments,
    benchmark: Benchmark,
    settings: EvaluationSettings,
    gate: GateSettings,
    output: Path,
    found: dict[str, Any],
    gates_spent: int,
    tell: Progress,
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rounds, prompts = gate.budget.rounds, benchmark.prompts
    tables: dict[str, list[Any]] = {duellist.name: [] for duellist in pair}
    total, done = 2 * len(prompts) * (rounds[-1] - rounds[0]), 0
    for look in range(2, len(rounds) + 1):
        for number in range(rounds[look - 2], rounds[look - 1]):
            asked = replace(prompts, seeds=further_seeds(settings, len(prompts), number))
            for duellist in pair:
                done += len(asked)
                tables[duellist.name].append(pa.table(_judged(duellist, instruments, asked)))
                tell(done, total, f"{duellist.name}, noise seed {number + 1} of a prompt")
        for name, parts in tables.items():
            pq.write_table(
                pa.concat_tables(parts, promote_options="default"), output / FURTHER[name], compression="zstd"
            )
        _write(output, found | {"look": look, "num_seeds": rounds[look - 1]})
        sides = {duellist.name: duellist.side.directory for duellist in pair}
        decision = decide(
            sides["challenger"], sides["champion"], gate, further=output, gates_spent=gates_spent
        )
        if not needs_more_noise(decision):
            return


def _judged(duellist: _Duellist, instruments: Instruments, asked: PromptSet) -> dict[str, Any]:
    place = duellist.place
    images = duellist.sampler.sample(asked, place.steps, place.guidance, None, place.variant)
    measured = instruments.measure(images, asked, distances=False)
    return columns_of(place.curve, place.steps, place.guidance, measured)


def _write(output: Path, found: dict[str, Any]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    (output / DRAWN).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
