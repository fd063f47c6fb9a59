"""What `fluxline up` costs: how soon it is usable, what it takes while nobody asks it anything, what it leaves behind.

Usable: both servers answer, and a run of a deployment is accepted and begun. The run asked for compares versions that
do not exist, so it ends at once with a sentence. Memory is the proportional set size (PSS: pages shared by several
processes are counted once) summed over all of its processes. Run: python -m benchmarks.up --json
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import Row, faster, publish, show
from fluxmodel.errors import StageError

USABLE_SECONDS = 30.0
IDLE_GIB, IDLE_CORES = 1.2, 0.03
"""Above this an idle `up` would be in the way of a laptop's other work."""
GIB = 1 << 30
PROBE = {"name": "compare", "parameters": {"left": "nobody@1", "right": "nobody@2"}}
PACKAGES = ("fluxline", "prefect", "mlflow", "uvicorn")


@dataclass(frozen=True)
class Idle:
    """What the processes take while nothing happens; memory in GiB, CPU in cores."""

    pss: float
    rss: float
    cores: float
    by_process: dict[str, tuple[float, float]]


def main() -> int:
    """Measure and publish."""
    parser = argparse.ArgumentParser(
        description="How soon `fluxline up` is usable, and what it takes while idle."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long idleness is watched")
    parser.add_argument("--settle", type=float, default=20.0, help="seconds after the first run before that")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        first, idle, stopping, left = _once(home, arguments.settle, arguments.seconds)
        again, _, _, left_again = _once(home, 0.0, 0.0)
    rows = [
        faster("idle CPU against the goal", idle.cores, IDLE_CORES, "cores"),
        faster("idle memory against the goal", idle.pss, IDLE_GIB, "GiB"),
        faster("usable again, databases made", again["run begun"], USABLE_SECONDS),
        faster("usable, from nothing", first["run begun"], USABLE_SECONDS),
    ]
    figures = {f"first start: {name}": seconds for name, seconds in first.items()}
    figures |= {f"second start: {name}": seconds for name, seconds in again.items()}
    figures |= {
        "idle RSS in GiB": idle.rss,
        "stopped after seconds": stopping,
        "processes left": float(left + left_again),
    }
    for name, (cores, pss) in idle.by_process.items():
        figures |= {f"{name}: cores": cores, f"{name}: GiB": pss}
    result = publish("up", rows, PACKAGES, {name: round(value, 4) for name, value in figures.items()})
    _show(result, rows, arguments.json)
    return 1 if left + left_again else 0


def _once(home: Path, settle: float, watch: float) -> tuple[dict[str, float], Idle, float, int]:
    """Start it, ask it for a run, watch it idle, stop it; return seconds, idleness, time to stop, processes left."""
    start = time.perf_counter()
    environment = os.environ | {"FLUXLINE_HOME": str(home)}
    with (home.parent / "up.log").open("ab") as log:
        up = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "up"], env=environment, stdout=log, stderr=log
        )
    seconds: dict[str, float] = {}
    try:
        addresses = json.loads(_patiently(up, home, lambda: (home / "servers.json").read_text()))
        for name in ("prefect", "mlflow"):
            _patiently(
                up,
                home,
                lambda name=name: _ask(
                    addresses[f"{name}_url"], "/api/health" if name == "prefect" else "/health"
                ),
            )
        seconds["both servers answer"] = time.perf_counter() - start
        api = f"{addresses['prefect_url']}/api"
        made = _patiently(up, home, lambda: _request_run(api))
        seconds["run accepted"] = time.perf_counter() - start
        _patiently(up, home, lambda: _is_past(api, made, "SCHEDULED", "PENDING"))
        seconds["run begun"] = time.perf_counter() - start
        _patiently(up, home, lambda: _is_past(api, made, "SCHEDULED", "PENDING", "RUNNING"))
        time.sleep(settle)
        idle = _idle(up.pid, watch)
        family = _family(up.pid)
        asked = time.perf_counter()
        up.send_signal(signal.SIGINT)
        up.wait(120)
        stopping = time.perf_counter() - asked
        _, alive = psutil.wait_procs(family, timeout=1)
        return seconds, idle, stopping, len(alive)
    finally:
        _end(up)


def _patiently(up: subprocess.Popen[bytes], home: Path, look: Any) -> Any:
    """Return the first true answer of `look`; a server that does not answer yet is asked again."""
    deadline = time.monotonic() + 300
    while True:
        with suppress(OSError, ValueError, LookupError):
            if found := look():
                return found
        if up.poll() is not None or time.monotonic() > deadline:
            raise StageError(f"fluxline up is not usable: {(home.parent / 'up.log').read_text()[-2000:]}")
        time.sleep(0.05)


def _ask(base: str, path: str, body: Any = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=5) as reply:
        return reply.read().decode() or "{}"


def _request_run(api: str) -> str:
    """Ask for a run of a deployment, as the *Run* button does; return its id."""
    name = PROBE["name"]
    deployment = json.loads(_ask(api, f"/deployments/name/{name}/{name}"))["id"]
    asked = {"parameters": PROBE["parameters"], "state": {"type": "SCHEDULED"}}
    return json.loads(_ask(api, f"/deployments/{deployment}/create_flow_run", asked))["id"]


def _is_past(api: str, run: str, *states: str) -> bool:
    return json.loads(_ask(api, f"/flow_runs/{run}"))["state_type"] not in states


def _family(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _idle(pid: int, watch: float) -> Idle:
    """Watch all processes for a time."""
    family = _family(pid)
    before = [_cpu(member) for member in family]
    start = time.perf_counter()
    time.sleep(watch)
    seconds = max(time.perf_counter() - start, 1e-3)
    by_process: dict[str, tuple[float, float]] = {}
    pss = rss = cores = 0.0
    for member, was in zip(family, before, strict=True):
        with suppress(psutil.NoSuchProcess):
            memory, share = member.memory_full_info(), (_cpu(member) - was) / seconds
            pss, rss, cores = pss + memory.pss / GIB, rss + memory.rss / GIB, cores + share
            name = _said(member)
            had = by_process.get(name, (0.0, 0.0))
            by_process[name] = (had[0] + share, had[1] + memory.pss / GIB)
    return Idle(pss, rss, cores, by_process)


def _cpu(member: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        return sum(member.cpu_times()[:2])
    return 0.0


def _said(member: psutil.Process) -> str:
    """A process by the module it runs."""
    words = member.cmdline()
    modules = [word for before, word in pairwise(words) if before == "-m"]
    return " of ".join(modules[:2]) if modules[:1] == ["tasks.guard"] else (modules or [member.name()])[0]


def _end(up: subprocess.Popen[bytes]) -> None:
    """Leave nothing behind, whatever went wrong."""
    if up.poll() is None:
        family = _family(up.pid)
        up.terminate()
        with suppress(subprocess.TimeoutExpired):
            up.wait(60)
        for member in psutil.wait_procs(family, timeout=5)[1]:
            member.kill()


def _show(result: dict, rows: list[Row], as_json: bool) -> None:
    show(result, as_json)
    if not as_json:
        for name, value in result["figures"].items():
            print(f"{name:40} {value:9.3f}")


if __name__ == "__main__":
    sys.exit(main())
