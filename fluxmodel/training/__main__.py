"""The training child: `python -m fluxmodel.training JOB.json`, also under torchrun.

Appends to metrics.jsonl, keeps checkpoints, and at the end renames its finished work to final/. SIGTERM, or the
end of the parent, saves a checkpoint and ends with exit code 75; the same command then goes on, bit for bit.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pydantic import ValidationError

from fluxmodel.data.procedural import ProceduralSource
from fluxmodel.errors import FluxlineError, InputError, first_fault
from fluxmodel.progress import seconds_spooled
from fluxmodel.stop_request import StopRequest
from fluxmodel.training_job import TrainingJob

if TYPE_CHECKING:
    from fluxmodel.training.loop import Objective

INTERRUPTED_EXIT_CODE = 75
ORPHAN_SECONDS = 600.0
"""For the checkpoint of a child whose parent died."""


def read_job(path: str) -> TrainingJob:
    """Read a job file.

    Raises:
        InputError: it is missing or a field is wrong; the text names it.
    """
    try:
        return TrainingJob.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"job file {path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise InputError(f"job file {path}: {first_fault(error)}") from error


def build_objective(job: TrainingJob) -> Objective:
    """Return the objective a job names; its weights are drawn from the job's seed.

    Raises:
        InputError: `model` or `objective` do not fit the kind or the data.
    """
    import torch

    torch.manual_seed(job.seed)
    if job.kind == "autoencoder":
        from fluxmodel.training.objectives.autoencoder import AutoencoderObjective as Chosen
    elif job.kind == "detector":
        from fluxmodel.training.objectives.detector import DetectorObjective as Chosen
    elif job.kind == "dual_encoder":
        from fluxmodel.training.objectives.dual_encoder import DualEncoderObjective as Chosen
    elif job.kind == "lora":
        from fluxmodel.training.objectives.lora import LoraObjective as Chosen
    elif job.kind == "style_classifier":
        from fluxmodel.training.objectives.style_classifier import StyleClassifierObjective as Chosen
    elif job.kind == "captioner":
        from fluxmodel.training.objectives.captioner import CaptionerObjective as Chosen
    else:
        from fluxmodel.training.objectives.flow import FlowObjective as Chosen
    try:
        return Chosen(job)
    except ValidationError as error:
        where = "objective" if error.title.endswith("Settings") else "model"
        raise InputError(f"job for the {job.kind}: {where}.{first_fault(error)}") from error


def watch_for_stop() -> StopRequest:
    """Return what SIGTERM, SIGINT, or the end of the parent sets (pipe in FLUXLINE_PARENT_PIPE)."""
    stop = StopRequest()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    descriptor = os.environ.get("FLUXLINE_PARENT_PIPE")
    if descriptor and is_pipe(int(descriptor)):

        def wait_for_parent() -> None:
            os.read(int(descriptor), 1)
            stop.set()

        threading.Thread(target=wait_for_parent, daemon=True).start()
    return stop


def end_orphan(seconds: float = ORPHAN_SECONDS) -> None:
    """End this process so many seconds after its parent's end: one that hangs must not keep a device from others."""
    descriptor = os.environ.get("FLUXLINE_PARENT_PIPE")

    def wait_for_parent() -> None:
        os.read(int(descriptor or 0), 1)
        time.sleep(seconds)
        os._exit(INTERRUPTED_EXIT_CODE)

    if descriptor and is_pipe(int(descriptor)):
        threading.Thread(target=wait_for_parent, daemon=True).start()


def is_pipe(descriptor: int) -> bool:
    """Return whether an open pipe has this number: torchrun hands the variable down to its workers, not the pipe."""
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def write_final(output: Path, objective: Objective, job: TrainingJob, precision: str) -> None:
    """Write the finished network and its card to a temporary name and rename it to final/."""
    temporary = output / "final.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    metrics = objective.finish(temporary)
    is_drawn = job.data.startswith("procedural:")
    level = ProceduralSource.parse(job.data).level.name if is_drawn else None
    card = {"kind": job.kind, "level": level, "steps": job.steps, "precision": precision, "metrics": metrics}
    (temporary / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    temporary.rename(output / "final")


def keep_samples(output: Path, objective: Objective, job: TrainingJob, step: int) -> None:
    """Draw the job's prompts with the network as it is, where its kind draws images, and keep them in samples/."""
    from fluxmodel.training.objectives.flow import FlowObjective
    from fluxmodel.training.samples import write_samples

    if isinstance(objective, FlowObjective):
        write_samples(output / "samples", step, job.samples.prompts, objective.draw())


def spool_line(spool: TextIO, step: int, total: int, metrics: dict[str, float], seconds: float) -> None:
    """Append one line of metrics; `seconds` are those of all lives of the job. On its way to disk on return."""
    line = {"step": step, "total": total, "metrics": metrics, "seconds": seconds, "time": time.time()}
    spool.write(json.dumps(line) + "\n")
    spool.flush()


def run(job: TrainingJob) -> int:
    """Train as the job says; return the exit code."""
    stop = watch_for_stop()
    output = Path(job.output)
    began = time.monotonic() - seconds_spooled(output / "metrics.jsonl")
    if (output / "final").is_dir():
        return 0
    import torch

    from fluxmodel.training.checkpoint import CheckpointFolder
    from fluxmodel.training.loop import Averaged, Interrupted, Trained, train
    from fluxmodel.training.parallel import join_world

    torch.set_num_threads(job.threads)
    world = join_world()
    output.mkdir(parents=True, exist_ok=True)
    objective = build_objective(job)
    with (output / "metrics.jsonl").open("a") as spool:
        for report in train(objective, job, CheckpointFolder(output / "checkpoints"), world, stop.is_set):
            if isinstance(report, Interrupted):
                return INTERRUPTED_EXIT_CODE
            if isinstance(report, Trained):
                if world.is_first:
                    write_final(output, objective, job, report.precision)
            elif isinstance(report, Averaged):
                if world.is_first:
                    keep_samples(output, objective, job, report.step)
            elif report.metrics and world.is_first:
                spool_line(spool, report.step, report.total, report.metrics, time.monotonic() - began)
    return 0


def main() -> int:
    """Run the job file named on the command line."""
    if len(sys.argv) != 2:
        print("usage: python -m fluxmodel.training JOB.json", file=sys.stderr)
        return InputError.exit_code
    try:
        return run(read_job(sys.argv[1]))
    except FluxlineError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    end_orphan()
    sys.exit(main())
