"""What orchestration costs: the demo's chain as flows beside the same library calls as plain functions.

Flow: `fluxline run` as a process of its own against a Prefect and an MLflow server that run already (their start is
not counted), an empty FLUXLINE_HOME. Plain: the very child processes of that run (recorded_chain) with the same jobs,
inputs, threads and order, and no server running. What differs is called overhead: interpreter and imports of the
command, Prefect, run keys, stored copies and their digests, MLflow, the wait between stages, the gate's decision, the
report. Starting the children is part of both and printed apart; so is what flow and servers take of the cores while the
base model trains.

The sides take turns; medians. By default the chain is the demo with a tenth of its steps: overhead is paid by the
stage, and for the demo (its measured time stands in results/demo.json) what is paid by the second is added.
`--preset demo` measures the demo itself, twenty minutes a round. Run: python -m benchmarks.orchestration --json
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.measure import RESULTS, Row, publish, show
from benchmarks.recorded_chain import SHORT, Span, before, longest_path, read, replay, same_artifacts
from fluxmodel.errors import StageError

GOAL = 0.03
PACKAGES = ("fluxline", "prefect", "mlflow", "torch")


@dataclass
class Round:
    """One turn of both sides.

    Attributes:
        flow: wall time of the command in seconds.
        plain: wall time of its children alone.
        spans: its stages.
        started: Unix time at which the command was started.
        ended: and at which it ended.
        same: stages whose result the plain side made again bit for bit.
        busy: (Unix time, CPU seconds so far of the command itself and both servers), every half second.
    """

    flow: float
    plain: float
    spans: list[Span]
    started: float
    ended: float
    same: list[str]
    busy: list[tuple[float, float]] = field(default_factory=list)

    @property
    def stolen(self) -> float:
        """Share of one core that command and servers took while the base model's own child trained."""
        trained = next(call for span in self.spans if span.name == "train" for call in span.calls)
        inside = [each for each in self.busy if trained.started <= each[0] <= trained.ended]
        if len(inside) < 2:
            return 0.0
        (began, before_it), (ended, after_it) = inside[0], inside[-1]
        return (after_it - before_it) / (ended - began)


def main() -> int:
    """Measure and publish."""
    parser = argparse.ArgumentParser(
        description="The chain as flows beside the same library calls as plain functions."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=2, help="turns of both sides")
    parser.add_argument("--preset", default=SHORT, help=f"{SHORT}, demo or smoke")
    parser.add_argument("--scratch", default="", help="folder for the homes; default a temporary one")
    arguments = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory(dir=arguments.scratch or None) as scratch:
        for turn in range(arguments.rounds):
            rounds.append(_turn(arguments.preset, Path(scratch) / str(turn)))
            told = rounds[-1]
            print(f"round {turn + 1}: flow {told.flow:.1f} s, plain {told.plain:.1f} s", file=sys.stderr)
    result = publish("orchestration", *_told(rounds, arguments.preset), **_limits(rounds))
    show(result, arguments.json)
    if not arguments.json:
        _print_stages(rounds[-1])
    return 0


def _turn(preset: str, root: Path) -> Round:
    """Run the chain as flows, then its children alone."""
    home, file = root / "home", root / "chain.json"
    home.mkdir(parents=True)
    with _servers(home) as (processes, addresses):
        command = [sys.executable, "-m", "benchmarks.recorded_chain", preset, str(file)]
        environment = os.environ | addresses | {"FLUXLINE_HOME": str(home)}
        with (root / "flow.log").open("wb") as log:
            started, start = time.time(), time.perf_counter()
            flow = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            with _watched([flow.pid], processes) as busy:
                code = flow.wait()
            seconds, ended = time.perf_counter() - start, time.time()
    if code:
        raise StageError(f"The flow ended with exit code {code}: {(root / 'flow.log').read_text()[-2000:]}")
    spans = read(file)
    plain = replay(spans, home, root / "plain")
    same = same_artifacts(spans, home, root / "plain")
    if "train" not in same:
        raise StageError("The plain side did not train the flow's model: these are not the same calls.")
    shutil.rmtree(root)
    return Round(seconds, plain, spans, started, ended, same, busy)


@contextmanager
def _servers(home: Path) -> Iterator[tuple[list[int], dict[str, str]]]:
    """Both servers as `fluxline up` starts them, answering; yields the ids of their processes, and their addresses."""
    from flows.servers import start_mlflow, start_prefect
    from tasks.home import Home

    started = [start_prefect(Home(home), is_short_lived=False), start_mlflow(Home(home))]
    try:
        for server in started:
            server.wait()
        family = [psutil.Process(server.process.pid) for server in started]
        everyone = [member.pid for root in family for member in (root, *root.children(recursive=True))]
        yield everyone, {"PREFECT_API_URL": f"{started[0].url}/api", "MLFLOW_TRACKING_URI": started[1].url}
    finally:
        for server in started:
            server.stop()


@contextmanager
def _watched(flow: list[int], servers: list[int]) -> Iterator[list[tuple[float, float]]]:
    """Note twice a second how much CPU time these processes (not their children) have taken."""
    busy: list[tuple[float, float]] = []
    stop = threading.Event()
    members = [psutil.Process(pid) for pid in (*flow, *servers)]

    def watch() -> None:
        while not stop.wait(0.5):
            with suppress(psutil.NoSuchProcess):
                busy.append((time.time(), sum(sum(member.cpu_times()[:2]) for member in members)))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield busy
    finally:
        stop.set()
        thread.join()


def _told(rounds: list[Round], preset: str) -> tuple[list[Row], tuple[str, ...], dict[str, float]]:
    """What is published: rows, packages, figures."""
    flow, plain = (statistics.median(getattr(each, side) for each in rounds) for side in ("flow", "plain"))
    paid, stolen = flow - plain, statistics.median(each.stolen for each in rounds)
    demo = flow if preset == "demo" else _demo_seconds()
    paid_by_demo = paid + stolen * max(0.0, demo - flow)
    rows = [_row(f"{preset}, whole command", flow, plain), _row("demo's chain", demo, demo - paid_by_demo)]
    figures = {
        "rounds": float(len(rounds)),
        "overhead_seconds": paid,
        "demo_seconds": demo,
        "demo_overhead_seconds": paid_by_demo,
        "demo_overhead_share": paid_by_demo / demo,
        "goal_share": GOAL,
        "cores_taken_while_training": stolen,
        "children": float(sum(len(span.calls) for span in rounds[-1].spans)),
        "stages_with_identical_results": float(len(rounds[-1].same)),
    }
    for name in [span.name for span in rounds[-1].spans]:
        for what, values in _by_stage(rounds, name).items():
            figures[f"{name}: {what}"] = statistics.median(values)
    figures |= {what: statistics.median(values) for what, values in _around(rounds).items()}
    return rows, PACKAGES, {name: round(value, 4) for name, value in figures.items()}


def _row(name: str, flow: float, plain: float) -> Row:
    """A comparison whose ratio is the share of the flow's time that is the library's."""
    return Row(name, flow, plain, plain / flow, "seconds")


def _by_stage(rounds: list[Round], name: str) -> dict[str, list[float]]:
    """Seconds of a stage in every round: until it began, beside its children, and with them."""
    found: dict[str, list[float]] = {"before": [], "inside": [], "children": []}
    for each in rounds:
        for span in each.spans:
            if span.name == name:
                found["before"].append(before(span, each.spans, each.started))
                found["inside"].append(span.inside)
                found["children"].append(span.child_seconds)
    return found


def _around(rounds: list[Round]) -> dict[str, list[float]]:
    """Seconds of the command before its first stage and after its last."""
    return {
        "command until its first stage": [min(s.began for s in each.spans) - each.started for each in rounds],
        "command after its last stage": [each.ended - max(s.ended for s in each.spans) for each in rounds],
    }


def _limits(rounds: list[Round]) -> dict[str, float]:
    """What starting the children on the longest path takes: an interpreter and the imports, in both sides."""
    code = "import torch, fluxmodel.training.loop"
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        seconds.append(time.perf_counter() - start)
    path = longest_path(rounds[-1].spans)
    return {"child_starts_on_the_longest_path_seconds": round(len(path) * statistics.median(seconds), 2)}


def _demo_seconds() -> float:
    """The demo's chain as last measured on quiet cores."""
    import json

    return float(json.loads((RESULTS / "demo.json").read_text())["stage_seconds"]["total"])


def _print_stages(last: Round) -> None:
    print(f"\n{'stage':24} {'before':>8} {'inside':>8} {'children':>9}  seconds, last round")
    for span in last.spans:
        waited = before(span, last.spans, last.started)
        print(f"{span.name:24} {waited:8.2f} {span.inside:8.2f} {span.child_seconds:9.2f}")
    for what, values in _around([last]).items():
        print(f"{what:33} {values[0]:8.2f}")


if __name__ == "__main__":
    sys.exit(main())
