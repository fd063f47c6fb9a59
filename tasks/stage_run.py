"""One attempt at a stage: where it works, how it starts a child, what it gives back."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.artifacts import ArtifactRef, ArtifactStore
from tasks.cluster import cluster_address
from tasks.home import Home
from tasks.launch import run_child
from tasks.leases import AS_WE_ARE, ON_THE_CPU, Lease
from tasks.links import TaskLinks
from tasks.progress import board
from tasks.resources import Resources
from tasks.run_key import StageIdentity

PROGRESS_SECONDS = 5.0
FINISHED = "finished"


class RunContext(BaseModel):
    """Which pipeline run a stage belongs to; it never influences a result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: str = Field(description="FLUXLINE_HOME of the run.")
    pipeline_key: str = Field(default="", description="Tag `run_key` of the parent MLflow run.")


@dataclass(frozen=True)
class Outcome:
    """What a stage's work came to.

    Attributes:
        directory: becomes the artifact.
        gave: one line for people.
        metrics: final numbers, logged to MLflow.
        changed: one line: what of its input had to be done anew, for `fluxline why`.
    """

    directory: Path
    gave: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    changed: str = ""


@dataclass
class StageRun:
    """What a stage's work may use: its folders, its child processes, its place to report.

    Attributes:
        home: the state of the project.
        identity: what the result depends on.
        work: scratch folder of the run key.
        context: the pipeline run it belongs to.
        links: what it shows in Prefect.
        threads: compute threads of each child.
        resources: how long a child may take.
        mlflow_run: returns the id of the stage's MLflow run; raises what MLflow raises.
        lease: returns what a child may compute with; waits for it where that is not in hand yet.
        lock: open lock of the run key, which a child holds as well: while it lives nobody else works in its folder.
    """

    home: Home
    identity: StageIdentity
    work: Path
    context: RunContext
    links: TaskLinks
    threads: int
    resources: Resources
    mlflow_run: Callable[[], str]
    lease: Callable[[], Lease] = lambda: AS_WE_ARE
    lock: int | None = None
    _shown: float = 0.0

    @property
    def output(self) -> Path:
        """Folder of the child's spool, checkpoints and result; it survives a crash."""
        return self.work / "output"

    def path(self, ref: ArtifactRef) -> Path:
        """Return a local directory of an input."""
        return ArtifactStore(self.home).path(ref)

    def launch(self, module: str, job: dict[str, Any], world_size: int = 1) -> Path:
        """Run `python -m module job.json` to its end; return the directory it left."""
        return self._child(module, job, self.work, world_size)

    def call(
        self, function: str, place: str = "", again: bool = True, computes: bool = True, **arguments: Any
    ) -> Path:
        """Run the library function `module:name` in a child; return the directory it filled.

        Args:
            function: what to call; its argument `output` is the directory to fill.
            place: sub-folder of `work` to use, where the stage has a training child as well.
            again: whether to call it anew where an earlier attempt at the stage has finished the call.
            computes: whether it may want a device.
            arguments: its other arguments, JSON only.
        """
        work = self.work / place
        job = fresh_call(work, function, arguments, again)
        if job is None:
            return work / "output" / "final"
        done = self._child("tasks.call", job, work, lease=None if computes else ON_THE_CPU)
        (work / FINISHED).touch()
        return done

    def map(self, function: str, **arguments: Any) -> list[Path]:
        """Run the library function `module:name` in shards on the Ray cluster, see `tasks.shards`; [] without one.

        Args:
            function: gets `shard` and `num_shards` beside `output`, the directory to fill.
            arguments: its other arguments, JSON only.
        """
        if not cluster_address():
            return []
        from tasks.shards import map_shards

        return map_shards(self, function, arguments)

    def _child(
        self, module: str, job: dict[str, Any], work: Path, world_size: int = 1, lease: Lease | None = None
    ) -> Path:
        return run_child(
            module,
            job,
            work,
            threads=self.threads,
            world_size=world_size,
            timeout_seconds=self.resources.timeout_seconds,
            progress=self.progress,
            lease=self.lease() if lease is None else lease,
            keep=() if self.lock is None else (self.lock,),
        )

    def progress(self, done: int, total: int, message: str = "") -> None:
        """Show how far the work is: on the terminal at once, in Prefect every few seconds."""
        board().update(self.identity.stage, done, total, message)
        if time.monotonic() - self._shown > PROGRESS_SECONDS:
            self._shown = time.monotonic()
            self.links.show_progress(done, total)


def fresh_call(work: Path, function: str, arguments: dict[str, Any], again: bool) -> dict[str, Any] | None:
    """Return the job of `tasks.call` for a folder made ready; None where the call is finished and not wanted again."""
    final, finished = work / "output" / "final", work / FINISHED
    if finished.exists() and final.is_dir() and not again:
        return None
    finished.unlink(missing_ok=True)
    shutil.rmtree(final, ignore_errors=True)  # such a call starts over
    final.mkdir(parents=True)
    return {
        "function": function,
        "arguments": {**arguments, "output": str(final)},
        "output": str(work / "output"),
    }
