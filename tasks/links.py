"""What a stage shows in Prefect: progress, its result, and the way to MLflow; and Prefect's ids for MLflow's tags.

Outside of a Prefect task run, and while Prefect does not answer, all of it does nothing: a stage never fails for it.
"""

import logging
from contextlib import suppress
from typing import Any
from uuid import UUID

from tasks.run_key import RunRecord

PAGE = "?workflowType=machine_learning"


class TaskLinks:
    """The Prefect side of the task run we are in, if we are in one."""

    def __init__(self, stage: str):
        from prefect.context import TaskRunContext

        self.stage = stage
        self.context = TaskRunContext.get()
        self._progress: UUID | None = None

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

    def log(self, text: str) -> None:
        """Write one line to the task run's log in Prefect."""
        if self.context is not None:
            from prefect.logging import get_run_logger

            with suppress(Exception):
                get_run_logger().info(text)

    def show_progress(self, done: int, total: int) -> None:
        """Show a progress bar on the task run's page."""
        if self.context is None or total <= 0:
            return
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        share = min(100.0, 100.0 * done / total)
        with _unharmed():
            if self._progress is None:
                made: Any = create_progress_artifact(
                    share, key=_key(self.stage, "progress"), description=self.stage
                )
                self._progress = made
            else:
                update_progress_artifact(self._progress, share)

    def show_result(self, record: RunRecord, mlflow_url: str) -> None:
        """Show what the stage gave, with the way to its MLflow run."""
        self.log(f"{record.gave or 'done'} ({record.seconds:.1f} s), artifact {record.artifact.uri}")
        if self.context is None:
            return
        from prefect.artifacts import create_link_artifact, create_markdown_artifact

        with _unharmed():
            if self._progress is not None:
                self.show_progress(1, 1)
            create_markdown_artifact(
                _page(record, mlflow_url), key=_key(self.stage, "result"), description=record.gave
            )
            if mlflow_url:
                create_link_artifact(mlflow_url, link_text="MLflow run", key=_key(self.stage, "mlflow"))


def _page(record: RunRecord, mlflow_url: str) -> str:
    rows = "\n".join(f"| {name} | {value:.5g} |" for name, value in sorted(record.metrics.items()))
    return (
        f"**{record.identity.stage}**: {record.gave}\n\n"
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


class _unharmed(suppress):
    """Suppress any error of a Prefect that is away, but note it in the log file."""

    def __init__(self) -> None:
        super().__init__(Exception)

    def __exit__(self, kind, error, trace) -> bool:
        if error is not None:
            logging.getLogger("fluxline").info("Prefect did not take an artifact: %s", error)
        return bool(super().__exit__(kind, error, trace))
