"""Who has which GPU and who is next, in files: a locked file a device, a locked ticket for each who waits.

    gpu-0              locked while somebody has device 0; says who, as one line of JSON
    gpu-1
    queue/01-000007    who waits, in the order of `ls`: priority, then number; says who and for how many
    mutex              held for milliseconds by whoever looks at the rest in order to change it

The kernel frees a lock when the last process that has the file open ends, however it ends, so nothing here has to be
cleaned up; what a file says counts only while it is locked. The folder is the machine's and the user's, never one
project's: two projects must not share a GPU. A lock's descriptor is handed to the child that computes: the device is
taken until that child is gone, even where the parent was killed.
"""

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fluxmodel.errors import InputError, InterruptedRun
from tasks.presence import born

POLL_SECONDS = 0.1
PATIENCE_SECONDS = 3600.0
"""Who has waited so long goes before all who have not: a priority decides who is first, never who is last for ever."""
ASLEEP_SECONDS = 30.0
"""Who has not looked for so long is suspended (Ctrl-Z): it keeps its place, but the others go on."""
_TICKET = re.compile(r"\d\d-\d{6,}")


@dataclass(frozen=True)
class Request:
    """What is asked of the queue.

    Attributes:
        wanted: how many devices.
        devices: those that would do, best first.
        priority: lower goes first.
        yields_seconds: how long it leaves devices that are free to whoever goes before it and comes later.
        about: who asks: stage, run_key, home.
    """

    wanted: int
    devices: tuple[str, ...]
    priority: int = 10
    yields_seconds: float = 0.0
    about: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HeldDevice:
    """A device that is ours: its number, and the descriptor of its locked file."""

    name: str
    descriptor: int


@dataclass(frozen=True)
class _Ticket:
    """A waiter as its file tells it."""

    path: Path
    said: dict[str, Any]

    def place(self, now: float) -> tuple[bool, int, str]:
        is_patient = now - float(self.said.get("since", now)) > PATIENCE_SECONDS
        return not is_patient, int(self.said.get("priority", 10)), self.path.name.partition("-")[2]


def locks_folder() -> Path:
    """Return where this machine's device locks lie: FLUXLINE_LOCKS, by default a folder of the user's in /tmp."""
    return Path(os.environ.get("FLUXLINE_LOCKS") or f"/tmp/fluxline-{os.getuid()}").expanduser().absolute()


@contextmanager
def hold(
    folder: Path, request: Request, stop: Callable[[], bool], waits: Callable[[int], None] = lambda _: None
) -> Iterator[tuple[HeldDevice, ...]]:
    """Wait in the queue, then hold `request.wanted` devices while the body runs, or while a child has them open.

    Args:
        folder: of the locks.
        request: what is wanted.
        stop: asked while waiting.
        waits: told once, if it comes to waiting, how many are before us.

    Raises:
        InterruptedRun: `stop()` turned true while waiting.
        InputError: the folder cannot be used.
    """
    _make(folder)
    held: tuple[HeldDevice, ...] = ()
    path, ticket = _join(folder, request, stop)
    try:
        free_since, has_said, began = 0.0, False, time.monotonic()
        while True:
            with _mutex(folder, stop):
                os.utime(ticket)  # awake
                held, before = _take(folder, path, request)
                now = time.monotonic()
                free_since = (free_since or now) if held else 0.0
                if held and now - free_since >= request.yields_seconds:
                    path.unlink(missing_ok=True)
                    _say(held, {"pid": os.getpid(), **noted_now(), **request.about})
                    break
                _close(held)
                held = ()
            if stop():
                raise InterruptedRun("Stopped while waiting for a GPU; the same command goes on.")
            if not has_said and not free_since:
                has_said = True
                waits(before)
            waited = time.monotonic() - began
            time.sleep(POLL_SECONDS + min(0.9, waited / 200))  # who has waited long looks less often
        yield held
    finally:
        if not held:  # else it is gone already, and its number may be another's by now
            path.unlink(missing_ok=True)
        os.close(ticket)
        _say(held, {})
        _close(held)


def note_child(held: tuple[HeldDevice, ...], pid: int) -> None:
    """Write down which child has the devices, for whoever looks after its parent is gone."""
    for device in held:
        with suppress(OSError, ValueError):
            said = json.loads(os.pread(device.descriptor, 65_536, 0))
            _say((device,), {**said, "child": pid})


def read_holders(folder: Path) -> list[dict[str, Any]]:
    """Return what the files of the taken devices say, with `resource`, in the order of their numbers."""
    with _briefly(folder):
        return read_locked(folder, "gpu-*")


def read_locked(folder: Path, names: str) -> list[dict[str, Any]]:
    """Return what those of the files `names` say that are locked; `pid` is a process that lives, or 0."""
    paths = sorted(folder.glob(names), key=lambda path: (len(path.name), path.name))
    found = [(path, {"resource": path.name, **read_note(path)}) for path in paths if is_locked(path)]
    return [{**said, "pid": _living(said) or _opener(path)} for path, said in found]


def read_queue(folder: Path) -> list[dict[str, Any]]:
    """Return what the tickets of the living say, first the one who is next."""
    with _briefly(folder):
        return [{**ticket.said, "pid": _living(ticket.said)} for ticket in _queue(folder, removes_dead=False)]


def is_locked(path: Path) -> bool:
    """Return whether somebody holds a lock file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)


def write_note(descriptor: int, said: dict[str, Any]) -> None:
    """Put one line of JSON, or nothing, into an open lock file."""
    line = json.dumps(said, sort_keys=True).encode() + b"\n" if said else b""
    with suppress(OSError):  # a full disk: the lock counts, the note is for people
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, line, 0)


def _take(folder: Path, mine: Path, request: Request) -> tuple[tuple[HeldDevice, ...], int]:
    """Lock what is free and not due to somebody before us, all or none; also return how many are before us."""
    queue = _queue(folder)
    before = queue[: next((n for n, ticket in enumerate(queue) if ticket.path == mine), len(queue))]
    now = time.time()
    awake = [ticket for ticket in before if _looked(ticket.path) > now - ASLEEP_SECONDS]
    names = {name for ticket in awake for name in ticket.said.get("devices", ())} | set(request.devices)
    free = {name: descriptor for name in names if (descriptor := _lock(folder / f"gpu-{name}")) is not None}
    left = dict(free)
    for (
        ticket
    ) in awake:  # who wants two and sees one keeps it free: or those who want one would go by for ever
        wanted = int(ticket.said.get("wanted", 1))
        for name in [name for name in ticket.said.get("devices", ()) if name in left][:wanted]:
            del left[name]
    chosen = [name for name in request.devices if name in left][: request.wanted]
    if len(chosen) < request.wanted:
        chosen = []
    for name, descriptor in free.items():
        if name not in chosen:
            os.close(descriptor)
    return tuple(HeldDevice(name, free[name]) for name in chosen), len(before)


def _queue(folder: Path, removes_dead: bool = True) -> list[_Ticket]:
    """The living, next one first; the tickets of the dead are removed."""
    found = []
    for path in _tickets(folder):
        if is_locked(path):
            found.append(_Ticket(path, read_note(path)))
        elif removes_dead:
            with suppress(OSError):  # another user's, in a folder where each removes only what is his
                path.unlink()
    now = time.time()
    return sorted(found, key=lambda ticket: ticket.place(now))


def _tickets(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "queue").glob("*-*") if _TICKET.fullmatch(path.name))


def _join(folder: Path, request: Request, stop: Callable[[], bool]) -> tuple[Path, int]:
    with _mutex(folder, stop):
        numbers = [int(path.name.partition("-")[2]) for path in _tickets(folder)]
        path = folder / "queue" / f"{request.priority:02d}-{max(numbers, default=0) + 1:06d}"
        descriptor = _open(path)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        said = {"wanted": request.wanted, "devices": request.devices, "priority": request.priority}
        write_note(descriptor, {"pid": os.getpid(), **said, **noted_now(), **request.about})
    return path, descriptor


def _lock(path: Path) -> int | None:
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def _mutex(folder: Path, stop: Callable[[], bool]) -> Iterator[None]:
    """Be the only one who changes the folder."""
    while (descriptor := _lock(folder / "mutex")) is None:
        if stop():
            raise InterruptedRun("Stopped while waiting for a GPU; the same command goes on.")
        time.sleep(0.01)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _briefly(folder: Path) -> Iterator[None]:
    """The same for who only looks: without it after a moment, for looking must not hang."""
    deadline = time.monotonic() + 1.0
    with ExitStack() as stack:
        with suppress(InterruptedRun, InputError):
            stack.enter_context(_mutex(folder, lambda: time.monotonic() > deadline))
        yield


def _make(folder: Path) -> None:
    """Create the folder, for its user alone; one that is there must be a folder of ours, or made to be shared."""
    try:
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "queue").mkdir(exist_ok=True)
        shared = folder.stat().st_mode & 0o022
        if shared and (folder / "queue").stat().st_uid == os.getuid():
            (folder / "queue").chmod(folder.stat().st_mode & 0o7777)
        why = "" if os.access(folder, os.W_OK) else "permission denied"
        if folder.is_symlink() and folder.lstat().st_uid != os.getuid():
            why = "it is somebody else's link"
    except OSError as error:
        why = (error.strerror or str(error)).lower()
    if why:
        raise InputError(
            f"The folder of GPU locks {folder} cannot be used ({why}); set FLUXLINE_LOCKS to a folder that every user "
            "of this machine's GPUs may write to."
        )


def _open(path: Path) -> int:
    """Open a lock file, creating it readable and writable for whom its folder is; children do not get it."""
    how = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        try:
            return os.open(path, how)
        except FileNotFoundError:
            descriptor = os.open(path, how | os.O_CREAT, 0o600)
            with suppress(OSError):  # somebody else was quicker
                os.fchmod(descriptor, path.parent.stat().st_mode & 0o666)
            return descriptor
    except OSError as error:
        raise InputError(
            f"The GPU lock {path} cannot be opened ({(error.strerror or str(error)).lower()}); set FLUXLINE_LOCKS to "
            "a folder that every user of this machine's GPUs may write to."
        ) from error


def _say(held: tuple[HeldDevice, ...], said: dict[str, Any]) -> None:
    for device in held:
        write_note(device.descriptor, said)


def _close(held: tuple[HeldDevice, ...]) -> None:
    for device in held:
        os.close(device.descriptor)


def read_note(path: Path) -> dict[str, Any]:
    """Return what a lock file says; nothing where it says nothing that can be read."""
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _living(said: dict[str, Any]) -> int:
    """The process that took it, else the child that lives on, else 0."""
    return next((pid for name in ("pid", "child") if (pid := int(said.get(name, 0))) and born(pid)), 0)


def _opener(path: Path) -> int:
    """Some process of ours that has the file open, found where Linux shows it; what the dead left running."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if link.stat().st_ino == path.stat().st_ino and link.readlink() == path.resolve():
                return int(link.parts[2])
    return 0


def _looked(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def noted_now() -> dict[str, Any]:
    """Return the moment for a note, for machines and for people."""
    now = time.time()
    return {"since": now, "since_utc": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now))}
