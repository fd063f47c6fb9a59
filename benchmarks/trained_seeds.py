"""Eight networks that differ by their training seed alone, and how each image they drew was judged.

What the simulations of the gate resample: eight seeds x 1000 prompts x 8 noise seeds a prompt, of either kind:

    rectified   Reflow's students of a home's base network, for 60 steps on 2000 pairs, drawing in one step
    base        base networks from scratch, for 600 steps, drawing in two unguided steps

Both train shorter than the preset's. The verdicts are kept in results/trained_seeds_KIND.npz (under 1 MB);
networks and features stay in the home, and a run goes on where it stopped.
Run after `make demo`: python -m benchmarks.trained_seeds [--kind rectified] [--seeds 0 2 4 6]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.measure import RESULTS

if TYPE_CHECKING:
    from fluxmodel.text_to_image import TextToImage
    from fluxmodel.training_job import TrainingJob
    from tasks.home import Home

SEEDS, NOISES, PROMPTS, PAIRS = 8, 8, 1000, 2000
STEPS = {"rectified": 60, "base": 600}
DRAW_STEPS = {"rectified": 1, "base": 2}


@dataclass(frozen=True)
class Pool:
    """Verdicts on every image.

    Attributes:
        all_correct: [seeds, prompts, noises] of 0 and 1.
        right: attributes drawn right, same shape.
        asked: attributes the prompt asks for, [prompts].
    """

    all_correct: np.ndarray
    right: np.ndarray
    asked: np.ndarray


def main() -> int:
    """Train and draw what is missing, then gather."""
    parser = argparse.ArgumentParser(description="Eight trained seeds and the verdicts on their images.")
    parser.add_argument("--preset", default="demo", help="preset the home was made with")
    parser.add_argument("--kind", choices=sorted(STEPS), default="rectified", help="which network is trained")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(SEEDS)), help="which of the eight")
    arguments = parser.parse_args()

    import torch

    from tasks.home import open_home
    from tasks.run_key import RunBook

    torch.set_num_threads(1)
    home = open_home()
    if "rectify" not in RunBook(home).stages():
        print(f"{home.root} holds no rectified model: run `make demo` first.", file=sys.stderr)
        return 0
    folder = home.root / "benchmarks" / f"seeds_{arguments.kind}"
    for seed in arguments.seeds:
        draw_seed(seed, folder / str(seed), arguments.kind, arguments.preset)
        verdicts = np.load(folder / str(seed) / "verdicts.npz")
        print(f"{arguments.kind}, seed {seed}: all correct {verdicts['all_correct'].mean():.3f}", flush=True)
    if all((folder / str(seed) / "verdicts.npz").exists() for seed in range(SEEDS)):
        gather(folder, arguments.kind)
    return 0


def draw_seed(seed: int, folder: Path, kind: str, preset: str) -> None:
    """Train one network, draw its images and judge them; what is there already stays."""
    if (folder / "verdicts.npz").exists():
        return
    from benchmarks.reflow import latest
    from fluxmodel.text_to_image import TextToImage, assemble
    from fluxmodel.training.__main__ import run as train
    from tasks.home import open_home

    home = open_home()
    job = job_of(home, seed, folder, kind, preset)
    if train(job.model_copy(update={"steps": STEPS[kind], "world_size": 1})):
        raise SystemExit("stopped; run again to go on")
    model = folder / "model"
    shutil.rmtree(model, ignore_errors=True)
    model.mkdir()
    autoencoder = latest(home, "prepare-autoencoder")
    assemble(folder / "training" / "final", autoencoder, model, 32, DRAW_STEPS[kind], 1.0)
    judge(TextToImage.from_pretrained(model), folder, latest(home, "prepare-detector"), DRAW_STEPS[kind])


def job_of(home: Home, seed: int, folder: Path, kind: str, preset: str) -> TrainingJob:
    """Return the training job of one seed; the first student to come draws the pairs for all."""
    from benchmarks.reflow import latest, words_of
    from fluxmodel.presets import PRESETS
    from fluxmodel.training.pairs import MANIFEST, draw_pairs

    output = str(folder / "training")
    if kind == "base":
        return PRESETS[preset].flow.job(str(latest(home, "encode")), output, seed=seed)
    pairs, model = folder.parent / "pairs", latest(home, "train")
    if not (pairs / MANIFEST).exists():
        pairs.mkdir(parents=True, exist_ok=True)
        settings = PRESETS[preset].pairs.model_copy(update={"num": PAIRS})
        draw_pairs(model, latest(home, "encode"), settings, 0, pairs)
    template = PRESETS[preset].rectify
    job = template.job(str(pairs), output, {"start": str(model / "transformer")}, seed)
    return job.model_copy(update={"objective": job.objective | {"text": words_of(model)}})


def judge(pipe: TextToImage, folder: Path, detector: Path, steps: int) -> None:
    """Draw every prompt from every noise seed; write verdicts and standardised features."""
    import torch
    from safetensors.torch import save_file

    from evaluation.features import detector_extractor
    from evaluation.prompts import draw_scenes, noise_seed, render_tensor, scene_prompts
    from evaluation.scene_judge import SceneJudge
    from evaluation.settings import EvaluationSettings
    from evaluation.verdicts import compare
    from fluxmodel.training.precision import choose_precision

    scenes = draw_scenes("full", "prompts", 0, PROMPTS)
    asked = scene_prompts("like training", "full", scenes, noise_seed(EvaluationSettings()), "", "short")
    assert asked.asked is not None
    eye, extractor = SceneJudge("full"), detector_extractor(detector)
    extractor.standardise(render_tensor(draw_scenes("full", "reference", 0, PROMPTS)))
    pipe = pipe.in_bfloat16() if choose_precision("auto") == "bf16" else pipe
    verdicts, features = [], []
    for noise in range(NOISES):
        seeds = [seed + noise * PROMPTS for seed in asked.seeds]
        images = pipe.sample(asked.prompts, num_steps=steps, guidance=1.0, seeds=seeds, batch_size=250)
        verdicts.append(compare(asked.asked, eye.read(images)))
        features.append(extractor(images))
    save_file({"features": torch.stack(features, 1).contiguous()}, folder / "features.safetensors")
    temporary = folder / "part.npz"
    np.savez(
        temporary,
        all_correct=np.stack([each.all_correct for each in verdicts], 1),
        right=np.stack([sum(each.right.values()) for each in verdicts], 1).astype(np.uint8),
        asked=np.asarray(sum(verdicts[0].asked.values())).astype(np.uint8),
    )
    temporary.rename(folder / "verdicts.npz")


def gather(folder: Path, kind: str) -> None:
    """Write the verdicts of all seeds, bit-packed, to the results."""
    parts = [np.load(folder / str(seed) / "verdicts.npz") for seed in range(SEEDS)]
    about = {"kind": kind, "training_steps": STEPS[kind], "draw_steps": DRAW_STEPS[kind], "guidance": 1.0}
    RESULTS.mkdir(exist_ok=True)
    np.savez_compressed(
        file_of(kind),
        all_correct=np.packbits(np.stack([part["all_correct"] for part in parts])),
        right=np.stack([part["right"] for part in parts]),
        asked=parts[0]["asked"],
        about=json.dumps(about),
    )


def file_of(kind: str) -> Path:
    """Return where the verdicts of a kind are kept."""
    return RESULTS / f"trained_seeds_{kind}.npz"


def read_pool(kind: str = "rectified") -> Pool:
    """Read the gathered verdicts."""
    with np.load(file_of(kind)) as held:
        right, asked = held["right"], held["asked"]
        bits = np.unpackbits(held["all_correct"])[: right.size]
    return Pool(bits.reshape(right.shape), right, asked)


if __name__ == "__main__":
    sys.exit(main())
