"""`python -m evaluation JOB.json`: an evaluation as a child process, told through files.

Writes output/metrics.jsonl, a line {"step", "total", "metrics", "seconds"} as images are drawn, and output/final/,
which appears only when it is whole. Exit codes are the error tree's; the last line on stderr says what went wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from fluxmodel.errors import FluxlineError, InputError, InterruptedRun
from fluxmodel.progress import seconds_spooled

from .settings import EvaluationJob


class Spool:
    """Appends progress lines to metrics.jsonl."""

    def __init__(self, path: Path):
        self._file = path.open("a", encoding="utf-8")
        self._started = time.perf_counter() - seconds_spooled(path)
        self._done, self._total = 0, 1

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def progress(self, done: int, total: int, message: str) -> None:
        """Tell how many images are drawn."""
        self._done, self._total = done, total
        self.write({}, message)

    def point(self, point: Any) -> None:
        """Tell the numbers of a finished point of the curves."""
        found = {key: each.value for key, each in point.measured.intervals.items()}
        found["latency_ms"] = point.latency_ms
        metrics = {f"{point.curve}/{key}": value for key, value in found.items()}
        self.write(metrics, f"{point.curve}, {point.steps} steps", at=point.steps)

    def write(self, metrics: dict[str, float], message: str, at: int | None = None) -> None:
        """Write one line and let readers see it; `at` is the step the metrics lie at: solver steps."""
        seconds = round(time.perf_counter() - self._started, 3)
        line = {
            "step": self._done,
            "total": self._total,
            "metrics": metrics,
            "seconds": seconds,
            "message": message,
            "time": time.time(),
            "at": at,
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def read_job(path: Path) -> EvaluationJob:
    """Read a job file.

    Raises:
        InputError: the file is missing or a field is wrong; names both.
    """
    from pydantic import ValidationError

    try:
        return EvaluationJob.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a job file in JSON.") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path}: {field}: {first['msg']}; correct it and run again.") from error


def run(job: EvaluationJob) -> Path:
    """Run a job and return output/final."""
    import torch

    from .evaluate import evaluate

    if job.threads is not None:
        torch.set_num_threads(job.threads)
    job.output.mkdir(parents=True, exist_ok=True)
    final, partial = job.output / "final", job.output / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    with Spool(job.output / "metrics.jsonl") as spool:
        told = {"progress": spool.progress, "on_point": spool.point}
        asked = {
            "prompts": job.prompts,
            "contestant": job.contestant,
            "cache": job.cache,
            "pixels": job.pixels,
            "captions": job.captions,
        }
        evaluate(
            job.model, job.dataset, job.evaluators, job.settings, partial, lora=job.lora, **asked, **told
        )
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    return final


def end_with_parent() -> None:
    """End when the parent is gone: its end of the pipe in FLUXLINE_PARENT_PIPE closes, however it died."""
    descriptor = os.environ.get("FLUXLINE_PARENT_PIPE")
    if descriptor is not None:
        threading.Thread(target=_wait_for_end, args=(int(descriptor),), daemon=True).start()


def _wait_for_end(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os._exit(InterruptedRun.exit_code)


def _stop(signum: int, frame: object) -> None:
    raise InterruptedRun("The evaluation was interrupted; the same command starts it again.")


def main(arguments: list[str] | None = None) -> int:
    """Run the job file named on the command line and return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if len(arguments) != 1:
            raise InputError(
                "python -m evaluation takes one argument, the job file: python -m evaluation JOB.json"
            )
        end_with_parent()
        signal.signal(signal.SIGTERM, _stop)
        run(read_job(Path(arguments[0])))
    except FluxlineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
