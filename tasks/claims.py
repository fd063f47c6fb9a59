"""The key by which MLflow knows a pipeline run, kept in a file for as long as the run is unfinished.

A run that crashed or was stopped leaves its key to the next one of the same configuration, which goes on in the same
MLflow run. While a process works on it, it holds the file's lock: two at once of one configuration have a key each, and
a key that nobody holds, of a run that MLflow was never told the end of, is that of an abandoned run.
"""

import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tasks.home import Home

_BYTES = 128
"""The content is padded to so many and written by one call in place, so that no kill leaves half of it."""


@dataclass
class Claim:
    """A pipeline run's key, held by this process.

    Attributes:
        key: tag `run_key` of the parent run in MLflow.
        status: what an abandoned run came to, as MLflow is to be told.
    """

    path: Path
    descriptor: int
    key: str
    status: str = "FAILED"

    def note(self, is_open: bool, status: str = "FAILED") -> None:
        """Keep the key, and whether MLflow may think that the run goes on; `status` is what it came to."""
        text = json.dumps({"key": self.key, "is_open": is_open, "status": status})
        os.pwrite(self.descriptor, text.ljust(_BYTES).encode(), 0)

    def give_up(self) -> None:
        """Forget the key: a next run of this configuration is another one."""
        self.path.unlink(missing_ok=True)


@contextmanager
def claim(home: Home, name: str) -> Iterator[Claim]:
    """Hold the first key of configuration `name` that nobody holds: an unfinished run's, else a new one."""
    folder = home.root / "pipelines"
    folder.mkdir(parents=True, exist_ok=True)
    for number in count():
        path = folder / (f"{name}-{number}.json" if number else f"{name}.json")
        with _locked(path) as descriptor:
            if descriptor is not None:
                held = Claim(path, descriptor, _read(path).get("key") or uuid.uuid4().hex)
                held.note(is_open=True)
                yield held
                return


def abandoned(home: Home) -> Iterator[Claim]:
    """Yield the keys of runs that died, each held while it is looked at."""
    for path in sorted((home.root / "pipelines").glob("*.json")):
        if not _read(path).get("is_open"):
            continue
        with _locked(path) as descriptor:
            if descriptor is not None and (found := _read(path)).get("is_open"):
                yield Claim(path, descriptor, found["key"], found.get("status", "FAILED"))


@contextmanager
def _locked(path: Path) -> Iterator[int | None]:
    """Yield the open file with its lock; None where another holds it."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            is_ours = _lock(descriptor)
            if is_ours and not _is_at(path, descriptor):
                continue  # given up by its holder before we had the lock
            yield descriptor if is_ours else None
            return
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read(path: Path) -> dict:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
