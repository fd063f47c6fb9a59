"""What a person sees while stages run: bars on a terminal, a line every ten seconds in a log, or nothing."""

import logging
import sys
import threading
import time
from typing import Any, Protocol

LINE_SECONDS = 10.0


class Board(Protocol):
    """Where stages tell how far they are; calls come from several threads."""

    def update(self, stage: str, done: int, total: int, message: str) -> None:
        """Stage `stage` has done `done` of `total` (0 = unknown)."""

    def finish(self, stage: str, said: str) -> None:
        """Stage `stage` is over; `said` is its closing line."""

    def say(self, text: str) -> None:
        """Show one line."""


class LoggerBoard:
    """Writes to the logger `fluxline`: in a served run that is the run's log in Prefect."""

    def update(self, stage: str, done: int, total: int, message: str) -> None:
        pass  # Prefect shows a progress artifact

    def finish(self, stage: str, said: str) -> None:
        self.say(f"{stage}: {said}")

    def say(self, text: str) -> None:
        logger = logging.getLogger("fluxline")
        logger.setLevel(logging.INFO)
        logger.info(text)


class LineBoard:
    """Writes plain lines, one stage's progress at most every `LINE_SECONDS`."""

    def __init__(self, stream: Any = None):
        """Open a board on a stream; without one, on whatever stderr is when a line is written."""
        self.stream = stream
        self._written: dict[str, float] = {}
        self._lock = threading.Lock()

    def update(self, stage: str, done: int, total: int, message: str) -> None:
        now = time.monotonic()
        with self._lock:
            is_due = now - self._written.setdefault(stage, now) >= LINE_SECONDS
            if is_due:
                self._written[stage] = now
        if is_due:
            share = f"{done}/{total} ({100 * done // total} %)" if total else f"{done}"
            self.say(f"{stage}: {share} {message}".rstrip())

    def finish(self, stage: str, said: str) -> None:
        self.say(f"{stage}: {said}")

    def say(self, text: str) -> None:
        with self._lock:
            print(text, file=self.stream or sys.stderr, flush=True)


class BarBoard:
    """A bar a running stage, closing lines above."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[message]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._bars: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "BarBoard":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, stage: str, done: int, total: int, message: str) -> None:
        with self._lock:
            if stage not in self._bars:
                self._bars[stage] = self._progress.add_task(stage, total=total or None, message=message)
            self._progress.update(self._bars[stage], completed=done, total=total or None, message=message)

    def finish(self, stage: str, said: str) -> None:
        with self._lock:
            if stage in self._bars:
                self._progress.remove_task(self._bars.pop(stage))
        self.say(f"{stage}: {said}")

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)


_current: list[Board] = [LoggerBoard()]


def board() -> Board:
    """Return the board of this process."""
    return _current[0]


def use_board(new: Board) -> None:
    """Show progress on `new` from now on."""
    _current[0] = new
