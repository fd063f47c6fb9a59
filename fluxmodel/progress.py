"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""progress(done, total, message)"""


def silent(done: int, total: int, message: str) -> None:
    """Tell nobody."""
