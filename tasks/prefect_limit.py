"""A slot of a Prefect global concurrency limit: what its UI shows of a device that is taken.

Prefect's slots carry no device number, and a killed holder's slot frees a minute after: safety and order are those of
`tasks.device_locks`, taken before. Whatever Prefect does, computing goes on.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from fluxmodel.errors import InputError, InterruptedRun

LEASE_SECONDS = 60.0
"""The shortest Prefect grants; it is renewed at three quarters, so the slot of a killed holder frees within it."""
POLL_SECONDS = 2.0
_LOCKED = 423


@contextmanager
def slots(
    name: str, num: int, most: int, stop: Callable[[], bool], waits: Callable[[str], None]
) -> Iterator[None]:
    """Hold `num` slots of the limit `name` while the body runs; a limit that is missing is made with `most` slots.

    Where Prefect does not answer, that is told by `waits` and the body runs without.

    Raises:
        InputError: the limit has fewer slots than asked for, so they would never be free.
        InterruptedRun: `stop()` turned true while waiting.
    """
    with ExitStack() as stack:
        tries = 0
        try:
            while (slot := _free_slot(name, num)) is None:
                tries += 1
                if tries == 1:
                    _ensure(name, num, most)
                    continue
                if tries == 2:
                    waits(f"waits for {num} of Prefect's limit {name}")
                _sleep(stop)
            stack.callback(_give_back, slot)
        except (InputError, InterruptedRun):
            raise
        except Exception as error:  # whatever a server that is away makes of it
            logging.getLogger("fluxline").info("Prefect is away", exc_info=error)
            waits(
                f"goes on without a slot of {name}: Prefect does not answer, and the device's lock is enough"
            )
        yield


def _ensure(name: str, num: int, most: int) -> None:
    """Make the limit if it is missing; one that is there is the operator's and stays as it is."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            limit = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            try:
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=most))
            except ObjectAlreadyExists:  # another stage was quicker
                limit = client.read_global_concurrency_limit_by_name(name)
            else:
                return
    if limit.active and limit.limit < num:
        raise InputError(
            f"Prefect's limit {name} has {limit.limit} slots, but {num} are asked for; raise it to {most} in its UI."
        )


def _free_slot(name: str, num: int) -> AbstractContextManager[None] | None:
    """Take the slots if there are such and they are free, and return what gives them back; one look, not to wait."""
    from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
    from prefect.concurrency.sync import concurrency

    slot = concurrency(
        name,
        occupy=num,
        max_retries=0,
        lease_duration=LEASE_SECONDS,
        strict=True,
        raise_on_lease_renewal_failure=False,  # no training dies because a server is restarted
        holder=_holder(),
    )
    try:
        slot.__enter__()
    except ConcurrencySlotAcquisitionError as error:
        answer = getattr(error.__cause__, "response", None)
        if error.__cause__ is not None and getattr(answer, "status_code", 0) != _LOCKED:
            raise
        return None
    return slot


def _give_back(slot: AbstractContextManager[None]) -> None:
    try:
        slot.__exit__(None, None, None)
    except Exception as error:  # the server frees it within a minute; the work that was done must not be lost
        logging.getLogger("fluxline").info("Prefect is away", exc_info=error)


def _holder() -> Any:
    """The task run we are in, for Prefect to name."""
    from prefect.client.schemas.objects import ConcurrencyLeaseHolder
    from prefect.context import TaskRunContext

    context = TaskRunContext.get()
    return ConcurrencyLeaseHolder(type="task_run", id=context.task_run.id) if context is not None else None


def _sleep(stop: Callable[[], bool]) -> None:
    deadline = time.monotonic() + POLL_SECONDS
    while time.monotonic() < deadline:
        if stop():
            raise InterruptedRun("Stopped while waiting for a GPU; the same command goes on.")
        time.sleep(0.1)
