"""What several tests share: a fresh interpreter to run code in, and outside programs that may be missing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


class OutsideNetworkError(BaseException):
    """A test reached for the network; not an Exception, so that no fallback can swallow it."""


def run_python(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with `arguments` from the repository's root and return what it printed.

    A child is beyond the guard on sockets, so proxies that refuse at once stand in for it there.
    """
    refuse = "http://127.0.0.1:9"
    environment = os.environ | {
        "http_proxy": refuse,
        "https_proxy": refuse,
        "no_proxy": "127.0.0.1,localhost",
    }
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def loaded_after(code: str, modules: tuple[str, ...]) -> list[str]:
    """Return which of `modules` are loaded in a fresh interpreter after it has run `code`."""
    done = run_python(
        "-c", f"{code}\nimport sys\nprint('loaded:', *[m for m in {modules!r} if m in sys.modules])"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.rsplit("loaded:", 1)[1].split()


def require_external(found: Path | None, name: str) -> Path:
    """Return `found`; where it is None skip the test, or fail it under FLUXLINE_REQUIRE_EXTERNALS=1."""
    if found is not None:
        return found
    if os.environ.get("FLUXLINE_REQUIRE_EXTERNALS") == "1":
        pytest.fail(f"{name} is not installed, and FLUXLINE_REQUIRE_EXTERNALS=1 asks for it")
    pytest.skip(f"{name} is not installed")


def write_evaluation(directory: Path, right: np.ndarray, **identity: Any) -> Path:
    """Write an evaluation directory in which `right` says of each image whether it is all correct; return it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    where, n, value = {"steps": 8, "guidance": 2.0}, len(right), float(right.mean())
    metric = {"name": "all_correct", "value": value, "ci_low": value - 0.05, "ci_high": value + 0.05, "n": n,
              "method": "", "direction": "higher", "identity": where}  # fmt: skip
    alike = ("model", "dataset", "reference", "feature_extractor", "judge", "prompts", "seeds", "solver", "resize",
             "dtype", "code")  # fmt: skip
    document = {
        "identity": {**dict.fromkeys(alike, ""), "steps": None, "guidance": None, "n": n, **identity},
        "metrics": [metric],
        "headline": {"curve": "base_guided", **where},
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "evaluation.json").write_text(json.dumps(document))
    columns = {"curve": ["base_guided"] * n, "steps": [8] * n, "guidance": [2.0] * n,
               "prompt": [f"p{i}" for i in range(n)], "seed": list(range(n)), "all_correct": right}  # fmt: skip
    pq.write_table(pa.table(columns), directory / "rows.parquet")
    return directory
