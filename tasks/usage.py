"""What a child process and all it started take of the machine, as lines of a spool beside its own.

The names are those of MLflow's page "System metrics"; that page draws them over time, so each line says when it was
measured. Fields: `system/stage_cpu_cores` (1 = one core busy), `system/stage_memory_megabytes` (resident sets added
up, pages shared by processes counted more than once), the whole machine's share of CPU and memory, and of each GPU.
"""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

FILE = "system.jsonl"
EVERY_SECONDS = 5.0
FIRST_SECONDS = 1.0
_FAMILY_SAMPLES = 6
"""Looking for new members of the family reads all of /proc, 10 ms and more: once in so many samples."""
_MEGABYTE = 1e6


class UsageSpool:
    """Appends a line every few seconds to a file; to be asked often, and for little.

    Args:
        pid: the child.
        path: the spool; steps go on from its last line, so that a resumed stage's points follow the earlier ones.
    """

    def __init__(self, pid: int, path: Path):
        import psutil

        self._path = path
        self._leader = psutil.Process(pid)
        self._family: dict[int, Any] = {pid: self._leader}
        self._cpu_seconds: dict[int, float] = {}
        self._gpus = _gpus()
        self._step = _last_step(path)
        self._num = 0
        self._measured = time.monotonic()
        self._due = self._measured + FIRST_SECONDS
        psutil.cpu_percent()  # the first call only sets its mark

    def poll(self) -> None:
        """Measure, if it is time."""
        if time.monotonic() >= self._due:
            with suppress(Exception):  # a child that ends meanwhile; no stage stops for this
                self._write(self._measure())
            self._due = time.monotonic() + EVERY_SECONDS

    def _measure(self) -> dict[str, float]:
        import psutil

        if self._num % _FAMILY_SAMPLES == 0 or self._num < 3:
            children = {child.pid: child for child in self._leader.children(recursive=True)}
            self._family = {self._leader.pid: self._leader, **children}
        self._num += 1
        now, memory, busy = time.monotonic(), 0.0, 0.0
        for pid, member in list(self._family.items()):
            with suppress(psutil.Error), member.oneshot():
                times = member.cpu_times()
                seconds = times.user + times.system
                busy += max(0.0, seconds - self._cpu_seconds.get(pid, 0.0))
                self._cpu_seconds[pid] = seconds
                memory += member.memory_info().rss
        elapsed, self._measured = now - self._measured, now
        machine = psutil.virtual_memory()
        return {
            "system/stage_cpu_cores": busy / elapsed,
            "system/stage_memory_megabytes": memory / _MEGABYTE,
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_percentage": machine.percent,
            **_gpu_figures(self._gpus),
        }

    def _write(self, metrics: dict[str, float]) -> None:
        self._step += 1
        line = {
            "step": self._step,
            "time": time.time(),
            "metrics": {k: round(v, 3) for k, v in metrics.items()},
        }
        with self._path.open("a") as spool:
            spool.write(json.dumps(line) + "\n")


def _last_step(path: Path) -> int:
    from tasks.spool import SpoolReader

    lines = SpoolReader(path).read()
    return lines[-1].step if lines else 0


def _gpus() -> list[Any]:
    """Return the handles of NVIDIA's GPUs; none without the library `pynvml` or a driver."""
    try:
        import pynvml  # type: ignore[import-not-found]

        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except Exception:
        return []


def _gpu_figures(gpus: list[Any]) -> dict[str, float]:
    figures = {}
    for number, gpu in enumerate(gpus):
        import pynvml  # type: ignore[import-not-found]

        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        figures[f"system/gpu_{number}_utilization_percentage"] = float(
            pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
        )
        figures[f"system/gpu_{number}_memory_usage_megabytes"] = memory.used / _MEGABYTE
        figures[f"system/gpu_{number}_memory_usage_percentage"] = 100 * memory.used / memory.total
        figures[f"system/gpu_{number}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
    return figures
