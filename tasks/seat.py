"""A stage's seat at the machine: its devices, then its cores, until its work is done.

Devices come first. Who holds cores while it waits for a device would keep them from the stages of the CPU, for days
perhaps, and from the one who has the device and waits for cores: then neither would ever go on.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from fluxmodel.errors import FluxlineError
from tasks.leases import AS_WE_ARE, Asker, Lease, Need, lease
from tasks.progress import board
from tasks.resources import RESOURCES, Resources, slots


def resources_of(stage: str) -> Resources:
    """Return what a stage needs; an embedded part without an entry of its own needs what parts need."""
    return RESOURCES.get(stage, RESOURCES["prepare-{part}"])


def need_of(resources: Resources, settings: Iterable[Any]) -> Need:
    """Return the GPUs a stage asks for: its own number, or more where one of its training jobs asks for more."""
    if not resources.gpus:
        return Need()
    jobs = [each for each in settings if hasattr(each, "world_size")]
    return Need(
        gpus=max([resources.gpus, *(job.gpus or job.world_size for job in jobs)]),
        memory_gb=max([resources.gpu_memory_gb, *(job.gpu_memory_gb for job in jobs)]),
    )


class Seat:
    """To be entered with `with`: what a stage holds of the machine.

    Args:
        asker: whose it is.
        need: devices.
        cpus: cores.
        resources: the stage's; those that ask late get their devices with their first child.
        stop: asked while waiting.
    """

    def __init__(self, asker: Asker, need: Need, cpus: int, resources: Resources, stop: Callable[[], bool]):
        self._asker, self._need, self._cpus, self._resources = asker, need, cpus, resources
        self._stop = stop
        self._devices, self._cores = ExitStack(), ExitStack()
        self._lease: Lease | None = None

    def __enter__(self) -> "Seat":
        if not self._resources.asks_late:
            self._lease = self._take(self._need)
        self._sit()
        return self

    def __exit__(self, *_: object) -> None:
        self._cores.close()
        self._devices.close()

    def lease(self) -> Lease:
        """Return what a child may compute with; who asks late waits here, and without its cores."""
        if self._lease is None:
            self._cores.close()
            self._lease = self._take(self._need)
            self._sit()
        return self._lease

    def leave_devices(self) -> None:
        """Give the devices back: what is still to be stored and logged needs none."""
        self._devices.close()
        self._lease = AS_WE_ARE

    def _take(self, need: Need) -> Lease:
        stage = self._asker.stage
        return self._devices.enter_context(
            lease(need, self._asker, self._stop, lambda said: board().say(f"{stage}: {said}"))
        )

    def _sit(self) -> None:
        try:
            folder = Path(self._asker.home) / "slots"
            about = {"stage": self._asker.stage, "run_key": self._asker.run_key, "home": self._asker.home}
            self._cores.enter_context(slots(folder, self._cpus, self._resources, self._stop, about))
        except BaseException:
            with suppress(FluxlineError):
                self._devices.close()
            raise
