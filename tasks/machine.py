"""What this machine can compute with, and what runs here: the environment a stage's record keeps."""

import platform
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "torch",
    "numpy",
    "pillow",
    "pyarrow",
    "safetensors",
    "tokenizers",
    "transformers",
    "peft",
    "prefect",
    "mlflow",
)
"""Those whose version may move a number or change what is kept."""


@cache
def environment() -> dict[str, str]:
    """Return python, the main packages with their versions, and the device; nothing heavy is imported."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {**found, "device": _device()}


def _device() -> str:
    """The GPUs' model as the driver tells it, else the processor's."""
    gpus = [_line(path, "Model") for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    if named := [name for name in gpus if name]:
        return f"{len(named)}x {named[0]}" if len(named) > 1 else named[0]
    return _line(Path("/proc/cpuinfo"), "model name") or platform.machine()


def _line(path: Path, name: str) -> str:
    """The value of `name: value` in a small text file; empty where there is none."""
    try:
        found = re.search(rf"^{name}\s*:\s*(.+)$", path.read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1].strip() if found else ""


def describe_torch() -> str:
    """Return torch's version and its device, in words."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: the CPU computes"
    return f"{torch.__version__}, {device}"


def torch_cuda() -> tuple[str, bool]:
    """Return the CUDA version torch was built for (empty: for the CPU), and whether it can compute on a GPU."""
    import torch

    return torch.version.cuda or "", torch.cuda.is_available()


def describe_bf16() -> str:
    """Return how fast bf16 is here, and whether it is used."""
    from fluxmodel.training.precision import WORTHWHILE_SPEEDUP, bf16_speedup

    speedup = bf16_speedup()
    verdict = "used" if speedup >= WORTHWHILE_SPEEDUP else "not used: fp32 is"
    return f"{speedup:.1f}x the speed of fp32 here, {verdict}"
