"""FLUX.1 directories with random weights, small enough for a test."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_pipelines import save_pipeline


@pytest.fixture(scope="session")
def flux_directory(tmp_path_factory) -> Callable[[str], Path]:
    """A function that returns the directory of a tiny FLUX.1, "dev" or "schnell", made once; leave it as it is."""
    root, made = tmp_path_factory.mktemp("flux"), {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = save_pipeline(f"flux-{name}", root / name)
        return made[name]

    return get
