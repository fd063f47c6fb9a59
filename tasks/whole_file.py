"""A small file that is there whole or not at all, whoever reads it and whenever the power goes."""

import os
import time
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file, and its folder where that is missing, under another name first; the rename replaces it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}-{os.getpid()}-{time.monotonic_ns()}")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
