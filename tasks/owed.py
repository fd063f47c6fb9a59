"""What MLflow is still owed: a stage's numbers and artifact are logged now, or noted down and logged later.

An artifact whose copy would keep the next stage waiting is noted down too, and logged meanwhile.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks import tracking
from tasks.artifacts import ArtifactStore
from tasks.dataset_input import dataset_input, describe_dataset
from tasks.headline import stage_settings
from tasks.home import Home
from tasks.lineage import log_record
from tasks.metrics_tail import MetricsTail
from tasks.run_key import RunRecord, StageIdentity
from tasks.whole_file import write_whole

MEANWHILE_BYTES = 128 << 20
"""Artifacts above this are logged while the next stage works: a gigabyte took 2.5 s, 300 MB 0.24 s."""
_settling = threading.Lock()


class Debt(BaseModel):
    """All that is needed to log a stage to MLflow at any later time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_key: str
    pipeline_key: str
    spool: str
    state: str
    identity: StageIdentity
    tags: dict[str, str]
    record: RunRecord | None = None


def tail(home: Home, debt: Debt, say: Callable[[str], None]) -> MetricsTail:
    """Return the sender of the stage's spool, which opens the stage's run when MLflow answers."""

    def open_run() -> str:
        tags = {"stage": debt.identity.stage, **debt.tags}
        run_id = tracking.open_run(home, debt.run_key, debt.identity.stage, tags, debt.pipeline_key)
        tracking.log_run(home, run_id, params=stage_settings(debt.identity))
        tracking.log_run(home, run_id, tags={f"input.{k}": v for k, v in debt.identity.upstream.items()})
        if dataset := dataset_input(home, debt.identity.stage, list(debt.identity.upstream.values())):
            tracking.log_dataset(home, run_id, dataset)
        return run_id

    return MetricsTail(home, Path(debt.spool), Path(debt.state), open_run, say)


def finish(home: Home, debt: Debt, tail: MetricsTail, record: RunRecord) -> None:
    """Log what the finished stage gave and close its run; what MLflow does not take is noted as owed."""
    is_large = record.artifact.num_bytes > MEANWHILE_BYTES
    if tail.pump() and not is_large and _log(home, tail.run_id, record):
        return
    note = debt.model_copy(update={"record": record}).model_dump_json()
    write_whole(home.root / "owed" / f"{debt.run_key}.json", note)
    if is_large and not tail.is_away:
        threading.Thread(target=settle, args=(home, tail.say), name="owed").start()


def debts(home: Home) -> list[Debt]:
    """Return what is owed."""
    return [
        Debt.model_validate_json(place.read_text()) for place in sorted((home.root / "owed").glob("*.json"))
    ]


def settle(home: Home, say: Callable[[str], None]) -> int:
    """Log what is still owed from earlier; return how many stages remain owed."""
    with _settling:  # the end of a run waits for what is being logged meanwhile
        return _settle(home, say)


def _settle(home: Home, say: Callable[[str], None]) -> int:
    remaining = 0
    for place in sorted((home.root / "owed").glob("*.json")):
        debt = Debt.model_validate_json(place.read_text())
        assert debt.record is not None
        sender = tail(home, debt, say)
        if remaining == 0 and sender.pump() and _log(home, sender.run_id, debt.record):
            place.unlink()
        else:
            remaining += 1  # MLflow is away: the others need not try
    return remaining


def _log(home: Home, run_id: str, record: RunRecord) -> bool:
    try:
        tracking.log_metrics(home, run_id, {**record.metrics, "stage_seconds": record.seconds})
        directory = ArtifactStore(home).path(record.artifact)
        tracking.log_artifact(home, run_id, directory, record.artifact)
        log_record(home, run_id, record)
        if record.identity.stage == "curate":
            tracking.log_dataset(home, run_id, describe_dataset(home, record, "curate"))
        tracking.describe(home, run_id, f"{record.identity.stage}: {record.gave}")
        tracking.close_run(home, run_id, "FINISHED")
    except Exception:  # whatever MLflow or the network raises: it stays owed
        return False
    return True
