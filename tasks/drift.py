"""The vigil over a champion: a night's images drawn in a child process, what they say of it, and the event of a drift.

The first night's rows are an artifact that the version's tags `drift.first.*` name; they are what later nights are
compared with (evaluation/drift.py says why not the promotion's).
"""

import time
from dataclasses import dataclass
from typing import Any

from prefect import task

from evaluation.drift import DriftSettings, Night, judge_night
from fluxmodel.errors import ArtifactError, InputError
from tasks import registry, tracking
from tasks.announce import announce
from tasks.artifacts import ArtifactRef, ArtifactStore
from tasks.home import Home
from tasks.registry import CHAMPION, RegisteredVersion
from tasks.stage import Stage
from tasks.stage_run import Outcome, RunContext, StageRun

EVENT = "fluxline.champion.drifted"
DAY = 24 * 3600
_FIRST = "drift.first"
_EVALUATORS = ("dual_encoder", "detector")

VIGIL = Stage("vigil", kind="vigil", modules=("tasks.drift", "evaluation.vigil"))


@dataclass(frozen=True)
class Watched:
    """A champion with what it is judged by.

    Attributes:
        version: the champion.
        parts: evaluation, model, dataset and evaluators, by name.
    """

    version: RegisteredVersion
    parts: dict[str, ArtifactRef]


@task(**VIGIL.options())
def vigil(
    context: RunContext,
    evaluation: ArtifactRef,
    model: ArtifactRef,
    dataset: ArtifactRef,
    dual_encoder: ArtifactRef,
    night: int,
    name: str,
    version: str,
    detector: ArtifactRef | None = None,
) -> ArtifactRef:
    """Let the champion draw its own prompts again, with the noise of its promotion and with that of tonight."""
    parts = {"evaluation": evaluation, "model": model, "dataset": dataset}
    judges = {"dual_encoder": dual_encoder, "detector": detector}
    return VIGIL.run(context, _vigil, **parts, **judges, night=night, name=name, version=version)


def _vigil(
    run: StageRun,
    evaluation: ArtifactRef,
    model: ArtifactRef,
    dataset: ArtifactRef,
    night: int,
    name: str,
    version: str,
    **evaluators: ArtifactRef | None,
) -> Outcome:
    arguments: dict[str, Any] = {
        "evaluation": str(run.path(evaluation)),
        "model": str(run.path(model)),
        "dataset": str(run.path(dataset)),
        "evaluators": {each: str(run.path(ref)) for each, ref in evaluators.items() if ref is not None},
        "night": night,
    }
    final = run.call("evaluation.vigil:keep_vigil", **arguments)
    return Outcome(final, f"{name} version {version} drawn again, night {night}")


def tonight(now: float | None = None) -> int:
    """Return the number of the night: days since 1970 in UTC, so a night looked at twice is the same one."""
    return int((time.time() if now is None else now) // DAY)


def find_watched(home: Home, name: str) -> Watched:
    """Return the champion of a model with what it was judged by.

    Raises:
        InputError: there is no champion, or its version does not say what it was judged by.
    """
    version = registry.champion(home, name)
    if version is None:
        raise InputError(
            f"{name or 'The model'} has no champion to watch; `fluxline promote {name}` makes one."
        )
    stages = {"evaluation": "evaluate", "dataset": "curate"} | {
        each: f"prepare-{each}" for each in _EVALUATORS
    }
    found = {each: registry.stage_artifact(version, stage, each) for each, stage in stages.items()}
    run_id = tracking.client(home).get_model_version(name, version.version).run_id or ""
    uri, digest = (version.tags.get(f"artifact_{each}", "") for each in ("uri", "digest"))
    if digest:
        found["model"] = ArtifactRef(kind="model", uri=uri, digest=digest, mlflow_run_id=run_id)
    parts = {each: ref for each, ref in found.items() if ref is not None}
    if lost := [each for each in ("evaluation", "model", "dataset", "dual_encoder") if each not in parts]:
        raise InputError(
            f"{name} version {version.version} does not say which {lost[0]} it was judged by; run the pipeline again."
        )
    return Watched(version, parts)


def judge(home: Home, watched: Watched, drawn: ArtifactRef, settings: DriftSettings) -> Night:
    """Return what a night's images say of the champion; keep them as the first night's where there is none yet.

    Raises:
        ArtifactError: what it was promoted on is lost.
        InputError: a directory is not what it should be.
    """
    version, store = watched.version, ArtifactStore(home)
    tags = registry.find_version(home, version.name, version.version).tags
    first = None
    if digest := tags.get(f"{_FIRST}.digest", ""):
        uri, run_id = (tags.get(f"{_FIRST}.{each}", "") for each in ("uri", "mlflow_run_id"))
        try:
            first = store.path(ArtifactRef(kind="vigil", uri=uri, digest=digest, mlflow_run_id=run_id))
        except ArtifactError:  # neither in the store nor in MLflow: tonight begins anew
            first = None
    promotion = registry.evaluation_directory(home, version)
    night = judge_night(promotion, store.path(drawn), first, settings)
    if first is None or night.verdict == "incomparable":
        named = {"digest": drawn.digest, "uri": drawn.uri, "mlflow_run_id": drawn.mlflow_run_id}
        registry.set_tags(home, version, {f"{_FIRST}.{key}": value for key, value in named.items() if value})
    _log(home, version, drawn, night)
    return night


def _log(home: Home, version: RegisteredVersion, drawn: ArtifactRef, night: Night) -> None:
    """Put the verdict beside the night's rows in MLflow, and the latest one on the version."""
    if drawn.mlflow_run_id:
        numbers: dict[str, float] = {night.metric: night.value}
        for look in night.looks:
            numbers[f"{look.name}.difference"] = look.row.difference
            if look.row.p_worse is not None:
                numbers[f"{look.name}.p_worse"] = look.row.p_worse
        tags = {"model": version.name, "model_version": version.version, "drift": night.verdict}
        tracking.log_run(home, drawn.mlflow_run_id, tags=tags)
        tracking.log_metrics(home, drawn.mlflow_run_id, numbers)
        tracking.describe(home, drawn.mlflow_run_id, f"**{night.verdict}**: {night.said}")
    registry.set_tags(home, version, {"drift.verdict": night.verdict, "drift.said": night.said})


def announce_drift(home: Home, version: RegisteredVersion, night: Night, more: dict[str, Any]) -> bool:
    """Send the event `fluxline.champion.drifted`, once a version; return whether it is new to Prefect's server.

    Args:
        home: where the registry is.
        version: the champion that drifted.
        night: what the night said.
        more: what else an automation may pass on, by name.

    Raises:
        StageError: Prefect did not take it.
    """
    made = tracking.client(home).get_model_version(version.name, version.version)
    resource = {
        "prefect.resource.id": f"fluxline.{CHAMPION}.{version.name}.{version.version}",
        "prefect.resource.name": f"{version.name} version {version.version}",
    }
    payload = {"version": version.version, "said": night.said, "metric": night.metric, "value": night.value}
    return announce(
        EVENT, f"{version.name} {version.version} {made.creation_timestamp}", resource, payload | more
    )
