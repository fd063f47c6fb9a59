"""The one port through which stages get GPUs, of four kinds (FLUXLINE_LEASE), and who has and wants them.

- `none`: all computes on the CPU; the default where there is no device.
- `local`: a locked file a device, shared by all of the user's projects; freed by death. The default with devices.
- `prefect`: the same, and slots of Prefect's limit `fluxline-gpu-HOST`, which its UI shows; a slot is freed a minute
  after death.
- `external`: Ray or Kubernetes has placed this process; that is checked and divided among its stages, and nothing else
  is taken.

See `docs/gpus.md`.
"""

import atexit
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fluxmodel.errors import InputError
from tasks.device_locks import (
    HeldDevice,
    Request,
    hold,
    locks_folder,
    note_child,
    read_holders,
    read_locked,
    read_queue,
)
from tasks.devices import NAMED, VISIBLE, Device, described, devices, placed_devices
from tasks.home import Home

KIND = "FLUXLINE_LEASE"
KINDS = ("none", "local", "prefect", "external")
LOCKS = "FLUXLINE_LEASE_DESCRIPTORS"
"""Tells `tasks.guard` which descriptors are locks that the program it watches must inherit too."""


@dataclass(frozen=True)
class Need:
    """What a stage asks of a machine that has GPUs.

    Attributes:
        gpus: how many; 0 for a stage of the CPU.
        memory_gb: what each must have in all; 0 does not matter.
    """

    gpus: int = 0
    memory_gb: float = 0.0


@dataclass(frozen=True)
class Asker:
    """Who asks for a lease.

    Attributes:
        stage: its name.
        run_key: of the stage.
        home: root of its FLUXLINE_HOME.
        priority: lower goes first.
        yields_seconds: how long it leaves free devices to stages that go before it.
    """

    stage: str
    run_key: str = ""
    home: str = ""
    priority: int = 10
    yields_seconds: float = 0.0


@dataclass(frozen=True)
class Lease:
    """What a child may compute with.

    Attributes:
        visible: value of its CUDA_VISIBLE_DEVICES; None leaves ours.
        held: devices with the locks it inherits.
    """

    visible: str | None = None
    held: tuple[HeldDevice, ...] = ()

    def environment(self) -> dict[str, str]:
        """Return what the child's environment has beside ours."""
        if self.visible is None:
            return {}
        locks = {LOCKS: ",".join(map(str, self.descriptors))} if self.held else {}
        return {VISIBLE: self.visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", **locks}

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Open locks that the child must inherit: while it lives, its devices are taken."""
        return tuple(device.descriptor for device in self.held)

    def started(self, pid: int) -> None:
        """Write down that child `pid` computes with it."""
        note_child(self.held, pid)


AS_WE_ARE = Lease()
ON_THE_CPU = Lease(visible="")


@dataclass(frozen=True)
class Holder:
    """Who holds a device or a core, as its file tells.

    Attributes:
        resource: `gpu-0`, `cpu-1`.
        stage: whose it is.
        run_key: of the stage.
        pid: the process that took it, or where that is gone the child that lives on; 0 if neither is known.
        since: Unix time.
        home: root of its FLUXLINE_HOME, which may be another project's.
    """

    resource: str
    stage: str
    run_key: str
    pid: int
    since: float
    home: str = ""


@dataclass(frozen=True)
class Waiting:
    """Who waits for devices: `wanted` of them; else as in Holder."""

    stage: str
    run_key: str
    wanted: int
    pid: int
    since: float
    home: str = ""


def lease_kind() -> str:
    """Return the kind in force, one of KINDS.

    Raises:
        InputError: FLUXLINE_LEASE or FLUXLINE_DEVICES is wrong.
    """
    kind = os.environ.get(KIND, "").strip().lower()
    if kind and kind not in KINDS:
        raise InputError(f"{KIND} is {kind!r}; choose one of {', '.join(KINDS)}, or leave it out.")
    if kind == "external":
        return kind
    return (kind or "local") if devices() else "none"


def refuse_beyond(needs: Mapping[str, Need]) -> None:
    """Refuse stages that ask for more than this machine has; where all computes on the CPU nothing is too much.

    Raises:
        InputError: names the stage, what it asks for, what there is, and the cure.
    """
    if lease_kind() not in ("local", "prefect"):
        return
    there = devices()
    for stage, need in needs.items():
        if need.gpus > len(_that_do(there, need)):
            of = f" of {need.memory_gb:.0f} GB" if need.memory_gb else ""
            raise InputError(
                f"Stage {stage} asks for {_gpus(need.gpus)}{of}, but here there is only "
                f"{_gpus(len(there))}: {described(there)}; ask for less, or compute on the CPU with {NAMED}=none."
            )


@contextmanager
def lease(
    need: Need,
    asker: Asker,
    stop: Callable[[], bool] = lambda: False,
    waits: Callable[[str], None] = lambda _: None,
) -> Iterator[Lease]:
    """Hold what a stage needs while the body runs; where it has to wait, `waits` is told so once.

    Raises:
        InputError: it asks for more than there is, or the environment is wrong.
        InterruptedRun: `stop()` turned true while waiting.
    """
    kind = lease_kind()
    if need.gpus == 0 or kind == "none":
        has_gpus = kind != "none" or bool(devices())
        yield ON_THE_CPU if has_gpus else AS_WE_ARE
        return
    refuse_beyond({asker.stage: need})
    with _OF_A_KIND[kind](need, asker, stop, waits) as held:
        yield held


def holders(home: Home) -> list[Holder]:
    """Return who holds the machine's devices, of whatever home, and this home's cores; read from their files."""
    found = [*read_holders(locks_folder()), *read_locked(home.root / "slots", "cpu-*")]
    return [Holder(resource=each["resource"], **_who(each)) for each in found]


def waiting() -> list[Waiting]:
    """Return who waits for devices of this machine, of whatever home, the next one first."""
    return [Waiting(wanted=int(each.get("wanted", 1)), **_who(each)) for each in read_queue(locks_folder())]


def limit_name(host: str = "") -> str:
    """Return the name of a host's limit in Prefect."""
    return "fluxline-gpu-" + re.sub(r"[^A-Za-z0-9_.-]+", "-", host or socket.gethostname())


@contextmanager
def _local(
    need: Need, asker: Asker, stop: Callable[[], bool], waits: Callable[[str], None]
) -> Iterator[Lease]:
    that_do = sorted(
        _that_do(devices(), need), key=lambda device: device.memory_gb
    )  # big ones for who needs them
    names = tuple(device.name for device in that_do)
    with hold(locks_folder(), _request(need, asker, names), stop, _told(waits, need)) as held:
        yield Lease(",".join(device.name for device in held), held)


@contextmanager
def _prefect(
    need: Need, asker: Asker, stop: Callable[[], bool], waits: Callable[[str], None]
) -> Iterator[Lease]:
    """A slot beside the lock: order and safety are the lock's, so Prefect may fall silent without harm."""
    from tasks.prefect_limit import slots

    with (
        _local(need, asker, stop, waits) as held,
        slots(limit_name(), need.gpus, len(devices()), stop, waits),
    ):
        yield held


@contextmanager
def _external(
    need: Need, asker: Asker, stop: Callable[[], bool], waits: Callable[[str], None]
) -> Iterator[Lease]:
    """Divide what this process was given among its own stages; nothing else is looked at, nothing taken."""
    names = placed_devices()
    if len(names) < need.gpus:
        shown = repr(os.environ[VISIBLE]) if VISIBLE in os.environ else "not set"
        raise InputError(
            f"Stage {asker.stage} asks for {_gpus(need.gpus)}, but was placed with {len(names)} ({VISIBLE} is "
            f"{shown}); let the scheduler give it {need.gpus}, or set {KIND}=local where nothing places us."
        )
    places = tuple(str(number) for number in range(len(names)))
    with hold(_own_folder(), _request(need, asker, places), stop, _told(waits, need)) as held:
        yield Lease(",".join(names[int(device.name)] for device in held), held)


@cache
def _own_folder() -> Path:
    """A folder of locks that this process alone knows; gone when it ends."""
    folder = tempfile.mkdtemp(prefix="fluxline-placed-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


_OF_A_KIND: dict[str, Callable[..., AbstractContextManager[Lease]]] = {
    "local": _local,
    "prefect": _prefect,
    "external": _external,
}


def _request(need: Need, asker: Asker, names: tuple[str, ...]) -> Request:
    about = {"stage": asker.stage, "run_key": asker.run_key, "home": asker.home}
    return Request(need.gpus, names, asker.priority, asker.yields_seconds, about)


def _told(waits: Callable[[str], None], need: Need) -> Callable[[int], None]:
    return lambda before: waits(f"waits for {_gpus(need.gpus)}" + (f", {before} before it" if before else ""))


def _that_do(there: tuple[Device, ...], need: Need) -> list[Device]:
    return [device for device in there if not device.memory_gb or device.memory_gb >= need.memory_gb]


def _gpus(num: int) -> str:
    return f"{num} GPU" if num == 1 else f"{num} GPUs"


def _who(said: dict[str, Any]) -> dict[str, Any]:
    """What a note says of its writer; a note cut short says less."""
    texts = {name: str(said.get(name, "")) for name in ("stage", "run_key", "home")}
    return {**texts, "pid": said["pid"], "since": float(said.get("since", 0))}
