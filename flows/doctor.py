"""`fluxline doctor`: what this machine lacks, and the cure."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass

from flows.ports import free_port
from flows.servers import MLFLOW_PORT, PREFECT_PORT, running_servers
from fluxmodel.errors import FluxlineError
from tasks.home import open_home

FREE_GIGABYTES = 5.0


@dataclass(frozen=True)
class Check:
    """One check: its name, `good`, `note` (works, but worth knowing) or `bad`, what was found, and the cure."""

    name: str
    state: str
    found: str
    cure: str = ""


def check_all() -> list[Check]:
    """Run each check; none of them changes anything but FLUXLINE_HOME's existence."""
    checks = (
        _python,
        _system,
        _torch,
        _bf16,
        _torchvision,
        _torch_fidelity,
        _servers,
        _ports,
        _home,
        _disk,
        _chromium,
    )
    return [_guarded(check) for check in checks]


def print_checks(checks: list[Check]) -> None:
    """Print a line a check, and the cure below what is not good."""
    mark = {"good": "ok  ", "note": "note", "bad": "BAD "}
    for check in checks:
        print(f"{mark[check.state]}  {check.name:<15} {check.found}")
        if check.cure:
            print(f"      {'':<15} -> {check.cure}")


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


def _servers() -> Check:
    found = running_servers(open_home())
    if found is not None:
        return Check("servers", "good", f"up: {found.prefect_url} and {found.mlflow_url}")
    given = [
        f"{name}={os.environ[name]}"
        for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")
        if os.environ.get(name)
    ]
    return Check("servers", "good", ", ".join(given) or "none up; `fluxline run` starts what it needs")


def _ports() -> Check:
    try:
        ports = {usual: free_port(usual) for usual in (PREFECT_PORT, MLFLOW_PORT)}
    except FluxlineError as error:
        return Check("ports", "bad", str(error), "stop some local server.")
    taken = [f"{usual} is taken, {found} will be used" for usual, found in ports.items() if usual != found]
    return Check("ports", "note" if taken else "good", "; ".join(taken) or "4200 and 5000 are free")


def _home() -> Check:
    try:
        return Check("FLUXLINE_HOME", "good", str(open_home().make().root))
    except FluxlineError as error:
        return Check("FLUXLINE_HOME", "bad", str(error), "set FLUXLINE_HOME to a folder you own.")


def _disk() -> Check:
    root = open_home().root
    free = shutil.disk_usage(root if root.exists() else root.parent).free / 1e9
    if free < FREE_GIGABYTES:
        return Check(
            "disk", "bad", f"{free:.1f} GB free", f"free some space: {FREE_GIGABYTES:.0f} GB are comfortable."
        )
    return Check("disk", "good", f"{free:.0f} GB free")


def _chromium() -> Check:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return Check("chromium", "good", found or "absent (only screenshots in tests want it)")
