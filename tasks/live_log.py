"""A child's lines in its task run's log while it works: what it measures, now and then; what it prints, all of it.

Spools and logs are read from outside, in a thread of its own, so nothing here can slow or stop the child: not a log
that cannot be sent, nor one that cannot be read.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from tasks.pace import newest_spool, pace_said, read_pace

EVERY_SECONDS = 10.0
POLL_SECONDS = 1.0
MOST_LINES = 200
"""Of what a child prints, in one poll: a flood is cut, and said to be."""
_MOST_CHARACTERS = 2000


class LiveLog:
    """Follows all children of a stage.

    Args:
        work: the stage's folder.
        say: takes one line; may be called from another thread.
        every: seconds between two lines on progress, at least; 0 is `EVERY_SECONDS`.
    """

    def __init__(self, work: Path, say: Callable[[str], None], every: float = 0.0):
        self.work, self.say, self.every = work, say, every or EVERY_SECONDS
        self._places = {path: path.stat().st_size for path in self._logs()}
        self._spooled = _mark(work)
        self._due = time.monotonic() + self.every
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="live-log", daemon=True)

    def __enter__(self) -> "LiveLog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(5.0)

    def _follow(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._done.wait(min(POLL_SECONDS, self.every))
            try:
                self._print(is_over)
                self._measure(is_over)
            except OSError:  # a folder that is tidied away this moment
                continue

    def _logs(self) -> list[Path]:
        return [path for path in (self.work / "log.txt", *self.work.glob("*/log.txt")) if path.is_file()]

    def _print(self, is_over: bool) -> None:
        """Pass on whole new lines, and at the end what is left."""
        for path in self._logs():
            with path.open("rb") as stream:
                stream.seek(self._places.get(path, 0))
                data = stream.read()
            whole = data if is_over else data[: data.rfind(b"\n") + 1]
            self._places[path] = self._places.get(path, 0) + len(whole)
            lines = [line.rsplit("\r", 1)[-1] for line in whole.decode(errors="replace").split("\n")]
            lines = [line[:_MOST_CHARACTERS] for line in lines if line.strip()]
            for line in lines[:MOST_LINES]:
                self.say(line)
            if len(lines) > MOST_LINES:
                self.say(f"... and {len(lines) - MOST_LINES} more lines in {path}")

    def _measure(self, is_over: bool) -> None:
        """Tell how far it is, where it is time for that and something is new; at the end in any case."""
        if time.monotonic() < self._due and not is_over:
            return
        mark = _mark(self.work)
        if mark == self._spooled:
            return
        self._spooled, self._due = mark, time.monotonic() + self.every
        if pace := read_pace(self.work):
            self.say(pace_said(pace))


def _mark(work: Path) -> tuple[Path | None, int]:
    """What tells whether a child has reported since."""
    spool = newest_spool(work)
    return spool, spool.stat().st_size if spool else 0
