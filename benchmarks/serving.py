"""`fluxline serve` beside `mlflow models serve`, same model: latency, throughput, memory, CPU time, and none lost.

The model is the champion of FLUXLINE_HOME (after `make demo`) or a directory. Both servers run at once and are asked
in turn. Run: python -m benchmarks.serving --json
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import Row, faster, publish, show
from flows.ports import free_port
from fluxmodel.errors import InputError
from tasks.generate import find_model
from tasks.home import open_home
from tasks.served_model import write_mlmodel

MIB = 1 << 20
ASKED = {"prompt": "a large red circle middle center", "num_steps": 1}
ROUNDS = 10
OURS, PEER = "/generate", "/invocations"


@dataclass(frozen=True)
class Reply:
    """What came back: status 0 where the connection was lost."""

    status: int
    body: bytes
    seconds: float
    headers: Mapping[str, str] = field(default_factory=dict)


def ask(port: int, path: str, body: Any, headers: dict[str, str] | None = None) -> Reply:
    """Send one JSON request over a connection of its own."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        text = body if isinstance(body, str | bytes) else json.dumps(body)
        connection.request("POST", path, text, {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        read = answer.read()
        return Reply(answer.status, read, time.perf_counter() - start, dict(answer.headers))
    except (OSError, http.client.HTTPException):
        return Reply(0, b"", time.perf_counter() - start)
    finally:
        connection.close()


def flood(port: int, path: str, bodies: Sequence[Any], concurrency: int) -> list[Reply]:
    """Send requests, `concurrency` at once; return the replies in their order."""
    with ThreadPoolExecutor(concurrency) as clients:
        return list(clients.map(lambda body: ask(port, path, body), bodies))


@contextmanager
def serving(command: list[str], port: int, health: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the body is done; it has ended, with all it started, afterwards."""
    with log.open("wb") as sink:
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not _answers(port, health):
            if process.poll() is not None or time.monotonic() > deadline:
                raise InputError(f"{command[1:4]} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield process
    finally:
        family = [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
        process.terminate()
        process.wait(60)
        for child in psutil.wait_procs(family, timeout=10)[1]:
            child.kill()


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """Return the CPU time a process and its children have taken: neighbours on the machine cannot bend it."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return sum(sum(member.cpu_times()[:2]) for member in family)


def resident(process: subprocess.Popen[bytes]) -> float:
    """Return the resident memory of a process and its children in MiB."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return sum(member.memory_info().rss for member in family) / MIB


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@dataclass
class Side:
    """One server under load."""

    port: int
    path: str
    process: subprocess.Popen[bytes]
    seconds: float = 0.0
    cpu: float = 0.0
    before: float = 0.0
    after: float = 0.0
    replies: list[Reply] = field(default_factory=list)

    def body(self, seed: int) -> dict[str, Any]:
        """Return a request in the server's form."""
        asked = ASKED | {"seed": seed}
        return asked if self.path == OURS else {"inputs": [asked]}

    def warm(self, count: int, concurrency: int) -> None:
        """Let caches and pools grow to their size, then note the memory."""
        flood(self.port, self.path, [self.body(seed) for seed in range(count)], concurrency)
        self.before = resident(self.process)

    def load(self, count: int, concurrency: int) -> None:
        """Send `count` requests and keep what came back."""
        start, cpu = time.perf_counter(), cpu_seconds(self.process)
        bodies = [self.body(len(self.replies) + number) for number in range(count)]
        self.replies += flood(self.port, self.path, bodies, concurrency)
        self.seconds += time.perf_counter() - start
        self.cpu += cpu_seconds(self.process) - cpu

    def latency(self, share: float) -> float:
        """Return the quantile `share` of the latency in milliseconds."""
        return 1000 * statistics.quantiles([r.seconds for r in self.replies], n=100)[round(100 * share) - 1]

    @property
    def lost(self) -> int:
        """Requests that were not answered with 200."""
        return sum(reply.status != 200 for reply in self.replies)


def main() -> int:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description="fluxline serve beside mlflow models serve.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--model", default="", help="NAME@VERSION or directory; default the champion")
    parser.add_argument("--requests", type=int, default=2000, help="requests to each server, in ten turns")
    parser.add_argument("--concurrency", type=int, default=200, help="of them at once")
    arguments = parser.parse_args()
    try:
        model = find_model(open_home(), arguments.model)
    except InputError:
        print("There is no model to serve: run `make demo` first, or name one by --model.", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(shutil.copytree(model, Path(scratch) / "model"))
        write_mlmodel(directory, "benchmark")
        ours, peer, alone = _measure(directory, arguments.requests, arguments.concurrency)
    result = publish("serving", _rows(ours, peer), ("fluxline", "mlflow", "fastapi", "uvicorn", "torch"),
                     _figures(ours, peer) | {"requests": arguments.requests, "concurrency": arguments.concurrency},
                     one_alone_milliseconds=alone)  # fmt: skip
    show(result, arguments.json)
    return 0


def _measure(directory: Path, requests: int, concurrency: int) -> tuple[Side, Side, float]:
    ports = free_port(8300), free_port(8400)
    fluxline = [sys.executable, "-m", "flows.cli", "serve", str(directory), "--port", str(ports[0])]
    where = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(ports[1])]
    mlflow = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(directory), *where]
    log = directory.parent
    with (
        serving(fluxline, ports[0], "/health", log / "ours.log") as one,
        serving(mlflow, ports[1], "/ping", log / "peer.log") as other,
    ):
        sides = Side(ports[0], OURS, one), Side(ports[1], PEER, other)
        for side in sides:
            side.warm(concurrency, concurrency)
        alone = statistics.median(ask(ports[0], OURS, sides[0].body(i)).seconds for i in range(20))
        for turn in range(ROUNDS):
            for side in sides if turn % 2 else sides[::-1]:
                side.load(requests // ROUNDS, concurrency)
        for side in sides:
            side.after = resident(side.process)
    return sides[0], sides[1], 1000 * alone


def _rows(ours: Side, peer: Side) -> list[Row]:
    rate, peer_rate = len(ours.replies) / ours.seconds, len(peer.replies) / peer.seconds
    cpu = [1000 * side.cpu / len(side.replies) for side in (ours, peer)]
    return [
        faster("latency, median", ours.latency(0.5), peer.latency(0.5), "milliseconds"),
        faster("latency, 95 %", ours.latency(0.95), peer.latency(0.95), "milliseconds"),
        faster("memory after against before", ours.after, ours.before, "MiB"),
        Row("throughput", rate, peer_rate, rate / peer_rate, "requests/s"),
        faster("CPU time a request", cpu[0], cpu[1], "milliseconds"),
    ]


def _figures(ours: Side, peer: Side) -> dict[str, float]:
    figures = {}
    for name, side in (("ours", ours), ("peer", peer)):
        figures |= {
            f"{name}_lost": side.lost,
            f"{name}_mib_before": side.before,
            f"{name}_mib_after": side.after,
        }
    return figures


if __name__ == "__main__":
    sys.exit(main())
