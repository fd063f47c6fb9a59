"""What several tests share: a fresh interpreter to run code in, and outside programs that may be missing."""

import os
import subprocess
import sys
from pathlib import Path

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
