"""Whether anything works in a home: whatever makes artifacts holds a shared lock, whatever removes them the whole one.

The lock is a locked file, so it frees itself when its holder dies, however it dies.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from fluxmodel.errors import InputError, InterruptedRun
from tasks.home import Home
from tasks.launch import STOP

_POLL_SECONDS = 0.2


@contextmanager
def in_use(home: Home) -> Iterator[None]:
    """Keep the home's artifacts from being pruned while the body runs; waits while they are.

    Raises:
        InterruptedRun: the run was asked to stop while it waited.
    """
    with _opened(home) as lock:
        while not _take(lock, fcntl.LOCK_SH):
            if STOP.wait(_POLL_SECONDS):
                raise InterruptedRun("Stopped while artifacts were being pruned; the same command goes on.")
        yield


@contextmanager
def unused(home: Home) -> Iterator[None]:
    """Keep everything else out of the home while the body runs.

    Raises:
        InputError: something works there.
    """
    with _opened(home) as lock:
        if not _take(lock, fcntl.LOCK_EX):
            raise InputError(
                f"A run works in {home.root}, and what it needs must stay; prune when it has ended."
            )
        yield


def _opened(home: Home) -> IO[str]:
    folder = home.root / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / "in-use").open("a")


def _take(lock: IO[str], how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
