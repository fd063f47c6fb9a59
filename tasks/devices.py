"""The GPUs of this machine: which there are, and the memory of each, as NVIDIA's driver tells; torch is not asked.

`FLUXLINE_DEVICES` says otherwise where it is set: `0,1` (only these; believed as it stands, so that a machine without
GPUs may pretend), `0:24,1:80` (their memory too, GB), `none` (compute on the CPU). Unset, an outer
CUDA_VISIBLE_DEVICES restricts what the driver shows. Numbers are in the order of the PCI bus, as `nvidia-smi` shows.
"""

import ctypes
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import takewhile

from fluxmodel.errors import InputError

NAMED, VISIBLE = "FLUXLINE_DEVICES", "CUDA_VISIBLE_DEVICES"
_ENTRY = re.compile(r"(\d{1,4})(?::(\d+(?:\.\d+)?))?")
_NO_DEVICE = ("", "-1", "NoDevFiles")
"""CUDA itself reads no further."""
_GIGABYTE = 1e9


@dataclass(frozen=True)
class Device:
    """One GPU.

    Attributes:
        name: its number, as CUDA_VISIBLE_DEVICES takes it.
        memory_gb: all of its memory; 0 where nobody knows.
        uuid: the driver's own name of it.
    """

    name: str
    memory_gb: float = 0.0
    uuid: str = ""


def devices() -> tuple[Device, ...]:
    """Return the GPUs that may be used here; none means that all computes on the CPU.

    Raises:
        InputError: FLUXLINE_DEVICES, or CUDA_VISIBLE_DEVICES beside a driver, is not what can be read.
    """
    named = os.environ.get(NAMED, "").strip()
    if not named:
        return _visible(driver_devices())
    if named.lower() == "none":
        return ()
    known = {device.name: device for device in driver_devices()}
    found: dict[str, Device] = {}
    for entry in named.split(","):
        match = _ENTRY.fullmatch(entry.strip())
        if match is None:
            raise InputError(
                f"{NAMED} is {named!r}; give numbers such as 0,1, with memory in GB where it matters (0:24,1:80), "
                "or none."
            )
        name = str(int(match[1]))
        if name in found:
            raise InputError(f"{NAMED} is {named!r}, which names device {name} twice; name each once.")
        driver = known.get(name, Device(name))
        found[name] = Device(name, float(match[2] or driver.memory_gb), driver.uuid)
    return tuple(found.values())


def placed_devices() -> tuple[str, ...]:
    """Return the GPUs that whoever placed this process left visible to it, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get(VISIBLE)
    if visible is None:
        return tuple(device.name for device in driver_devices())  # a container is shown its own alone
    names = [name.strip() for name in visible.split(",")]
    return tuple(takewhile(lambda name: name not in _NO_DEVICE, names))


def described(found: Sequence[Device]) -> str:
    """Return the devices in words: `0 (24 GB), 1 (80 GB)`."""
    return ", ".join(
        f"{device.name} ({device.memory_gb:.0f} GB)" if device.memory_gb else device.name for device in found
    )


def _visible(found: tuple[Device, ...]) -> tuple[Device, ...]:
    """Those of `found` that an outer CUDA_VISIBLE_DEVICES leaves, in its order."""
    visible = os.environ.get(VISIBLE)
    if visible is None or not found:
        return found
    left: list[Device] = []
    for name in (entry.strip() for entry in visible.split(",")):
        if name in _NO_DEVICE:
            break
        chosen = [d for d in found if name == d.name or (name.startswith("GPU-") and d.uuid.startswith(name))]
        if len(chosen) != 1:
            raise InputError(
                f"{VISIBLE} names {name!r}, which is none of the driver's GPUs ({described(found)}); name some of "
                f"those in {NAMED}, or set FLUXLINE_LEASE=external where a scheduler has placed us."
            )
        left += chosen
    return tuple(left)


class _Memory(ctypes.Structure):
    """NVML's `nvmlMemory_t`, in bytes."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


@cache
def driver_devices() -> tuple[Device, ...]:
    """Return the GPUs NVIDIA's driver shows, asked through its own library; none where there is no driver."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return ()
    with suppress(AttributeError):  # a library too old to have these names
        if nvml.nvmlInit_v2():
            return ()
        try:
            count = ctypes.c_uint()
            if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
                return ()
            return tuple(_asked(nvml, number) for number in range(count.value))
        finally:
            nvml.nvmlShutdown()
    return ()


def _asked(nvml: ctypes.CDLL, number: int) -> Device:
    handle, memory, uuid = ctypes.c_void_p(), _Memory(), ctypes.create_string_buffer(96)
    if nvml.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(handle)):
        return Device(str(number))
    if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)):
        memory.total = 0  # one that shares the machine's memory does not say
    nvml.nvmlDeviceGetUUID(handle, uuid, len(uuid))
    return Device(str(number), memory.total / _GIGABYTE, uuid.value.decode())
