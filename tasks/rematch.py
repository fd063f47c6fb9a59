"""The champion met again: evaluated on the challenger's terms, or asked with it for further noise.

Both need models, data and evaluators, not just what was stored of them; so both may be impossible, and then the gate
decides on what is stored and says so.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.gate import GateDecision
from evaluation.settings import EvaluationSettings
from fluxmodel.errors import ArtifactError
from tasks import registry
from tasks.artifacts import ArtifactRef, ArtifactStore
from tasks.cards import read_json
from tasks.code_digest import code_digests
from tasks.evaluate import EVALUATE
from tasks.home import Home
from tasks.progress import board
from tasks.run_key import RunBook, RunRecord, StageIdentity
from tasks.stage_run import StageRun

STAGE = "evaluate-champion"
EVALUATORS = ("dual_encoder", "detector", "style_classifier")


@dataclass(frozen=True)
class Judged:
    """An evaluation in hand: its artifact, and a local directory of it."""

    ref: ArtifactRef
    directory: Path


def record_of(home: Home, evaluation: ArtifactRef) -> RunRecord | None:
    """Return the record of the run that made an evaluation; None where another home made it."""
    lineage = RunBook(home).lineage([evaluation.digest])
    return next((each for each in lineage if each.artifact.digest == evaluation.digest), None)


def champions_evaluation(
    run: StageRun, judged: Judged, champion: registry.RegisteredVersion, why: str
) -> ArtifactRef:
    """Return the champion's evaluation with the challenger's data, evaluators and settings, made once.

    Raises:
        ArtifactError: its model, or something the challenger was judged with, cannot be had.
        InputError: its model cannot be read.
    """
    parts = _judged_with(run.home, judged.ref)
    document = read_json(judged.directory / "evaluation.json")
    with registry.answering(run.home):
        model = registry.model_directory(run.home, champion)
    lora = _lora_beside(model, champion, document)
    tags = champion.tags
    upstream = {"model": tags.get("model.digest") or tags.get("artifact_digest", "")}
    upstream |= {"lora": tags.get("lora.digest", "")} if lora else {}
    upstream |= {
        name: ref.digest for name, ref in parts.items() if name in ("dataset", "captions", *EVALUATORS)
    }
    identity = StageIdentity(
        stage=STAGE,
        parameters={"settings": document["settings"]},
        upstream=upstream,
        seed=0,
        code=code_digests(EVALUATE.modules),
    )
    book, store = RunBook(run.home), ArtifactStore(run.home)
    known = book.read(identity.run_key)
    if known is not None and not store.problems(known.artifact):
        return known.artifact
    board().say(f"gate: version {champion.version} is evaluated again, since it differs in {why}.")
    output, started = run.work / "champion" / "output", time.monotonic()
    final = output / "final"
    if not final.is_dir():  # an earlier attempt may have come this far
        settings = EvaluationSettings.model_validate(document["settings"])
        job = {
            "model": str(model),
            "dataset": str(run.path(parts["dataset"])),
            "captions": str(run.path(parts["captions"])) if "captions" in parts else None,
            "evaluators": {name: str(run.path(parts[name])) for name in EVALUATORS if name in parts},
            "lora": str(lora) if lora else None,
            "settings": settings.model_dump(mode="json"),
            "output": str(output),
            "threads": run.threads,
        }
        run.launch("evaluation", job)
    ref = store.put(final, "evaluation")
    gave = f"{champion.name} version {champion.version} evaluated again"
    known = {"run_key": identity.run_key, "identity": identity, "artifact": ref, "gave": gave}
    book.write(RunRecord(**known, seconds=time.monotonic() - started, finished=time.time()))
    return ref


def draw_further(
    run: StageRun,
    judged: Judged,
    champions: Path,
    champion: registry.RegisteredVersion,
    decision: GateDecision,
    draws: bool,
) -> Path:
    """Let both models draw further noise until the primary is decided (`draws`), timed in turn; return what it left.

    Raises:
        ArtifactError: a model, or something both were judged with, cannot be had.
        InputError: a model cannot be read.
    """
    parts = _judged_with(run.home, judged.ref)
    with registry.answering(run.home):
        model = registry.model_directory(run.home, champion)
    arguments: dict[str, Any] = {
        "challenger": str(judged.directory),
        "champion": str(champions),
        "challenger_model": str(run.path(parts["model"])),
        "champion_model": str(model),
        "dataset": str(run.path(parts["dataset"])),
        "evaluators": {name: str(run.path(parts[name])) for name in EVALUATORS if name in parts},
        "gate": decision.settings.model_dump(mode="json"),
        "draws": draws,
        "gates_spent": decision.gates_spent,
    }
    return run.call("evaluation.duel:duel", place="duel", again=False, **arguments)


def _judged_with(home: Home, evaluation: ArtifactRef) -> dict[str, ArtifactRef]:
    """What an evaluation was made with, by name."""
    record = record_of(home, evaluation)
    cure = "run the pipeline that made it in this FLUXLINE_HOME"
    if record is None:
        raise ArtifactError(
            f"What evaluation {evaluation.digest[:12]} was made with is not known here; {cure}."
        )
    makers = {each.artifact.digest: each.artifact for each in RunBook(home).lineage([evaluation.digest])}
    upstream = record.identity.upstream
    if lost := [name for name, digest in upstream.items() if digest not in makers]:
        raise ArtifactError(
            f"The {lost[0]} of evaluation {evaluation.digest[:12]} is not known here; {cure}."
        )
    return {name: makers[digest] for name, digest in upstream.items()}


def _lora_beside(model: Path, champion: registry.RegisteredVersion, document: dict[str, Any]) -> Path | None:
    """The champion's LoRA where the challenger was judged with one of that name."""
    name = champion.tags.get("lora.name", "")
    asked = ((document.get("lora") or {}).get("about") or {}).get("name", "lora")
    place = model / "loras" / name
    return place if name and document.get("lora") and asked == name and place.is_dir() else None
