"""A chain run as flows with its child processes written down, and the same children run again with nothing around them.

`python -m benchmarks.recorded_chain PRESET FILE` is `fluxline run` that notes, in FILE, each child's command, job and
times, and what each stage waited for. `replay` then starts the same commands on the same inputs, each as soon as
those have ended that had ended before it in the flow: same order, same cores, but no Prefect, MLflow, store or keys.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from fluxmodel.errors import StageError
from fluxmodel.presets import DEMO, PRESETS, Preset

SHORT = "demo-short"
SHARE = 10
"""The short demo trains a tenth of the demo's steps: same networks, same stages, same number of artifacts."""
LATER = ("prepare-detector", "prepare-dual_encoder", "prepare-style_classifier")
"""Parts that wait for `train`, though they use nothing of it: they are made beside what follows."""


@dataclass(frozen=True)
class Call:
    """A child process: its command with the job file it read, its threads, when it ran (Unix time)."""

    command: list[str]
    job: dict[str, Any]
    work: str
    threads: int
    started: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return self.ended - self.started


@dataclass
class Span:
    """One stage in the flow: when its task began, had its cores and ended (Unix time), its children, its inputs."""

    began: float
    name: str = ""
    run_key: str = ""
    digest: str = ""
    had_cores: float = 0.0
    ended: float = 0.0
    calls: list[Call] = field(default_factory=list)
    upstream: list[str] = field(default_factory=list)

    @property
    def child_seconds(self) -> float:
        """How long its children ran; a stage runs one at a time."""
        return sum(call.seconds for call in self.calls)

    @property
    def inside(self) -> float:
        """Seconds between having its cores and its end in which no child ran: copies, digests, MLflow, Prefect."""
        return self.ended - self.had_cores - self.child_seconds


def before(span: Span, spans: list[Span], started: float) -> float:
    """Return the seconds from the moment a stage could have begun until it did; `started` is that of the flow."""
    needed = {each.digest: each.ended for each in spans}
    ready = [needed[digest] for digest in span.upstream if digest in needed]
    ready += [each.ended for each in spans if each.name == "train" and span.name in LATER]
    return span.began - max(ready, default=started)


def short_demo() -> Preset:
    """Return the demo with a tenth of its steps, a quarter of its pairs and a fifth of its images."""
    kinds = (
        "autoencoder",
        "detector",
        "dual_encoder",
        "captioner",
        "flow",
        "rectify",
        "lora",
        "style_classifier",
    )
    fewer = {kind: getattr(DEMO, kind) for kind in kinds}
    fewer = {
        kind: each.model_copy(update={"steps": max(20, each.steps // SHARE)}) for kind, each in fewer.items()
    }
    judged = {"num_images": 200, "num_held_out": 100}
    rest = {
        "name": SHORT,
        "data": DEMO.data.replace("n=20000", "n=4000"),
        "pairs": DEMO.pairs.model_copy(update={"num": 1000}),
        "evaluation": DEMO.evaluation | judged,
    }
    return DEMO.model_copy(update=fewer | rest)


@contextmanager
def noted() -> Iterator[list[Span]]:
    """Note every stage and child of this process until the body is done."""
    from tasks import launch, stage, stage_run

    spans: list[Span] = []
    here = threading.local()
    start_child, run_child = launch.start_child, stage_run.run_child
    run, attempt = stage.Stage.run, stage.Stage._attempt

    def noted_start(command: list[str], sink: Any, threads: int, *lease: Any) -> Any:
        here.command, here.threads = command, threads
        return start_child(command, sink, threads, *lease)

    def noted_child(module: str, job: dict[str, Any], work: Path, **how: Any) -> Path:
        started = time.time()
        final = run_child(module, job, work, **how)
        call = Call(_bare(here.command), job, str(work), here.threads, started, time.time())
        here.span.calls.append(call)
        return final

    def noted_run(self: Any, *given: Any, **inputs: Any) -> Any:
        here.span = Span(time.time())
        ref = run(self, *given, **inputs)
        here.span.digest, here.span.ended = ref.digest, time.time()
        spans.append(here.span)
        return ref

    def noted_attempt(self: Any, home: Any, identity: Any, *rest: Any) -> Any:
        here.span.name, here.span.run_key, here.span.had_cores = identity.stage, identity.run_key, time.time()
        here.span.upstream = list(identity.upstream.values())
        return attempt(self, home, identity, *rest)

    with (
        mock.patch.object(launch, "start_child", noted_start),
        mock.patch.object(stage_run, "run_child", noted_child),
        mock.patch.object(stage.Stage, "run", noted_run),
        mock.patch.object(stage.Stage, "_attempt", noted_attempt),
    ):
        yield spans


def read(file: Path) -> list[Span]:
    """Return the stages that a recording process wrote, in the order of their end."""
    rows = json.loads(file.read_text())
    return [Span(**(row | {"calls": [Call(**call) for call in row["calls"]]})) for row in rows]


def replay(spans: list[Span], home: Path, scratch: Path) -> float:
    """Run the children of a recorded chain again, writing below `scratch`; return the wall time in seconds.

    Raises:
        StageError: a child failed; the text quotes its log.
    """
    calls = [call for span in spans for call in span.calls]
    moved = [_moved(call, home, scratch) for call in calls]
    done = [threading.Event() for _ in calls]
    failures: list[str] = []

    def work(number: int) -> None:
        for other, call in enumerate(calls):
            if call.ended <= calls[number].started:
                done[other].wait()
        if not failures:
            failures.extend(_run(moved[number]))
        done[number].set()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(calls))]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise StageError(failures[0])
    return time.perf_counter() - start


def longest_path(spans: list[Span]) -> list[Call]:
    """Return the children that followed one another to the chain's end: before each, the last that had ended."""
    calls = sorted((call for span in spans for call in span.calls), key=lambda call: call.ended)
    path = calls[-1:]
    while earlier := [call for call in calls if call.ended <= path[0].started]:
        path.insert(0, earlier[-1])
    return path


def same_artifacts(spans: list[Span], home: Path, scratch: Path) -> list[str]:
    """Name the stages whose last child left, when run again, exactly the artifact that the flow stored."""
    from tasks.artifacts import content_digest, list_files

    same = []
    for span in spans:
        if span.calls:
            output = _moved(span.calls[-1], home, scratch).job["output"]
            if content_digest(list_files(Path(output) / "final")) == span.digest:
                same.append(span.name)
    return same


def _bare(command: list[str]) -> list[str]:
    """The command without the process that watches over it."""
    return command[3:] if command[1:3] == ["-m", "tasks.guard"] else command


def _moved(call: Call, home: Path, scratch: Path) -> Call:
    """The call with all it writes below `scratch`; its inputs stay where the flow stored them."""
    kept = json.dumps(asdict(call)).replace(f"{home}/artifacts", "\0")
    return Call(**json.loads(kept.replace(str(home), str(scratch)).replace("\0", f"{home}/artifacts")))


def _run(call: Call) -> list[str]:
    """Run a child; return what went wrong."""
    from tasks.launch import child_environment

    work, output = Path(call.work), Path(call.job["output"])
    output.mkdir(parents=True, exist_ok=True)
    if "function" in call.job:
        (output / "final").mkdir()
    (work / "job.json").write_text(json.dumps(call.job, indent=1, sort_keys=True))
    with (work / "log.txt").open("ab") as log:
        done = subprocess.run(
            call.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=child_environment(call.threads),
            check=False,
        )
    return [f"{call.command}: {(work / 'log.txt').read_text()[-2000:]}"] if done.returncode else []


def main(preset: str, file: Path) -> None:
    """Run the chain as `fluxline run` does, and write down what its stages did."""
    from flows.environment import set_environment
    from tasks.home import open_home

    set_environment(open_home().make())  # before Prefect is imported
    PRESETS.setdefault(SHORT, short_demo())
    from flows.config import PipelineConfig
    from flows.run import run_pipeline

    with noted() as spans:
        run_pipeline(PipelineConfig(preset=preset))
    rows = sorted(spans, key=lambda span: span.ended)
    file.write_text(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
