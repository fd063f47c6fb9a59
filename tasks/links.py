"""What a stage shows in Prefect: its log, its progress, its result, the way to MLflow; and Prefect's ids for MLflow.

Outside of a Prefect task run, and while Prefect does not answer, all of it does nothing: a stage never fails for it.
Nor does a stage wait for it: a thread does the sending, and the end of a run waits for it `PATIENCE` seconds at most.
"""

import atexit
import contextvars
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar
from uuid import UUID

from tasks.run_key import RunRecord
from tasks.stage_page import Rows, StagePage

PAGE = "?workflowType=machine_learning"
PATIENCE = 5.0


class TaskLinks:
    """The Prefect side of the task run we are in, if we are in one."""

    def __init__(self, stage: str):
        from prefect.context import TaskRunContext

        self.stage = stage
        self.context = TaskRunContext.get()
        self._progress: UUID | None = None
        self._share = 0.0
        self._sender = _Sender() if self.context is not None else None
        self._logger: Any = None
        if self.context is not None:
            from prefect.logging import get_run_logger

            with suppress(Exception):
                self._logger = get_run_logger()

    def tags(self) -> dict[str, str]:
        """Return Prefect's ids and page of this task run, as tags for MLflow."""
        if self.context is None:
            return {}
        from prefect.runtime import flow_run

        run = self.context.task_run
        page = ""
        with suppress(Exception):
            page = flow_run.ui_url or ""
        return {
            "prefect.flow_run_id": str(run.flow_run_id or ""),
            "prefect.flow_run_url": page,
            "prefect.task_run_id": str(run.id),
        }

    @property
    def is_shown(self) -> bool:
        """Whether anybody can see what is logged here."""
        return self._logger is not None

    def log(self, text: str) -> None:
        """Write one line to the task run's log in Prefect, from any thread; it is sent by and by."""
        if self._logger is not None:
            with suppress(Exception):
                self._logger.info("%s", text)

    def show_progress(self, done: int, total: int) -> None:
        """Show a progress bar on the task run's page."""
        if self._sender is not None and total > 0:
            self._share = min(100.0, 100.0 * done / total)
            self._sender.put("progress", self._send_progress)

    def show_result(self, record: RunRecord, mlflow_url: str, look: Callable[[], StagePage]) -> None:
        """Show what the stage gave, the table and picture that `look` returns, and the way to its MLflow run."""
        self.log(f"{record.gave or 'done'} ({record.seconds:.1f} s), artifact {record.artifact.uri}")
        if self._sender is None:
            return
        try:
            page = look()
        except Exception as error:  # a page that cannot be drawn is no reason to lose the stage
            logging.getLogger("fluxline").warning("%s has no picture: %r", self.stage, error)
            page = StagePage()
        if self._progress is not None:
            self.show_progress(1, 1)
        links = ({"MLflow run": mlflow_url} if mlflow_url else {}) | page.links
        self._sender.put("result", partial(self._send_markdown, _page(record, mlflow_url, page), record.gave))
        for name, rows in page.tables.items():
            self._sender.put(name, partial(self._send_table, name, rows))
        for number, (words, url) in enumerate(links.items()):
            name = "mlflow" if number == 0 else f"link-{number}"
            self._sender.put(name, partial(self._send_link, name, words, url))

    def close(self) -> None:
        """Show nothing more; what is on its way is sent meanwhile."""
        if self._sender is not None:
            self._sender.close()

    def _send_progress(self) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        if self._progress is None:
            made: Any = create_progress_artifact(
                self._share, key=_key(self.stage, "progress"), description=self.stage
            )
            self._progress = made
        else:
            update_progress_artifact(self._progress, self._share)

    def _send_markdown(self, text: str, gave: str) -> None:
        from prefect.artifacts import create_markdown_artifact

        create_markdown_artifact(text, key=_key(self.stage, "result"), description=gave)

    def _send_table(self, name: str, rows: Rows) -> None:
        from prefect.artifacts import create_table_artifact

        create_table_artifact(rows, key=_key(self.stage, name), description=f"{self.stage}: {name}")

    def _send_link(self, name: str, words: str, url: str) -> None:
        from prefect.artifacts import create_link_artifact

        create_link_artifact(url, link_text=words, key=_key(self.stage, name))


def wait_until_sent(patience: float = PATIENCE) -> None:
    """Return when Prefect has all that closed stages show, or when patience ends."""
    deadline = time.monotonic() + patience
    while _Sender.closed:
        _Sender.closed.pop().join(max(0.0, deadline - time.monotonic()))


class _Sender:
    """Makes calls to Prefect one after another in a thread; of calls of one name that wait, the newest counts."""

    closed: ClassVar[list[threading.Thread]] = []
    _waits_at_exit: ClassVar[bool] = False

    def __init__(self) -> None:
        self._calls: dict[str, Callable[[], None]] = {}
        self._names: queue.Queue[str] = queue.Queue()
        self._lock = threading.Lock()
        context = contextvars.copy_context()  # artifacts find their task run by it
        self._thread = threading.Thread(
            target=context.run, args=(self._work,), name="prefect-links", daemon=True
        )
        self._thread.start()

    def put(self, name: str, call: Callable[[], None]) -> None:
        """Have `call` made soon."""
        with self._lock:
            is_new = name not in self._calls
            self._calls[name] = call
        if is_new:
            self._names.put(name)

    def close(self) -> None:
        """Take no more calls."""
        self._names.put("")
        self.closed.append(self._thread)
        if not _Sender._waits_at_exit:
            _Sender._waits_at_exit = True
            atexit.register(wait_until_sent)

    def _work(self) -> None:
        while name := self._names.get():
            with self._lock:
                call = self._calls.pop(name)
            try:
                call()
            except Exception as error:  # whatever Prefect or the network raises
                logging.getLogger("fluxline").info("Prefect did not take an artifact: %s", error)
                time.sleep(0.1)


def _page(record: RunRecord, mlflow_url: str, page: StagePage) -> str:
    rows = "\n".join(f"| {name} | {value:.5g} |" for name, value in sorted(record.metrics.items()))
    shown = f"{page.markdown}\n\n" if page.markdown else ""
    return (
        f"**{record.identity.stage}**: {record.gave}\n\n{shown}"
        f"| | |\n|---|---|\n| artifact | `{record.artifact.uri}` |\n| digest | `{record.artifact.digest}` |\n"
        f"| run key | `{record.run_key}` |\n| MLflow run | {_mlflow_cell(record, mlflow_url)} |\n"
        f"| seconds | {record.seconds:.1f} |\n{rows}\n"
    )


def _mlflow_cell(record: RunRecord, mlflow_url: str) -> str:
    run_id = record.artifact.mlflow_run_id
    if not run_id:
        return f"sent when MLflow is back, with the tag run_key `{record.run_key}`"
    if mlflow_url:
        return f"[{run_id}]({mlflow_url})"
    return f"`{run_id}`; to see it, run `fluxline up` and search MLflow for `attributes.run_id = '{run_id}'`"


def _key(stage: str, what: str) -> str:
    return f"{stage}-{what}".replace("_", "-").lower()
