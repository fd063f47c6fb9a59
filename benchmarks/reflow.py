"""What Reflow's pairs are worth: one step of the rectified network against the base, and against a control.

The control starts from the same base and trains for as many steps, at the same rates and times, on the real latents
with fresh noise: the same extra training without pairs. Run after `make demo`: python -m benchmarks.reflow --json
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from pathlib import Path

import torch

from benchmarks.measure import Row, publish, show
from evaluation.instruments import Instruments, Measured
from evaluation.prompts import Benchmark, build_benchmark
from evaluation.settings import EvaluationSettings
from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.presets import PRESETS
from fluxmodel.text_to_image import TextToImage
from fluxmodel.training.__main__ import run as train
from fluxmodel.training.precision import choose_precision
from fluxmodel.weights import load_mmdit
from tasks.artifacts import ArtifactStore
from tasks.home import Home, open_home
from tasks.run_key import RunBook


def main() -> int:
    """Train the control, measure all, publish."""
    parser = argparse.ArgumentParser(description="Rectified network against base and control, one step each.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--preset", default="demo", help="preset the home was made with")
    parser.add_argument("--num", type=int, default=1000, help="images a point")
    arguments = parser.parse_args()
    home = open_home()
    if "rectify" not in RunBook(home).stages():
        print(f"{home.root} holds no rectified model: run `make demo` first.", file=sys.stderr)
        return 0
    rectified = TextToImage.from_pretrained(latest(home, "rectify"))
    base = TextToImage.from_pretrained(latest(home, "rectify"), "base")
    control = dataclasses.replace(base, transformer=load_mmdit(train_control(home, arguments.preset)))
    preset = PRESETS[arguments.preset]
    settings = EvaluationSettings.model_validate(preset.evaluation | {"num_images": arguments.num})
    benchmark = build_benchmark(CuratedDataset(latest(home, "curate")), settings)
    judges = {name: latest(home, f"prepare-{name}") for name in ("detector", "dual_encoder")}
    instruments = Instruments(judges, benchmark, settings)
    steps, guidance = settings.steps[-1], settings.guidance
    points = {
        f"base, {steps} guided steps": (base, steps, guidance),
        "base, 1 unguided step": (base, 1, 1.0),
        "base, 1 guided step": (base, 1, guidance),
        "control, 1 unguided step": (control, 1, 1.0),
        "control, 1 guided step": (control, 1, guidance),
        f"control, {steps} guided steps": (control, steps, guidance),
        "rectified, 1 unguided step": (rectified, 1, 1.0),
        "rectified, 2 unguided steps": (rectified, 2, 1.0),
    }
    found = {name: measure(*point, instruments, benchmark) for name, point in points.items()}
    for name, each in found.items():
        fd = each.intervals["fd"]
        attributes, whole = each.value("attr_acc"), each.value("all_correct")
        distance = f"FD {fd.value:.2f} [{fd.ci_low:.2f}, {fd.ci_high:.2f}]"
        print(f"{name:28} {distance}, attributes {attributes:.3f}, all {whole:.3f}")
    result = publish("reflow", rows_of(found, steps), ("torch",), figures(found))
    show(result, arguments.json)
    return 0


def latest(home: Home, stage: str) -> Path:
    """Return the directory of a stage's latest artifact."""
    book = RunBook(home)
    record = book.read(book.history(stage)[-1].run_key)
    if record is None:
        raise SystemExit(f"{stage} has not finished in {home.root}; run `fluxline run` first")
    return ArtifactStore(home).path(record.artifact)


def train_control(home: Home, preset: str) -> Path:
    """Train the base on as Reflow does, but without pairs; return the network's directory."""
    model, output = latest(home, "rectify"), home.root / "benchmarks" / "reflow"
    shutil.rmtree(output, ignore_errors=True)
    template = PRESETS[preset].rectify
    objective = {
        "text": words_of(model),
        "time_density": template.objective["time_density"],
    }  # independent noise, the captions' usual mix and dropout
    job = template.job(str(latest(home, "encode")), str(output), {"start": str(model / "transformer_base")})
    train(job.model_copy(update={"objective": objective, "world_size": 1}))
    return output / "final" / "transformer"


def words_of(model: Path) -> dict:
    """Return the settings of a model's text encoder."""
    from tasks.cards import read_json

    return read_json(model / "text_encoder" / "config.json")


def measure(
    pipe: TextToImage, steps: int, guidance: float, instruments: Instruments, benchmark: Benchmark
) -> Measured:
    """Draw the benchmark's prompts and read everything off them."""
    pipe = pipe.in_bfloat16() if choose_precision("auto") == "bf16" else pipe
    asked = benchmark.prompts
    images = pipe.sample(asked.prompts, num_steps=steps, guidance=guidance, seeds=asked.seeds, batch_size=250)
    return instruments.measure(images, asked)


def rows_of(found: dict[str, Measured], steps: int) -> list[Row]:
    """Return Frechet distances compared; a ratio above 1 says the rectified network lies closer."""
    fd = {name: each.value("fd") for name, each in found.items()}
    ours = fd["rectified, 1 unguided step"]
    peers = {
        "against the better control, 1 step": min(v for n, v in fd.items() if n.startswith("control, 1 ")),
        "against the better base, 1 step": min(v for n, v in fd.items() if n.startswith("base, 1 ")),
        f"against its teacher, {steps} guided": fd[f"base, {steps} guided steps"],
    }
    return [
        Row(f"one step {name}", ours, peer, peer / ours, "Frechet distance") for name, peer in peers.items()
    ]


def figures(found: dict[str, Measured]) -> dict[str, float]:
    """Return every point's figures by name."""
    names = ("fd", "attr_acc", "all_correct")
    return {f"{point}: {name}": each.value(name) for point, each in found.items() for name in names}


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
