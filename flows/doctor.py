"""`fluxline doctor`: what this machine lacks, and the cure."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys

from flows.check import Check
from flows.home_checks import home_checks
from flows.machine_checks import machine_checks


def check_all() -> list[Check]:
    """Run each check; none of them changes anything but FLUXLINE_HOME's existence."""
    checks = (
        _python,
        _system,
        _torch,
        _bf16,
        _torchvision,
        _torch_fidelity,
        *machine_checks(),
        *home_checks(),
        _chromium,
    )
    return [_guarded(check) for check in checks]


def print_checks(checks: list[Check]) -> None:
    """Print a line a check, and the cure below what is not good."""
    mark = {"good": "ok  ", "note": "note", "bad": "BAD "}
    for check in checks:
        print(f"{mark[check.state]}  {check.name:<16} {check.found}")
        if check.cure:
            print(f"      {'':<16} -> {check.cure}")


def _guarded(check) -> Check:
    try:
        return check()
    except Exception as error:  # a check that fails is itself a finding
        name = check.__name__.strip("_")
        return Check(name, "bad", f"{type(error).__name__}: {error}", "install again with `make .venv`.")


def _python() -> Check:
    found, oldest = platform.python_version(), (3, 11)
    if sys.version_info[:2] < oldest:
        return Check("python", "bad", found, "use Python 3.11 or newer.")
    return Check("python", "good", found)


def _system() -> Check:
    found = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if platform.system() == "Linux":
        return Check("system", "good", found)
    return Check("system", "note", found, "Linux is supported; elsewhere we do what we can.")


def _torch() -> Check:
    from tasks.machine import describe_torch

    return Check("torch", "good", describe_torch())


def _bf16() -> Check:
    from tasks.machine import describe_bf16

    return Check("bf16", "good", describe_bf16())


def _torchvision() -> Check:
    return _half_installed("torchvision", "Inception and some processors can be used")


def _torch_fidelity() -> Check:
    return _half_installed("torch_fidelity", "Inception features can be used")


def _half_installed(name: str, what: str) -> Check:
    """A package that is there but cannot be imported breaks others that merely look for it."""
    if importlib.util.find_spec(name) is None:
        return Check(name, "good", "absent (optional)")
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode == 0:
        return Check(name, "good", what)
    last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    package = name.replace("_", "-")
    return Check(
        name,
        "bad",
        f"half installed: {last}",
        f"pip uninstall {package}, or install the build that fits torch.",
    )


def _chromium() -> Check:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return Check("chromium", "good", found or "absent (only screenshots in tests want it)")
