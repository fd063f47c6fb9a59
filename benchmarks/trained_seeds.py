"""Eight base networks that differ by their training seed alone, and how each image they drew was judged.

What the simulations of the gate resample: eight seeds x 1000 prompts x 8 noise seeds a prompt. The networks train
for fewer steps than the preset's (`STEPS`) on a home's latents and draw in `DRAW_STEPS` unguided steps. The verdicts
are kept in results/trained_seeds.npz (under 1 MB); networks and features stay in the home, so an interrupted
run goes on where it stopped. Run after `make demo`: python -m benchmarks.trained_seeds [--seeds 0 2 4 6]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measure import RESULTS

SEEDS, NOISES, STEPS, DRAW_STEPS, PROMPTS = 8, 8, 600, 2, 1000
FILE = RESULTS / "trained_seeds.npz"


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
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(SEEDS)), help="which of the eight")
    arguments = parser.parse_args()

    import torch

    from tasks.home import open_home
    from tasks.run_key import RunBook

    torch.set_num_threads(1)
    home = open_home()
    if "train" not in RunBook(home).stages():
        print(f"{home.root} holds no trained model: run `make demo` first.", file=sys.stderr)
        return 0
    folder = home.root / "benchmarks" / "seeds"
    for seed in arguments.seeds:
        draw_seed(seed, folder / str(seed), arguments.preset)
        print(
            f"seed {seed}: {np.load(folder / str(seed) / 'verdicts.npz')['all_correct'].mean():.3f}",
            flush=True,
        )
    if all((folder / str(seed) / "verdicts.npz").exists() for seed in range(SEEDS)):
        gather(folder)
    return 0


def draw_seed(seed: int, folder: Path, preset: str) -> None:
    """Train one network, draw its images and judge them; what is there already stays."""
    if (folder / "verdicts.npz").exists():
        return
    from benchmarks.reflow import latest
    from fluxmodel.presets import PRESETS
    from fluxmodel.text_to_image import TextToImage, assemble
    from fluxmodel.training.__main__ import run as train
    from tasks.home import open_home

    home, template = open_home(), PRESETS[preset].flow
    job = template.job(str(latest(home, "encode")), str(folder / "training"), seed=seed)
    if train(job.model_copy(update={"steps": STEPS, "world_size": 1})):
        raise SystemExit("stopped; run again to go on")
    model = folder / "model"
    shutil.rmtree(model, ignore_errors=True)
    model.mkdir()
    assemble(folder / "training" / "final", latest(home, "prepare-autoencoder"), model, 32, DRAW_STEPS, 1.0)
    judge(TextToImage.from_pretrained(model), folder, latest(home, "prepare-detector"))


def judge(pipe, folder: Path, detector: Path) -> None:
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
        images = pipe.sample(asked.prompts, num_steps=DRAW_STEPS, guidance=1.0, seeds=seeds, batch_size=250)
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


def gather(folder: Path) -> None:
    """Write the verdicts of all seeds, bit-packed, to the results."""
    parts = [np.load(folder / str(seed) / "verdicts.npz") for seed in range(SEEDS)]
    about = {"training_steps": STEPS, "draw_steps": DRAW_STEPS, "guidance": 1.0, "prompts": PROMPTS}
    RESULTS.mkdir(exist_ok=True)
    np.savez_compressed(
        FILE,
        all_correct=np.packbits(np.stack([part["all_correct"] for part in parts])),
        right=np.stack([part["right"] for part in parts]),
        asked=parts[0]["asked"],
        about=json.dumps(about),
    )


def read_pool(file: Path = FILE) -> Pool:
    """Read the gathered verdicts."""
    with np.load(file) as held:
        right, asked = held["right"], held["asked"]
        bits = np.unpackbits(held["all_correct"])[: right.size]
    return Pool(bits.reshape(right.shape), right, asked)


if __name__ == "__main__":
    sys.exit(main())
