"""Who works on what in a home, told by one small file for each, to be read by anybody at any moment.

A file names its process and when that began, so one left behind by a kill is known for what it is. Nothing waits for
these files and nothing is decided by them: they are for people.
"""

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.home import Home
from tasks.whole_file import write_whole

RUN, ALIKE, QUEUED, WORKING = "run", "alike", "queued", "working"
_SAME_START = 1.0


class Presence(BaseModel):
    """One run or one stage in progress."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    what: str = Field(description="A stage's name; of a run, what it makes.")
    phase: str = Field(description="run, or of a stage: alike (another command does it), queued, working.")
    run_key: str = Field(default="", description="Of the stage.")
    pipeline_key: str = Field(default="", description="Of the run it belongs to.")
    pid: int
    born: float = Field(
        description="When the process began, Unix time: a number alone may be another's by now."
    )
    host: str
    since: float = Field(description="Unix time at which the phase began.")
    began: float = Field(description="Unix time at which it came here.")
    flow: str = Field(default="", description="Prefect's flow.")
    flow_run_id: str = ""
    flow_run: str = Field(default="", description="Name of Prefect's flow run.")

    @property
    def is_alive(self) -> bool:
        """Whether its process still runs; of another machine's we know nothing and believe it for a day."""
        if self.host != socket.gethostname():
            return time.time() - self.since < 86_400
        return is_process(self.pid, self.born)


class Note:
    """The file of a presence; `now(phase)` says what it does from here on."""

    def __init__(self, path: Path, presence: Presence):
        self.path, self.presence = path, presence
        self._write()

    def now(self, phase: str) -> None:
        """Say what is done now."""
        self.presence = self.presence.model_copy(update={"phase": phase, "since": time.time()})
        self._write()

    def _write(self) -> None:
        with suppress(OSError):  # a full disk stops what it must, not this
            write_whole(self.path, self.presence.model_dump_json())


@contextmanager
def present(
    home: Home, what: str, phase: str, run_key: str = "", pipeline_key: str = "", prefect: dict | None = None
) -> Iterator[Note]:
    """Be seen in the home while the body runs.

    Args:
        home: where.
        what: a stage's name; of a run, what it makes.
        phase: one of RUN, ALIKE, QUEUED, WORKING.
        run_key: of the stage.
        pipeline_key: of the run.
        prefect: its flow, flow_run_id and flow_run, where they are known.
    """
    folder, pid, now = home.root / "present", os.getpid(), time.time()
    for path, other in _notes(folder):
        if not other.is_alive:
            with suppress(OSError):
                path.unlink()
    presence = Presence(
        what=what, phase=phase, run_key=run_key, pipeline_key=pipeline_key, pid=pid, born=born(pid),
        host=socket.gethostname(), since=now, began=now, **(prefect or {}),
    )  # fmt: skip
    note = Note(folder / f"{pid}-{uuid.uuid4().hex[:12]}.json", presence)
    try:
        yield note
    finally:
        with suppress(OSError):
            note.path.unlink()


def who_is_present(home: Home) -> list[Presence]:
    """Return who works here now, first come first; what the dead left behind is passed over."""
    found = [each for _, each in _notes(home.root / "present") if each.is_alive]
    return sorted(found, key=lambda each: each.began)


def left_behind(home: Home) -> list[Path]:
    """Return the files of those who died."""
    return [path for path, each in _notes(home.root / "present") if not each.is_alive]


def this_flow_run() -> dict[str, str]:
    """Return flow, flow_run_id and flow_run of the Prefect run we are in; nothing outside of one."""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return {}
    flow = context.flow.name if context.flow is not None else ""
    return {"flow": flow, "flow_run_id": str(context.flow_run.id), "flow_run": context.flow_run.name}


def is_process(pid: int, since: float) -> bool:
    """Return whether process `pid` runs and is the one that began at Unix time `since`."""
    return abs(born(pid) - since) < _SAME_START


def born(pid: int) -> float:
    """Return when a process began, Unix time; 0 for one that does not run."""
    import psutil

    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return 0.0


def _notes(folder: Path) -> Iterator[tuple[Path, Presence]]:
    for path in sorted(folder.glob("*.json")):
        try:
            yield path, Presence.model_validate(json.loads(path.read_text()))
        except (OSError, ValueError, ValidationError):  # gone, or being written by a full disk
            continue
