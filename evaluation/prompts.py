"""What the model is asked to draw, and the real images it is held against.

Procedural data: fresh scenes of the same level from a seed that training never uses, once like the training scenes
and once with combinations of shape and colour that training never showed; the reference is a third family of fresh
scenes, the second draw of which says how far real lies from real. Folders: captions and images of the test split.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.data.procedural import (
    LEVELS,
    CaptionScene,
    Scene,
    detailed_caption,
    draw_scene,
    parse_caption,
    render,
    short_caption,
)
from fluxmodel.errors import InputError

from .identity import digest_of
from .prompt_files import Task
from .settings import EvaluationSettings
from .stopwatch import timed
from .verdicts import AskedScenes

# Families of test scenes; data sets are drawn with seeds a person types, which are far smaller.
FAMILY = {
    "prompts": 900_000_000,
    "reference": 910_000_000,
    "second": 920_000_000,
    "calibration": 930_000_000,
    "detailed": 940_000_000,
}
# Below this the test split says too little, and the training split stands in.
MIN_TEST_IMAGES = 64


@dataclass(frozen=True)
class PromptSet:
    """Prompts with the seed of each image's noise; `asked` where a judge can compare."""

    name: str
    prompts: list[str]
    seeds: list[int]
    source: str
    asked: AskedScenes | None = None
    captions: tuple[CaptionScene, ...] = ()
    groups: tuple[str, ...] = ()
    """What each prompt's result is reported under; none where a file names no groups."""
    tasks: tuple[Task | None, ...] = ()
    """What each image has to show, where a file says so in GenEval's form."""

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def tags(self) -> list[str]:
        """Tag of each image's task; empty text where it has none."""
        return [task.tag if task else "" for task in self.tasks]

    @property
    def identity(self) -> str:
        """Source and digest of the prompts."""
        return f"{self.source}, digest {digest_of(self.prompts)}"


@dataclass(frozen=True)
class Benchmark:
    """Prompts and real images of one data set; images are uint8 [n, 3, H, W]."""

    level: str | None
    prompts: PromptSet
    held_out: PromptSet | None
    detailed: PromptSet | None
    """Prompts in the other wording than `prompts`, one that leaves nothing open; None where there is none."""
    reference: Tensor
    second: Tensor | None
    """A second draw of the reference; None where there are no more images."""
    reference_source: str
    real: Tensor | None
    """Real images of the prompts themselves, [len(prompts), 3, H, W]; None where there are none."""
    unjudged: dict[str, str] = field(default_factory=dict)
    """What cannot be judged of these prompts, by metric, and why."""


def level_of(dataset: CuratedDataset) -> str | None:
    """Level of a procedural data set; None for anything else."""
    scenes = next((dataset.scenes(split)[:1] for split in ("train", "test") if dataset.num(split)), [None])
    return Scene.from_json(scenes[0]).level if scenes[0] else None


@timed("prompts and reference")
def build_benchmark(
    dataset: CuratedDataset, settings: EvaluationSettings, given: Path | None = None
) -> Benchmark:
    """Draw prompts and reference for a data set; `given` is a file of prompts to ask instead."""
    level = level_of(dataset)
    benchmark = _folder(dataset, settings) if level is None else _procedural(level, settings)
    if given is None:
        return benchmark
    from .own_prompts import with_prompts

    return with_prompts(benchmark, given, settings)


def draw_scenes(level: str, family: str, seed: int, n: int, held_out: bool = False) -> list[Scene]:
    """Draw n fresh scenes of a family of `FAMILY`."""
    return [draw_scene(LEVELS[level], FAMILY[family] + seed, index, held_out) for index in range(n)]


def render_tensor(scenes: Sequence[Scene]) -> Tensor:
    """Render scenes as uint8 [n, 3, H, W]."""
    return torch.from_numpy(render(scenes)).permute(0, 3, 1, 2).contiguous()


def scene_prompts(
    name: str, level: str, scenes: Sequence[Scene], first_seed: int, source: str, kind: str = "detailed"
) -> PromptSet:
    """Prompts that describe scenes, in full or in short."""
    describe = detailed_caption if kind == "detailed" else short_caption
    prompts = [describe(scene) for scene in scenes]
    captions = tuple(parse_caption(prompt, LEVELS[level]) for prompt in prompts)
    seeds = list(range(first_seed, first_seed + len(prompts)))
    return PromptSet(name, prompts, seeds, source, AskedScenes.of(captions, level), captions)


def noise_seed(settings: EvaluationSettings) -> int:
    """Seed of the first image's noise; evaluations of different seeds share none."""
    return 1_000_000_007 + settings.seed * 1_000_003


def _procedural(level: str, settings: EvaluationSettings) -> Benchmark:
    seed, n = settings.seed, settings.num_images
    scenes = draw_scenes(level, "prompts", seed, n)
    where = f"fresh scenes of level {level}, seed {FAMILY['prompts'] + seed}"
    first, kind = noise_seed(settings), settings.caption_kind
    held_out = detailed = None
    if settings.num_held_out:
        unseen = draw_scenes(level, "prompts", seed, settings.num_held_out, held_out=True)
        source = f"{where}, combinations held out from training"
        held_out = scene_prompts("held-out", level, unseen, first + n, source, kind)
    if settings.num_detailed and kind != "detailed":
        others = draw_scenes(level, "detailed", seed, settings.num_detailed)
        first_detailed = first + n + settings.num_held_out
        detailed = scene_prompts("in full", level, others, first_detailed, f"{where}, in full", "detailed")
    return Benchmark(
        level=level,
        prompts=scene_prompts("like training", level, scenes, first, f"{where}, {kind} captions", kind),
        held_out=held_out,
        detailed=detailed,
        reference=render_tensor(draw_scenes(level, "reference", seed, n)),
        second=render_tensor(draw_scenes(level, "second", seed, n)),
        reference_source=f"{n} fresh renders of level {level}, seed {FAMILY['reference'] + seed}",
        real=render_tensor(scenes),
    )


def _folder(dataset: CuratedDataset, settings: EvaluationSettings) -> Benchmark:
    split, note = "test", "test split"
    if dataset.num("test") < MIN_TEST_IMAGES:
        split, note = "train", f"train split, the test split having only {dataset.num('test')} images"
    captions = [each[0].text if each else "" for each in dataset.captions(split)]
    images = torch.from_numpy(dataset.pixels(split)).permute(0, 3, 1, 2).contiguous()
    order = list(range(len(captions)))
    random.Random(settings.seed).shuffle(order)
    named = [index for index in order if captions[index].strip()]
    if len(named) < 2 or len(order) < 4:
        raise InputError(
            f"{dataset.directory}: {note} has {len(named)} captioned images; an evaluation needs at least 4"
        )
    asked = [named[index % len(named)] for index in range(settings.num_images)]
    first = noise_seed(settings)
    reference = images[order[: settings.num_images]]
    prompts = PromptSet(
        "captions of the data",
        [captions[index] for index in asked],
        list(range(first, first + len(asked))),
        note,
    )
    return Benchmark(
        level=None,
        prompts=prompts,
        held_out=None,
        detailed=None,
        reference=reference,
        second=None,
        reference_source=f"{len(reference)} images of the {note}",
        real=images[asked],
    )
