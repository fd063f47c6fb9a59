"""What all stages share: identity, reuse, slots, tracking, storing, and saying what they did.

A stage's task is one line: `STAGE.run(context, work, **inputs)`. The work itself is a function
`(StageRun, **inputs) -> Outcome` that calls the library in a child process.
"""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fluxmodel.errors import InterruptedRun
from tasks import owed, tracking
from tasks.artifacts import ArtifactRef, ArtifactStore
from tasks.code_digest import code_digests
from tasks.home import Home
from tasks.in_use import in_use
from tasks.launch import STOP
from tasks.leases import Asker
from tasks.links import TaskLinks
from tasks.live_log import LiveLog
from tasks.machine import environment
from tasks.presence import ALIKE, QUEUED, WORKING, present, this_flow_run
from tasks.progress import board
from tasks.resources import RESOURCES, worth_retrying
from tasks.run_key import RunBook, RunRecord, StageIdentity
from tasks.run_names import namer
from tasks.seat import Seat, need_of, resources_of
from tasks.spool import SpoolReader
from tasks.stage_page import stage_page
from tasks.stage_run import Outcome, RunContext, StageRun


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline.

    Attributes:
        name: its name; `{part}` is filled in from its inputs.
        kind: kind of its artifact, filled in likewise.
        modules: first-party modules whose code, with what it imports, makes the result.
        fallen: optional further check of a finished run; says in a few words why it no longer stands.
        beside: optional; what else the result depends on, looked up where it stands, as parameters.
    """

    name: str
    kind: str
    modules: tuple[str, ...]
    fallen: Callable[[Home, Path], str] | None = None
    beside: Callable[[Home, dict[str, Any]], dict[str, Any]] | None = None

    def options(self) -> dict[str, Any]:
        """Return the options of the stage's Prefect task."""
        resources = RESOURCES[self.name]
        return {
            "name": self.name.split("-")[0],
            "task_run_name": namer(self.name),
            "cache_key_fn": lambda _, parameters: self.cache_key(parameters),
            "persist_result": True,
            "result_serializer": "json",
            "cache_result_in_memory": False,
            "retries": resources.retries,
            "retry_delay_seconds": [2, 30],  # in the second a server that died has come back
            "retry_condition_fn": is_worth_retrying,
        }

    def identity(self, home: Home, inputs: dict[str, Any]) -> StageIdentity:
        """Return what the result depends on: settings, digests of artifacts, seed and code."""
        given = {name: value for name, value in inputs.items() if value is not None}
        upstream = {name: value.digest for name, value in given.items() if isinstance(value, ArtifactRef)}
        parameters = {name: _semantic(value) for name, value in given.items() if name not in upstream}
        parameters |= self.beside(home, given) if self.beside else {}
        seeds = [p.pop("seed") for p in parameters.values() if isinstance(p, dict) and "seed" in p]
        return StageIdentity(
            stage=_filled(self.name, given),
            parameters=parameters,
            upstream=upstream,
            seed=int(seeds[0]) if seeds else 0,
            code=code_digests(_filled(module, given) for module in self.modules),
        )

    def cache_key(self, parameters: dict[str, Any]) -> str:
        """Return the run key, having made sure that a hit may be trusted; notes the decision and its reason."""
        inputs = dict(parameters)
        home = Home(Path(inputs.pop("context").home))
        identity, book = self.identity(home, inputs), RunBook(home)
        record = book.read(identity.run_key)
        if record is None:
            book.forget(identity.run_key)
            book.decide(identity, reused=False)
        elif damage := self._damage(home, record):
            board().say(f"{identity.stage}: {damage}; it is made again.")
            if ArtifactStore(home).problems(record.artifact):
                ArtifactStore(home).discard(record.artifact)
            shutil.rmtree(home.work(identity.run_key), ignore_errors=True)
            book.forget(identity.run_key)
            book.decide(identity, reused=False, reason=f"re-ran because {damage}")
        else:
            board().finish(identity.stage, book.decide(identity, reused=True).reason)
        return identity.run_key

    def run(self, context: RunContext, work: Callable[..., Outcome], **inputs: Any) -> ArtifactRef:
        """Do the work once per run key and return its artifact, wherever an earlier attempt left off."""
        home = Home(Path(context.home)).make()
        identity, book = self.identity(home, inputs), RunBook(home)
        folder = home.work(identity.run_key)
        resources = resources_of(identity.stage)
        threads = _threads(inputs) or resources.cpus
        seen = present(home, identity.stage, ALIKE, identity.run_key, context.pipeline_key, this_flow_run())
        with in_use(home), seen as note, _only_one(folder / "lock") as lock:
            (folder / "output").mkdir(exist_ok=True)
            record = book.read(identity.run_key)
            latest = [(d.run_key, d.reused) for d in book.history(identity.stage)[-1:]]
            if latest != [(identity.run_key, record is not None)]:
                book.decide(identity, reused=record is not None)  # Prefect was not asked, or did not know
            if record is None:
                note.now(QUEUED)
                asker = Asker(
                    identity.stage,
                    identity.run_key,
                    str(home.root),
                    resources.priority,
                    resources.yields_seconds,
                )
                need, cpus = need_of(resources, inputs.values()), threads * _processes(inputs)
                with Seat(asker, need, cpus, resources, STOP.is_set) as seat:
                    note.now(WORKING)
                    record = self._attempt(
                        home, identity, folder, context, threads, resources, work, inputs, seat, lock
                    )
        return record.artifact

    def _attempt(
        self, home, identity, folder, context, threads, resources, work, inputs, seat: Seat, lock: int
    ) -> RunRecord:
        links = TaskLinks(identity.stage)
        lines = SpoolReader(folder / "output" / "metrics.jsonl").read()
        earlier, started = (lines[-1].seconds if lines else 0.0), time.monotonic()
        debt = owed.Debt(
            run_key=identity.run_key, pipeline_key=context.pipeline_key, spool=str(folder / "output" / "metrics.jsonl"),
            state=str(folder / "tracking.json"), identity=identity, tags=links.tags(),
        )  # fmt: skip
        tail = owed.tail(home, debt, board().say)
        run = StageRun(
            home, identity, folder, context, links, threads, resources, tail.require, seat.lease, lock
        )
        run.progress(0, 0, "starting" if earlier == 0 else "going on")
        try:
            with tail, LiveLog(folder, links.log) if links.is_shown else nullcontext():
                outcome = work(run, **inputs)
                seat.leave_devices()
            artifact = ArtifactStore(home).put(outcome.directory, _filled(self.kind, inputs), tail.run_id)
            record = RunRecord(
                run_key=identity.run_key, identity=identity, artifact=artifact, gave=outcome.gave,
                seconds=round(earlier + time.monotonic() - started, 2), metrics=outcome.metrics,
                finished=time.time(), environment=environment(), changed=outcome.changed,
            )  # fmt: skip
            owed.finish(home, debt, tail, record)
            RunBook(home).write(record)
        except BaseException as error:
            is_stop = isinstance(error, InterruptedRun)
            board().finish(identity.stage, "stopped" if is_stop else "failed")
            tail.close("KILLED" if is_stop else "FAILED")
            links.close()
            raise
        page = partial(stage_page, home, record, outcome.directory, folder)
        links.show_result(record, tracking.run_url(home, tail.run_id) if not tail.is_away else "", page)
        _tidy(folder)
        links.close()
        board().finish(identity.stage, f"{record.seconds:.1f} s, {record.gave}")
        return record

    def _damage(self, home: Home, record: RunRecord) -> str:
        store = ArtifactStore(home)
        problems = store.problems(record.artifact)
        if problems and store.restore(record.artifact):
            board().say(f"{record.identity.stage}: restored from MLflow ({problems[0]}).")
        elif problems:
            return f"its artifact {record.artifact.digest[:12]} is damaged ({problems[0]})"
        return self.fallen(home, store.path(record.artifact)) if self.fallen else ""


@contextmanager
def _only_one(path: Path) -> Iterator[int]:
    """Hold the lock of a run key, and yield it: two commands at once do a stage once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if STOP.wait(0.5):
                    raise InterruptedRun("Stopped while another command was doing the same stage.") from None
        yield lock.fileno()


def _tidy(folder: Path) -> None:
    """Remove what a finished run no longer needs; its log and spool stay."""
    for place in folder.glob("**/output"):
        for name in ("checkpoints", "final"):
            shutil.rmtree(place / name, ignore_errors=True)


def _filled(name: str, inputs: dict[str, Any]) -> str:
    return name.format(**{key: value for key, value in inputs.items() if isinstance(value, str)})


def _semantic(value: Any) -> Any:
    if hasattr(value, "semantic"):
        return value.semantic()
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _threads(inputs: dict[str, Any]) -> int:
    return max((getattr(value, "threads", None) or 0 for value in inputs.values()), default=0)


def _processes(inputs: dict[str, Any]) -> int:
    names = ("world_size", "workers")
    return max(getattr(value, name, None) or 1 for value in inputs.values() for name in names)


def is_worth_retrying(_task: Any, _task_run: Any, state: Any) -> bool:
    """Return whether a task that came to this state may be tried again: what Prefect asks as its retry condition."""
    return isinstance(state.data, BaseException) and worth_retrying(state.data) and not STOP.is_set()
