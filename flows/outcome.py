"""What a pipeline run came to: each stage, reused or not and why, and where to look."""

import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.errors import FluxlineError, InputError, InterruptedRun, StageError
from tasks.approval import request
from tasks.artifacts import ArtifactRef, ArtifactStore
from tasks.cards import read_json
from tasks.launch import STOP
from tasks.parent_run import PipelineRun, Summary
from tasks.progress import board
from tasks.run_key import RunBook

_TOLD = ("curate", "caption", "finetune", "evaluate", "gate", "register")
"""Stages whose artifacts the report reads; not every run has all."""


class StageOutcome(BaseModel):
    """One row of the closing table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    run_key: str
    reused: bool
    reason: str
    seconds: float = Field(description="Seconds it took in this run (with what crashed before); 0 if reused.")
    gave: str
    artifact: str
    digest: str
    mlflow_run_id: str


class PipelineOutcome(BaseModel):
    """What `fluxline run --json` prints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: list[StageOutcome]
    model_name: str
    model_version: str
    aliases: list[str] = Field(default=[], description="Aliases the version was given in the registry.")
    verdict: str = Field(default="", description="The gate's answer, where there is a gate.")
    reasons: list[str] = Field(default=[], description="Why the gate answered so, in plain sentences.")
    evaluation: str = Field(description="Path of the report; of an evaluation that made no version, its own.")
    figures: dict[str, str] = Field(description="The few figures that say how good the model is, in words.")
    mlflow_url: str
    mlflow_run_id: str
    prefect_url: str
    seconds: float


def wait_for_all(stages: dict[str, Any]) -> dict[str, ArtifactRef]:
    """Return each stage's artifact; at the first failure ask the others to save and stop.

    Raises:
        FluxlineError: the failure that says most.
    """
    from prefect.futures import as_completed

    names = {future.task_run_id: name for name, future in stages.items()}
    errors: list[Exception] = []
    refs: dict[str, ArtifactRef] = {}
    for future in as_completed(list(stages.values())):
        name = names[future.task_run_id]
        try:
            refs[name] = future.result()
        except FluxlineError as error:
            STOP.set()
            errors.append(error)
        except Exception as error:  # a stage that never ran because of another, or a fault of ours
            STOP.set()
            errors.append(StageError(f"{name}: {type(error).__name__}: {error}"))
    if errors:
        raise min(errors, key=_rank)
    return {name: refs[name] for name in stages}


def finish(run: PipelineRun, refs: dict[str, ArtifactRef], model_name: str) -> PipelineOutcome:
    """Write the run's report, log its summary to MLflow, and return its outcome.

    A run of a stage before the last has no report and no version.
    """
    store, book = ArtifactStore(run.home), RunBook(run.home)
    rows = [_row(book, name, ref) for name, ref in refs.items()]
    places = {name: store.path(refs[name]) for name in _TOLD if name in refs}
    made = read_json(places["register"] / "registration.json") if "register" in places else {}
    decision = read_json(places["gate"] / "decision.json") if "gate" in places else {}
    evaluation = places.get("evaluate")
    if decision.get("approval") and made and (said := request(run.home, made["name"], str(made["version"]))):
        board().say(f"register: {said}")
    outcome = PipelineOutcome(
        stages=rows,
        model_name=made.get("name", model_name),
        model_version=str(made.get("version", "")),
        aliases=_aliases(run, made) if made else [],
        verdict=decision.get("verdict") or made.get("verdict", ""),
        reasons=decision.get("reasons", []),
        evaluation=str(evaluation / "evaluation.json") if evaluation else "",
        figures=_figures(places) if evaluation else {},
        mlflow_url=run.mlflow_url,
        mlflow_run_id=run.mlflow_run_id,
        prefect_url=run.tags.get("prefect.flow_run_url", ""),
        seconds=round(time.monotonic() - run.started, 2),
    )
    if not made or evaluation is None:
        run.close("FINISHED")
        return outcome
    report = _write_report(run, outcome, places, book)
    keys = [row.run_key for row in rows]
    said = _said(outcome)
    run.close("FINISHED", Summary(evaluation, keys, outcome.model_name, outcome.model_version, said, report))
    return outcome.model_copy(update={"evaluation": str(report)})


def _said(outcome: PipelineOutcome) -> list[str]:
    """The run in a few lines of Markdown: its verdict first, as MLflow shows three lines of a description."""
    verdict = [f"{outcome.verdict}: {' '.join(outcome.reasons[:1])}"] if outcome.verdict else []
    return [*verdict, "", *(f"- {name}: {value}" for name, value in outcome.figures.items())]


def _aliases(run: PipelineRun, made: dict[str, Any]) -> list[str]:
    """Return the version's aliases as the registry has them now; while MLflow is away, as they were given."""
    from tasks import registry

    try:
        now = registry.aliases(run.home, made["name"])
    except Exception:
        return made.get("aliases", [])
    return sorted(alias for alias, version in now.items() if version == str(made["version"]))


def _write_report(run: PipelineRun, outcome: PipelineOutcome, places: dict[str, Path], book: RunBook) -> Path:
    """Write the self-contained page that tells the run; a stage that did not run has no place and no chapter."""
    from evaluation.report import write_report

    records = {row.name: book.read(row.run_key) for row in outcome.stages}
    stages = [
        {
            "name": row.name,
            "reused": row.reused,
            "gave": row.gave,
            "seconds": record.seconds if record else 0.0,
        }
        for row, record in ((row, records[row.name]) for row in outcome.stages)
    ]
    version = f"{outcome.model_name} version {outcome.model_version}"
    facts = {"model": version, "mlflow run": outcome.mlflow_run_id}
    path = run.home.root / "reports" / f"{version.replace(' ', '-')}.html"
    path.parent.mkdir(exist_ok=True)
    return write_report(
        places["evaluate"],
        path,
        curation=read_json(places["curate"] / "curation.json"),
        stages=stages,
        facts=facts,
        captions=places.get("caption"),
        decision=places.get("gate"),
        lora=places.get("finetune"),
        registration=places["register"],
    )


def _figures(places: dict[str, Path]) -> dict[str, str]:
    from evaluation.report import closing_figures

    captions = read_json(places["caption"] / "captions.json") if "caption" in places else None
    return closing_figures(places["evaluate"], captions)


def _row(book: RunBook, name: str, ref: ArtifactRef) -> StageOutcome:
    decision = book.history(name)[-1]
    record = book.read(decision.run_key)
    return StageOutcome(
        name=name,
        run_key=decision.run_key,
        reused=decision.reused,
        reason=decision.reason,
        seconds=0.0 if decision.reused or record is None else record.seconds,
        gave=record.gave if record else "",
        artifact=ref.uri,
        digest=ref.digest,
        mlflow_run_id=ref.mlflow_run_id,
    )


def _rank(error: Exception) -> int:
    """Order errors: what the user can mend, then what broke, then what merely stopped or waited in vain."""
    if isinstance(error, InputError):
        return 0
    if isinstance(error, InterruptedRun):
        return 2
    return 3 if "UnfinishedRun" in str(error) or "UpstreamTaskError" in str(error) else 1
