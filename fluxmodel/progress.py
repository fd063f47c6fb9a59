"""How long work tells how far it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

Progress = Callable[[int, int, str], None]
"""progress(done, total, message)"""
_TAIL_BYTES = 1 << 16


def silent(done: int, total: int, message: str) -> None:
    """Tell nobody."""


def seconds_spooled(spool: Path) -> float:
    """Return the `seconds` of the last whole line of a metrics.jsonl: what earlier lives of a job took.

    Without a line that can be read it is 0. A killed writer's unfinished end is passed over.
    """
    if not spool.exists():
        return 0.0
    with spool.open("rb") as stream:
        stream.seek(max(0, spool.stat().st_size - _TAIL_BYTES))
        *whole, _ = stream.read().split(b"\n")
    for line in reversed(whole):
        with suppress(ValueError, KeyError, TypeError):
            return float(json.loads(line)["seconds"])
    return 0.0
