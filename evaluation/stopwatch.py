"""Where the time of an evaluation goes: each part counts its own seconds, without those of the parts inside it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
REST = "everything else"


class Stopwatch:
    """Seconds by part; one part runs at a time."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._parts = [REST]
        self._since = time.perf_counter()

    def begin(self, part: str) -> None:
        """From now on time is counted for `part`."""
        self._count()
        self._parts.append(part)

    def end(self) -> None:
        """Go back to the part before."""
        self._count()
        self._parts.pop()

    def laps(self) -> dict[str, float]:
        """Return the seconds of each part up to now, the longest first; they sum up to the whole."""
        self._count()
        return dict(sorted(self._seconds.items(), key=lambda each: -each[1]))

    def _count(self) -> None:
        now = time.perf_counter()
        part = self._parts[-1]
        self._seconds[part] = self._seconds.get(part, 0.0) + now - self._since
        self._since = now


_running: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)


def timed(part: str) -> Callable[[Function], Function]:
    """Count the time of every call of a function for `part`, wherever a stopwatch runs."""

    def wrap(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            watch = _running.get()
            if watch is None:
                return function(*args, **kwargs)
            watch.begin(part)
            try:
                return function(*args, **kwargs)
            finally:
                watch.end()

        return call  # type: ignore[return-value]

    return wrap


def clocked(function: Function) -> Function:
    """Run a stopwatch during each call of a function."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        token = _running.set(Stopwatch())
        try:
            return function(*args, **kwargs)
        finally:
            _running.reset(token)

    return call  # type: ignore[return-value]


def laps() -> dict[str, float]:
    """Return the running stopwatch's seconds by part; empty where none runs."""
    watch = _running.get()
    return watch.laps() if watch else {}
