"""What `fluxline doctor` looks at of the machine: GPU, shared memory, open files, packages."""

import importlib.util
import resource
import shutil
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path

from flows.check import Check
from tasks.devices import Device, described, devices, driver_devices
from tasks.machine import torch_cuda

SHARED_MEMORY = Path("/dev/shm")
LEAST_SHARED, COMFORTABLE_SHARED = 128 << 20, 1 << 30
"""Bytes: containers start with 64 MB, in which NCCL's buffers between two GPUs do not fit."""
LEAST_FILES, COMFORTABLE_FILES = 1024, 4096
DISTRIBUTION = "fluxline"
_MODULES = {"pillow": "PIL", "pyyaml": "yaml"}


def machine_checks() -> tuple[Callable[[], Check], ...]:
    """Return the checks of this machine."""
    return (_gpu, _shared_memory, _open_files, _packages)


def _gpu() -> Check:
    version, is_available = torch_cuda()
    return judge_gpu(driver_devices(), devices(), version, is_available)


def judge_gpu(driver: Sequence[Device], used: Sequence[Device], cuda: str, is_available: bool) -> Check:
    """Say whether driver and torch agree about GPUs.

    Args:
        driver: GPUs the driver shows.
        used: those that may be used here.
        cuda: CUDA version torch was built for; empty for a build for the CPU.
        is_available: whether torch can compute on one.
    """
    off = "or compute on the CPU with FLUXLINE_DEVICES=none."
    if driver and not cuda:
        found = f"the driver shows {described(driver)}, but this torch is built for the CPU"
        return Check("gpu", "bad", found, f"install torch's build for CUDA into this environment, {off}")
    if driver and not is_available:
        found = f"the driver shows {described(driver)}, but torch (CUDA {cuda}) cannot use it"
        return Check(
            "gpu", "bad", found, f"install a driver that knows CUDA {cuda}, or an older torch, {off}"
        )
    if cuda and not driver:
        found = f"torch is built for CUDA {cuda}, but no driver shows a GPU; the CPU computes"
        return Check("gpu", "note", found, "install NVIDIA's driver if this machine has a GPU.")
    if not used:
        said = "none is used (FLUXLINE_DEVICES or CUDA_VISIBLE_DEVICES says so)" if driver else "none"
        return Check("gpu", "good", f"{said}; the CPU computes")
    small = [each for each in used if 0 < each.memory_gb < 8]
    if small:
        found = f"{described(used)}: less than 8 GB on {', '.join(each.name for each in small)}"
        return Check("gpu", "note", found, "use the presets smoke, demo or small there.")
    return Check("gpu", "good", described(used))


def _shared_memory() -> Check:
    if not SHARED_MEMORY.is_dir():
        return Check("shared memory", "good", "not a folder here")
    total = shutil.disk_usage(SHARED_MEMORY).total
    found = f"{total / 1e6:,.0f} MB in {SHARED_MEMORY}"
    cure = "give the container more: `--shm-size=8g`, or `shm_size: 8gb` in a Compose file."
    if total >= COMFORTABLE_SHARED:
        return Check("shared memory", "good", found)
    is_needed = len(devices()) > 1 and total < LEAST_SHARED
    return Check("shared memory", "bad" if is_needed else "note", found, cure)


def _open_files() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= COMFORTABLE_FILES:
        return Check("open files", "good", "no limit" if soft == resource.RLIM_INFINITY else f"{soft:,}")
    found = f"at most {soft:,} at once"
    cure = "`ulimit -n 8192` before `fluxline up`, or LimitNOFILE= where systemd starts it."
    return Check("open files", "bad" if soft < LEAST_FILES else "note", found, cure)


def _packages() -> Check:
    try:
        required = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return Check(
            "packages",
            "note",
            f"{DISTRIBUTION} itself is not installed",
            "`make .venv`, or `pip install -e .`",
        )
    if troubles := list(package_troubles(required)):
        return Check("packages", "bad", "; ".join(troubles[:4]), "install again with `make .venv`.")
    return Check("packages", "good", "all there, in versions that fit")


def package_troubles(required: Iterable[str]) -> Iterable[str]:
    """Yield what is wrong with each requirement: absent, of another version, or half installed."""
    from packaging.requirements import Requirement

    for text in required:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield f"{wanted.name} is absent"
            continue
        if not found:
            yield f"{wanted.name} is half installed (it has no version)"
        elif not wanted.specifier.contains(found, prereleases=True):
            yield f"{wanted.name} is {found}, wanted is {wanted.specifier}"
        elif (
            importlib.util.find_spec(_MODULES.get(wanted.name.lower(), wanted.name.replace("-", "_"))) is None
        ):
            yield f"{wanted.name} is half installed (it cannot be found for import)"
