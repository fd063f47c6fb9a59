"""Checkpoints on disk: written to a temporary name and renamed, so a half-written one cannot be read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

KEPT = 2


class CheckpointFolder:
    """The newest few checkpoints of one run."""

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write the state after `step` steps, force it to disk and drop all but the newest two."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"step-{step:08d}.pt"
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            torch.save({"step": step, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        for old in sorted(self.directory.glob("step-*.pt"))[:-KEPT]:
            old.unlink()
        return path

    def newest(self) -> dict[str, Any] | None:
        """Return the newest state, or None where there is none."""
        paths = sorted(self.directory.glob("step-*.pt"))
        return torch.load(paths[-1], weights_only=True) if paths else None
