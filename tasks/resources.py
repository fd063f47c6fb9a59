"""What each stage needs of the machine: cores, GPUs, time, second chances; and the slots that stages wait for.

A slot is a locked file, so slots are shared by all commands of one FLUXLINE_HOME and free themselves when
their holder dies, however it dies.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fluxmodel.errors import FluxlineError, InterruptedRun, StageError
from tasks.device_locks import noted_now, write_note

HOUR = 3600.0
POLL_SECONDS = 0.1
LET_THE_CHAIN_GO_ON = 4.0
"""Seconds a side branch waits for a slot: Prefect takes one or two to submit what follows a finished stage."""


@dataclass(frozen=True)
class Resources:
    """A stage's needs.

    Attributes:
        cpus: slots it takes where its job does not say (a job's `threads` wins).
        timeout_seconds: longest time a child of the stage may take (Prefect cannot interrupt a thread that waits).
        retries: how often a failure that may pass (a killed child, a full disk freed) is tried again.
        priority: lower goes first when slots are short; the longest chain starts first.
        yields_seconds: how long a stage that is not on the longest chain leaves a free slot to others.
        gpus: devices it takes on a machine that has some (a job's own wish wins); 0 is a stage of the CPU.
        gpu_memory_gb: memory each of them must have in all; 0 is any (a job's own wish wins).
        asks_late: whether it takes them only when a child needs them: it often ends without one, or its shards take
            those of a cluster.
    """

    cpus: int = 1
    timeout_seconds: float = 6 * HOUR
    retries: int = 1
    priority: int = 10
    yields_seconds: float = 0.0
    gpus: int = 0
    gpu_memory_gb: float = 0.0
    asks_late: bool = False


RESOURCES = {
    "prepare-{part}": Resources(timeout_seconds=24 * HOUR, gpus=1),
    "prepare-autoencoder": Resources(priority=0, gpus=1),
    "curate": Resources(timeout_seconds=24 * HOUR, priority=1),
    "prepare-captioner": Resources(priority=1, yields_seconds=0.2, gpus=1),
    "caption": Resources(timeout_seconds=7 * 24 * HOUR, priority=1, gpus=1, asks_late=True),
    "encode": Resources(timeout_seconds=24 * HOUR, priority=1, gpus=1),
    "train": Resources(timeout_seconds=14 * 24 * HOUR, priority=1, gpus=1),
    "rectify": Resources(timeout_seconds=7 * 24 * HOUR, priority=2, gpus=1),
    "finetune": Resources(timeout_seconds=24 * HOUR, priority=3, gpus=1),
    "prepare-dual_encoder": Resources(priority=4, yields_seconds=LET_THE_CHAIN_GO_ON, gpus=1),
    "prepare-detector": Resources(priority=5, yields_seconds=LET_THE_CHAIN_GO_ON, gpus=1),
    "prepare-style_classifier": Resources(priority=6, yields_seconds=LET_THE_CHAIN_GO_ON, gpus=1),
    "evaluate": Resources(timeout_seconds=12 * HOUR, priority=7, gpus=1),
    "gate": Resources(timeout_seconds=12 * HOUR, retries=2, priority=7, gpus=1, asks_late=True),
    "vigil": Resources(timeout_seconds=12 * HOUR, priority=8, gpus=1),
    "register": Resources(timeout_seconds=HOUR, retries=2, priority=7),
}


def worth_retrying(error: BaseException) -> bool:
    """Return whether trying again may help: never after bad input or an asked-for stop."""
    if isinstance(error, FluxlineError):
        return isinstance(error, StageError) and error.exit_code == 1
    return isinstance(error, OSError)


def num_slots() -> int:
    """Return how many cores this process may use."""
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_waiting: list[tuple[int, float]] = []
_waiting_changed = threading.Condition()


@contextmanager
def slots(
    folder: Path,
    cpus: int,
    resources: Resources,
    stop: Callable[[], bool],
    about: dict[str, str] | None = None,
) -> Iterator[int]:
    """Hold `cpus` slots (no more than the machine has) while the body runs; yields the number held.

    Args:
        folder: of the locked files.
        cpus: how many.
        resources: of the stage: who goes first.
        stop: asked while waiting.
        about: who holds them, written into the files for whoever looks.

    Raises:
        InterruptedRun: `stop()` turned true while waiting.
    """
    wanted = max(1, min(cpus, num_slots()))
    ticket = (resources.priority, time.monotonic())
    held: list[int] = []
    free_since = 0.0
    with _waiting_changed:
        _waiting.append(ticket)
        _waiting.sort()
    try:
        while not held:
            if stop():
                raise InterruptedRun("Stopped while waiting for a free core; the same command goes on.")
            with _waiting_changed:
                held = _take(folder, wanted) if _waiting[0] == ticket else []
                now = time.monotonic()
                free_since = (free_since or now) if held else 0.0
                if held and now - free_since < resources.yields_seconds:
                    _give_back(held)
                    held = []
                if held:
                    _waiting.remove(ticket)
                    _waiting_changed.notify_all()
                else:
                    _waiting_changed.wait(POLL_SECONDS)
        for descriptor in held:
            write_note(descriptor, {"pid": os.getpid(), **noted_now(), **(about or {})})
        yield wanted
    finally:
        with _waiting_changed:
            if ticket in _waiting:
                _waiting.remove(ticket)
            _waiting_changed.notify_all()
        _give_back(held)


def _give_back(held: list[int]) -> None:
    for descriptor in held:
        write_note(descriptor, {})
        os.close(descriptor)


def _take(folder: Path, wanted: int) -> list[int]:
    """Lock `wanted` slot files, all or none."""
    folder.mkdir(parents=True, exist_ok=True)
    held: list[int] = []
    for number in range(num_slots()):
        descriptor = os.open(folder / f"cpu-{number}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.append(descriptor)
        except OSError:
            os.close(descriptor)
        if len(held) == wanted:
            return held
    _give_back(held)
    return []
