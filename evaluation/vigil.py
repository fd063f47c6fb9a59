"""The vigil: a champion asked for its own prompts again, with the noise it was judged on and with noise of tonight.

The same noise gives the same images as long as nothing changed: weights, libraries, device, judges. Other noise says
how the model draws apart from the noise it was chosen on. What the rows mean is drift.py's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fluxmodel.data.curated_dataset import CuratedDataset

from .compare import read_side
from .drift import FILE, ROWS
from .duel import further_seeds, place_of
from .entrant import enter
from .identity import differing_fields
from .instruments import Instruments
from .measurements import shared_identity
from .prompts import PromptSet, build_benchmark
from .rows import columns_of
from .settings import EvaluationSettings

FIRST_NIGHT = 64
"""Numbers of noise from here on are nights'; those before are the gate's."""
Progress = Callable[[int, int, str], None]


def keep_vigil(
    evaluation: Path,
    model: Path,
    dataset: Path,
    evaluators: dict[str, Path],
    night: int,
    output: Path,
    progress: Progress | None = None,
) -> None:
    """Write the rows of one night into the directory `output`: same.parquet, fresh.parquet and vigil.json.

    Args:
        evaluation: directory of the evaluation that the model was promoted on.
        model: what `TextToImage.from_pretrained` reads.
        dataset: curated dataset it was judged on.
        evaluators: what it was judged with, by name.
        night: number of the night; each has noise of its own, the same whenever it is asked for.
        output: is filled.
        progress: told (images drawn, images in all, what is being drawn).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tell = progress or (lambda done, total, message: None)
    side = read_side(evaluation)
    settings = EvaluationSettings.model_validate(side.document["settings"])
    benchmark = build_benchmark(CuratedDataset(dataset), settings)
    instruments = Instruments(evaluators, benchmark, settings)
    entrant = enter(model, None, benchmark.reference.shape[-1], settings)
    identity = shared_identity(model, dataset, benchmark, instruments, settings, entrant.precision)
    differing = [each for each in differing_fields(identity, side.identity) if each != "model"]
    place, prompts = place_of(side, entrant), benchmark.prompts
    sets: dict[str, PromptSet] = {} if differing else {"same": prompts}
    seeds = further_seeds(settings, len(prompts), FIRST_NIGHT + night)
    sets["fresh"] = replace(prompts, seeds=seeds)
    output.mkdir(parents=True, exist_ok=True)
    with entrant.sampler(settings) as sampler:
        for number, (name, asked) in enumerate(sets.items()):
            tell(number * len(asked), len(sets) * len(asked), f"the champion, {name} noise")
            images = sampler.sample(asked, place.steps, place.guidance, None, place.variant)
            measured = instruments.measure(images, asked, distances=False)
            rows: dict[str, Any] = columns_of(place.curve, place.steps, place.guidance, measured)
            pq.write_table(pa.table(rows), output / ROWS[name], compression="zstd")
    told = {"night": night, "identity": identity.model_dump(), "differing": differing}
    (output / FILE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
