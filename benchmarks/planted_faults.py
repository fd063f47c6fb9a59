"""Faults planted into a real model's images: the gate must refuse each, however good its primary looks.

In each trial the home's rectified model draws the prompts from fresh noise at its headline point. The
champion keeps those images; the challenger gets them with a fault, and is then declared better: wrong images are
counted as all correct until the primary rule is kept by at least +3 points, for otherwise refusing would be trivial.
What else the gate measures is left as it is. The challenger without a fault is the control, and must be promoted.

Run after `make demo`: python -m benchmarks.planted_faults [--trials 20] --json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Row, publish, show
from benchmarks.reflow import latest
from evaluation.calibration import reconstruct
from evaluation.curves import Point
from evaluation.distribution import whole_contrast, whole_set
from evaluation.drawing_cost import DrawingCost
from evaluation.feature_file import write_features
from evaluation.gate import GateDecision, decide
from evaluation.gate_settings import GateSettings
from evaluation.identity import Identity
from evaluation.instruments import Instruments
from evaluation.measurements import headline_metrics, shared_identity
from evaluation.nearest import TrainingImages, memorised_share
from evaluation.prompts import Benchmark, PromptSet, build_benchmark
from evaluation.rows import write_rows
from evaluation.settings import EvaluationSettings
from evaluation.statistics import sign_flip_exact, wilson
from evaluation.verdicts import AskedScenes
from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.data.procedural import LEVELS, Scene, detailed_caption, parse_caption
from fluxmodel.pixels import to_pixels, to_signed
from fluxmodel.presets import PRESETS
from fluxmodel.text_to_image import TextToImage
from fluxmodel.training.precision import choose_precision
from tasks.home import Home, open_home
from tasks.run_key import RunBook

SETTINGS = GateSettings(max_rounds=1)
POINTS, FEW_IMAGES, COPIED, CONTRAST = 0.03, 20, 0.2, 0.96


def main() -> int:
    """Plant every fault in every trial, publish which rules refused it."""
    parser = argparse.ArgumentParser(description="Which planted faults the gate refuses.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--preset", default="demo", help="preset the home was made with")
    parser.add_argument("--trials", type=int, default=20, help="trials a fault; published after each")
    parser.add_argument("--num", type=int, default=500, help="images a model")
    arguments = parser.parse_args()
    home = open_home()
    if "rectify" not in RunBook(home).stages():
        print(f"{home.root} holds no rectified model: run `make demo` first.", file=sys.stderr)
        return 0
    found: dict[str, list[GateDecision]] = {name: [] for name in FAULTS}
    bench, result = Bench.of(home, arguments.preset, arguments.num), {}
    for seed in range(arguments.trials):
        trial = Trial(bench, seed)
        with tempfile.TemporaryDirectory() as folder:
            champion = trial.write(trial.images, Path(folder) / "champion", with_nearest=True)
            for name, fault in FAULTS.items():
                place = Path(folder) / name.replace(" ", "_")
                challenger = trial.write(fault(trial), place, with_nearest=fault is memorised)
                declare_better(challenger, champion, seed)
                found[name].append(decide(challenger, champion, SETTINGS))
                print(
                    f"{seed:2} {name:32} {found[name][-1].verdict:12} {refusing(found[name][-1])}", flush=True
                )
        result = publish("planted_faults", rows_of(found), ("torch", "numpy"), figures_of(found))
    show(result, arguments.json)
    return 0


@dataclass
class Bench:
    """What all trials share: the model, its prompts, and what they are measured with."""

    home: Home
    pipe: TextToImage
    benchmark: Benchmark
    instruments: Instruments
    training: TrainingImages
    settings: EvaluationSettings
    identity: Identity

    @classmethod
    def of(cls, home: Home, preset: str, num: int) -> Bench:
        """Make ready; the dual encoder's numbers are left out to save time, so there are rules fewer."""
        asked = {"num_images": num, "num_held_out": 0, "num_detailed": 0}
        settings = EvaluationSettings.model_validate(PRESETS[preset].evaluation | asked)
        dataset, model = latest(home, "curate"), latest(home, "rectify")
        benchmark = build_benchmark(CuratedDataset(dataset), settings)
        instruments = Instruments({"detector": latest(home, "prepare-detector")}, benchmark, settings)
        pipe = TextToImage.from_pretrained(model)
        pipe = pipe.in_bfloat16() if choose_precision("auto") == "bf16" else pipe
        pixels = torch.from_numpy(CuratedDataset(dataset).pixels("train", settings.num_training))
        training = TrainingImages(
            pixels.permute(0, 3, 1, 2).contiguous(),
            benchmark.reference,
            instruments.extractor,
            lambda images: reconstruct(pipe.autoencoder, images),
        )
        identity = shared_identity(model, dataset, benchmark, instruments, settings, "auto")
        return cls(home, pipe, benchmark, instruments, training, settings, identity)


@dataclass
class Trial:
    """The bench's prompts from fresh noise."""

    bench: Bench
    seed: int

    @cached_property
    def asked(self) -> PromptSet:
        """The prompts with this trial's seeds of noise."""
        prompts = self.bench.benchmark.prompts
        return replace(prompts, seeds=[each + 1_000_000 * (1 + self.seed) for each in prompts.seeds])

    @cached_property
    def images(self) -> Tensor:
        """What the model draws, uint8 [n, 3, H, W]."""
        return self.draw(self.asked.prompts, self.asked.seeds)

    def draw(self, prompts: list[str], seeds: list[int]) -> Tensor:
        """Draw in one unguided step, the headline point of a rectified model."""
        return self.bench.pipe.sample(prompts, num_steps=1, guidance=1.0, seeds=seeds, batch_size=250)

    def write(self, images: Tensor, directory: Path, with_nearest: bool) -> Path:
        """Measure images and write what the gate reads of an evaluation.

        Nearest training images take as long as all else, so they are sought only where a copy may be found.
        """
        directory.mkdir()
        bench = self.bench
        measured = bench.instruments.measure(images, self.asked)
        assert measured.features is not None
        reference = bench.instruments.reference.features
        measured.whole |= whole_set(reference, measured.features) | whole_contrast(measured)
        if with_nearest:
            measured.nearest = bench.training.nearest(images)
            measured.whole["memorised"] = memorised_share(measured.nearest, self.asked.prompts, self.seed)
        point, cost = Point("rectified", 1, 1.0, 1.0, measured), DrawingCost(1.0, 1, 1.0, 1, "any")
        document = {
            "identity": bench.identity.model_dump(),
            "headline": point.place(),
            "metrics": [
                each.model_dump()
                for each in headline_metrics([point], point, {}, bench.instruments, cost, {})
            ],
        }
        (directory / "evaluation.json").write_text(json.dumps(document), encoding="utf-8")
        write_rows(directory / "rows.parquet", [point], {})
        write_features(directory, measured.features, reference, bench.instruments.extractor.label)
        return directory


def declare_better(challenger: Path, champion: Path, seed: int) -> None:
    """Count wrong images of the challenger as all correct until its primary rule is kept by +3 points or more."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(challenger / "rows.parquet")
    name = "all_correct"
    new = table[name].to_numpy().astype(int)
    old = pq.read_table(champion / "rows.parquet")[name].to_numpy().astype(int)
    wrong = np.random.default_rng(seed).permutation(np.flatnonzero(new == 0))
    for row in wrong:
        is_enough = (new - old).mean() >= POINTS and sign_flip_exact(new - old)[0] <= SETTINGS.budget.alpha(
            1
        ) / 10
        if is_enough:
            break
        new[row] = 1
    table = table.set_column(table.column_names.index(name), name, pa.array(new.astype(bool)))
    pq.write_table(table, challenger / "rows.parquet")


def unchanged(trial: Trial) -> Tensor:
    """Return the champion's own images."""
    return trial.images


def blurred(trial: Trial) -> Tensor:
    """Return each pixel averaged with its neighbours by the binomial 3 x 3 filter."""
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = torch.outer(line, line).expand(3, 1, 3, 3)
    padded = torch.nn.functional.pad(trial.images.float(), (1, 1, 1, 1), mode="replicate")
    return torch.nn.functional.conv2d(padded, kernel, groups=3).round().to(torch.uint8)


def flatter(trial: Trial) -> Tensor:
    """Return the images with 4 % less contrast."""
    return ((trial.images.float() - 127.5) * CONTRAST + 127.5).round().to(torch.uint8)


def one_colour_wrong(trial: Trial) -> Tensor:
    """Return what the model draws when it takes one colour's name for another's."""
    colors = LEVELS[str(trial.bench.benchmark.level)].colors
    asked, taken = (colors[(trial.seed + shift) % len(colors)] for shift in (0, 1))
    prompts, seeds = trial.asked.prompts, trial.asked.seeds
    rows = [row for row, prompt in enumerate(prompts) if asked in prompt.split()]
    images = trial.images.clone()
    images[rows] = trial.draw(
        [prompts[row].replace(asked, taken) for row in rows], [seeds[row] for row in rows]
    )
    return images


def few_images(trial: Trial) -> Tensor:
    """Return the same few images over and over, whatever the prompt."""
    return trial.images[torch.arange(len(trial.images)) % FEW_IMAGES]


def one_noise(trial: Trial) -> Tensor:
    """Return what the model draws from one noise for all prompts: each as it should be, but all alike."""
    return trial.draw(trial.asked.prompts, [trial.asked.seeds[0]] * len(trial.asked))


def memorised(trial: Trial) -> Tensor:
    """Return a fifth of the images replaced by the best fitting training images, through the autoencoder."""
    known, pixels = training_images(latest(trial.bench.home, "curate"), str(trial.bench.benchmark.level))
    asked, images = trial.asked.asked, trial.images.clone()
    assert asked is not None
    chosen = np.random.default_rng(trial.seed).choice(len(images), int(COPIED * len(images)), replace=False)
    best = []
    for row in chosen:
        wanted = [getattr(known, name) == getattr(asked, name)[row] for name in ("shape", "size", "color")]
        best.append(int(np.sum(wanted, (0, 2)).argmax()))
    with torch.inference_mode():
        latents = trial.bench.pipe.autoencoder.encode(to_signed(torch.from_numpy(pixels[best])))
        images[torch.from_numpy(chosen)] = to_pixels(trial.bench.pipe.autoencoder.decode(latents))
    return images


@lru_cache(maxsize=1)
def training_images(dataset: Path, level: str) -> tuple[AskedScenes, np.ndarray]:
    """Return what every training image shows, and its pixels [n, H, W, 3]."""
    held = CuratedDataset(dataset)
    scenes = [Scene.from_json(str(each)) for each in held.scenes("train")]
    known = AskedScenes.of([parse_caption(detailed_caption(each), LEVELS[level]) for each in scenes], level)
    return known, held.pixels("train")


FAULTS: dict[str, Callable[[Trial], Tensor]] = {
    "none (control)": unchanged,
    "blur": blurred,
    "contrast -4 %": flatter,
    "one colour wrong": one_colour_wrong,
    "mode collapse, 20 images": few_images,
    "mode collapse, one noise": one_noise,
    "memorised, a fifth copied": memorised,
}


def refusing(decision: GateDecision) -> str:
    """Return the rules that stand against a promotion, with how sure they are."""
    return ", ".join(
        f"{rule.name} ({rule.verdict})" for rule in decision.rules if rule.verdict in ("open", "broken")
    )


def rows_of(found: dict[str, list[GateDecision]]) -> list[Row]:
    """Return each fault's share of refusals against the 0.9 that is asked, the weakest last."""
    rows = []
    for name, decisions in found.items():
        share = np.mean([decision.verdict != "promote" for decision in decisions])
        share = 1 - share if name.startswith("none") else share
        what = "promoted" if name.startswith("none") else "refused"
        rows.append(Row(f"{what}: {name}", float(share), 0.9, float(share) / 0.9, "share of trials"))
    return sorted(rows, key=lambda row: -row.ratio)


def figures_of(found: dict[str, list[GateDecision]]) -> dict[str, float]:
    """Return how often each rule refused each fault, and how sure the shares of refusals are."""
    figures: dict[str, float] = {}
    for name, decisions in found.items():
        figures[f"{name}: trials"] = float(len(decisions))
        refused = sum(decision.verdict != "promote" for decision in decisions)
        figures[f"{name}: refused at least (Wilson 95 %)"] = wilson(refused, len(decisions)).ci_low
        figures[f"{name}: rejected outright"] = float(
            np.mean([each.verdict == "reject" for each in decisions])
        )
        counts = Counter(
            f"{rule.name} {rule.verdict}"
            for decision in decisions
            for rule in decision.rules
            if rule.verdict in ("open", "broken")
        )
        figures |= {f"{name}: {rule}": num / len(decisions) for rule, num in sorted(counts.items())}
    return figures


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
