"""Timing two things fairly: interleaved rounds, medians, and what machine it was."""

import json
import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One comparison; `ratio` is above 1 where ours is better."""

    name: str
    ours: float
    peer: float
    ratio: float
    unit: str


def median_seconds(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Call every contestant once a round, in turn, and return each one's median wall time in seconds.

    Interleaving lets a disturbance of the machine fall on all of them alike. A first round, not
    counted, warms caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def faster(name: str, ours: float, peer: float, unit: str = "seconds") -> Row:
    """Return the row of a comparison in which less is better."""
    return Row(name, ours, peer, peer / ours, unit)


def peak_mib() -> float:
    """Return the most memory this process has held, MiB.

    On Linux from VmHWM: `ru_maxrss` of a child begins at what its parent held.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2 ** (20 if platform.system() == "Darwin" else 10)


def publish(
    name: str,
    rows: list[Row],
    packages: tuple[str, ...],
    figures: dict[str, float] | None = None,
    **limits: float,
) -> dict:
    """Write benchmarks/results/<name>.json and return what it says.

    Args:
        name: The benchmark's module name.
        rows: What was measured; the last row is the headline.
        packages: Distributions whose versions belong to the result.
        figures: Further numbers behind the rows, by name.
        **limits: The machine's own measured limits, to read the rows against.
    """
    result = {
        "benchmark": name,
        "rows": [asdict(row) for row in rows],
        "figures": figures or {},
        "limits": limits,
        "device": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in packages},
        "commit": _commit(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def show(result: dict, as_json: bool) -> None:
    """Print a result: one JSON object on a line, or a row a line."""
    if as_json:
        print(json.dumps(result))
        return
    for row in result["rows"]:
        numbers = f"{row['ours']:9.3f} against {row['peer']:9.3f} {row['unit']}"
        print(f"{row['name']:32} {numbers}, {row['ratio']:.2f}x")
    for limit, value in result["limits"].items():
        print(f"{limit:32} {value:9.3f} (the machine's limit)")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    command = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
