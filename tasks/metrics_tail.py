"""The way of a child's measurements to MLflow: its spools are followed, and what cannot be sent is sent later."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks import tracking
from tasks.home import Home
from tasks.pictures import SAMPLES, read_picture
from tasks.spool import SpoolLine, SpoolReader
from tasks.usage import FILE as USAGE
from tasks.whole_file import write_whole


class MetricsTail:
    """Sends a child's spools to MLflow in batches from its own thread; what cannot be sent is sent later.

    A resumed child repeats steps bit for bit, so a point at or before the last one sent is not sent again. Beside the
    spool the child's use of the machine is found, and the images it draws while it trains.

    Args:
        home: where tracking happens.
        spool: the child's metrics.jsonl.
        state: file that remembers the place reached, for after a crash.
        open_run: returns the MLflow run's id; called until it succeeds.
        say: told in one line when MLflow goes away and when it is back.
    """

    RETRY_SECONDS = 15.0

    def __init__(
        self, home: Home, spool: Path, state: Path, open_run: Callable[[], str], say: Callable[[str], None]
    ):
        self.home, self.state, self.say, self._open = home, state, say, open_run
        remembered = _read_json(state)
        self.reader = SpoolReader(spool, int(remembered.get("offset", 0)))
        self.usage = SpoolReader(spool.with_name(USAGE), int(remembered.get("usage_offset", 0)))
        self.pictures = spool.with_name(SAMPLES)
        self.sent_pictures: list[str] = list(remembered.get("pictures", []))
        self.last: dict[str, int] = dict(remembered.get("last", {}))
        self.run_id = ""
        self.is_away = False
        self._done = threading.Event()
        self._opening = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="metrics-tail", daemon=True)

    def __enter__(self) -> "MetricsTail":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.pump()

    def require(self) -> str:
        """Return the MLflow run's id, opened if need be; raises what MLflow raises."""
        with self._opening:  # the stage's thread and ours may both ask, and two runs must not be made
            if not self.run_id:
                self.run_id = self._open()
            return self.run_id

    def close(self, status: str) -> None:
        """End the run, if it was opened. Never raises: a run left open is re-opened by its key."""
        with contextlib.suppress(Exception):
            if self.run_id:
                tracking.close_run(self.home, self.run_id, status)

    def pump(self) -> bool:
        """Send what is new; return whether MLflow took it all. Never raises."""
        offsets, last = (self.reader.offset, self.usage.offset), dict(self.last)
        try:
            self.require()
            points = [*self._points(self.reader.read()), *self._points(self.usage.read())]
            if points:
                tracking.log_points(self.home, self.run_id, points)
            self._remember()
        except Exception as error:  # whatever MLflow or the network raises: the spool keeps the points
            (self.reader.offset, self.usage.offset), self.last = offsets, last
            return self._say_away(error)
        try:
            self._send_pictures()
        except Exception as error:  # those that were sent are remembered
            return self._say_away(error)
        if self.is_away:
            self.is_away = False
            self.say("MLflow is back; the points of the meantime were sent.")
        return True

    def _say_away(self, error: Exception) -> bool:
        if not self.is_away:
            self.is_away = True
            self.say(f"MLflow is away ({type(error).__name__}); points stay in the spool and are sent later.")
        return False

    def _work(self) -> None:
        wait = 0.0
        while not self._done.wait(wait):
            wait = 2.0 if self.pump() else self.RETRY_SECONDS

    def _points(self, lines: list[SpoolLine]) -> Iterator[tracking.MetricPoint]:
        for line in lines:
            step = line.step if line.at is None else line.at
            for name, value in line.metrics.items():
                sent = name if line.at is None else f"{name}@{line.at}"  # points of a curve come in any order
                if step > self.last.get(sent, -1):
                    self.last[sent] = step
                    yield tracking.MetricPoint(name, value, step, line.time)

    def _send_pictures(self) -> None:
        for path in sorted(self.pictures.glob("*.png")):
            if path.name not in self.sent_pictures:
                tracking.log_pictures(self.home, self.run_id, [read_picture(path, "samples")])
                self.sent_pictures.append(path.name)
                self._remember()

    def _remember(self) -> None:
        place = {"offset": self.reader.offset, "usage_offset": self.usage.offset, "last": self.last}
        write_whole(self.state, json.dumps({"run_id": self.run_id, **place, "pictures": self.sent_pictures}))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
