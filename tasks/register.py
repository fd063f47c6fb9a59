"""Register: make the model a version in MLflow's registry, with its lineage and its aliases.

`challenger` is always the newest version; `champion` and `previous` move together where the gate said promote.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from prefect import task

from tasks import promotion, registry, tracking
from tasks.artifacts import MANIFEST, ArtifactRef, ArtifactStore, link_or_copy
from tasks.cards import read_json
from tasks.gate import GateDecision, read_decision
from tasks.headline import headline_metrics, headline_settings
from tasks.home import Home
from tasks.model_card import README, data_of, front_matter, model_card
from tasks.progress import board
from tasks.run_key import START, RunBook, RunRecord
from tasks.stage import Stage
from tasks.stage_run import Outcome, RunContext, StageRun

FILE = "registration.json"


def _version_gone(home: Home, directory: Path) -> str:
    made = read_json(directory / FILE)
    try:
        stands = registry.has_version(home, made["name"], made["version"])
    except Exception:  # MLflow away: what it said last counts
        return ""
    return "" if stands else f"{made['name']} version {made['version']} is not in the registry any more"


REGISTER = Stage("register", kind="registration", modules=("tasks.register",), fallen=_version_gone)


@task(**REGISTER.options())
def register(
    context: RunContext,
    model: ArtifactRef,
    evaluation: ArtifactRef,
    decision: ArtifactRef | None,
    dataset: ArtifactRef,
    name: str,
    lora: ArtifactRef | None = None,
) -> ArtifactRef:
    """Register the evaluated model, with its LoRA, under `name`, and move the aliases as the gate decided."""
    inputs = {
        "model": model,
        "evaluation": evaluation,
        "decision": decision,
        "dataset": dataset,
        "lora": lora,
    }
    return REGISTER.run(context, _register, **inputs, name=name)


def _register(
    run: StageRun,
    model: ArtifactRef,
    evaluation: ArtifactRef,
    decision: ArtifactRef | None,
    dataset: ArtifactRef,
    name: str,
    lora: ArtifactRef | None,
) -> Outcome:
    judged = run.path(evaluation)
    parts = {"model": model, "evaluation": evaluation, "decision": decision, "dataset": dataset, "lora": lora}
    lineage = RunBook(run.home).lineage([part.digest for part in parts.values() if part is not None])
    verdict = read_decision(run.home, decision) if decision is not None else None
    tags = _verdict_tags(verdict)
    below = {f"{part}.digest": ref.digest for part, ref in parts.items() if ref is not None}
    below |= _addresses(lineage)
    if verdict is not None:
        below["gate.reevaluated.digest"] = verdict.reevaluated  # kept as long as the version is
    whole, lora_name = _compose(run, model, lora)
    with registry.answering(run.home):
        below["start.digest"], start = _start(run.home, name, lineage)
        tags |= {"lora.name": lora_name, "dataset": data_of(lineage), "start": start}
        tags |= {"git_commit": registry.git_commit(), "run_key": run.identity.run_key}
        run_id = run.mlflow_run()
        report = read_json(judged / "evaluation.json")
        card = model_card(name, lineage, report, verdict, lora_name)
        beside = _beside(run, name, front_matter(lineage, lora_name=lora_name) + card, report)
        tracking.log_run(run.home, run_id, params=headline_settings(lineage))
        made = registry.register_version(
            run.home, name, run_id, run.path(whole), whole, tags, card, beside, below
        )
        is_champion = _crown(run.home, made, verdict)
        tracking.log_run(run.home, run_id, tags={"model": name, "model_version": made.version})
    aliases = [registry.CHALLENGER] + ([registry.CHAMPION] if is_champion else [])
    final = run.output / "final"
    final.mkdir(parents=True, exist_ok=True)
    registration = {
        "name": name,
        "version": made.version,
        "aliases": aliases,
        "verdict": verdict.verdict if verdict else "",
    }
    (final / FILE).write_text(json.dumps(registration, indent=1, sort_keys=True))
    gave = f"{name} version {made.version}, alias {' and '.join(aliases)}"
    return Outcome(final, gave, headline_metrics(judged))


def _crown(home: Home, made: registry.RegisteredVersion, decision: GateDecision | None) -> bool:
    """Make the version the champion if the gate says so; return whether it is the champion now."""
    if decision is None or decision.verdict != "promote":
        return False
    if decision.approval:
        promotion.ask_approval(home, made, decision.reasons)
        return False
    was = decision.champion.version if decision.champion else ""
    move = promotion.promote(home, made, "gate", decision.reasons[0], expected=was)
    board().say(f"register: {move.said}")
    return move.champion == made.version


def _compose(run: StageRun, model: ArtifactRef, lora: ArtifactRef | None) -> tuple[ArtifactRef, str]:
    """Return the model's artifact with the LoRA beside it as loras/NAME, and that name; without one, the model's."""
    if lora is None:
        return model, ""
    source = run.path(lora)
    name = str(read_json(source / "lora.json").get("name") or "lora")
    whole = run.work / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    ignore = shutil.ignore_patterns(MANIFEST)
    shutil.copytree(run.path(model), whole, copy_function=link_or_copy, ignore=ignore)
    shutil.copytree(source, whole / "loras" / name, copy_function=link_or_copy, ignore=ignore)
    made = ArtifactStore(run.home).put(whole, model.kind)
    shutil.rmtree(whole)
    return made, name


def _beside(run: StageRun, name: str, card: str, report: dict[str, Any]) -> Path:
    """Return a folder with what MLflow's copy of the model holds beside the model: its card, and how to serve it."""
    from tasks.served_model import write_mlmodel  # it asks MLflow for types

    place = run.work / "beside"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    write_mlmodel(place, name)
    (place / README).write_text(card)
    return place


def _addresses(lineage: list[RunRecord]) -> dict[str, str]:
    """The address of every artifact the version was made of, by stage."""
    found = {}
    for record in lineage:
        stage, artifact = record.identity.stage, record.artifact
        found |= {
            f"{stage}.run_key": record.run_key,
            f"{stage}.digest": artifact.digest,
            f"{stage}.uri": artifact.uri,
            f"{stage}.mlflow_run_id": artifact.mlflow_run_id,
        }
    return found


def _start(home: Home, name: str, lineage: list[RunRecord]) -> tuple[str, str]:
    """The model whose training went on, by digest and, where the registry knows it, by version; else empty."""
    digest = next((r.identity.upstream[START] for r in lineage if START in r.identity.upstream), "")
    if not digest:
        return "", ""
    known = [
        version.version
        for version in registry.all_versions(home)
        if version.name == name and version.tags.get("train.digest") == digest
    ]
    return digest, f"version {known[0]}" if known else ""


def _verdict_tags(decision: GateDecision | None) -> dict[str, str]:
    if decision is None:
        return {}
    against = decision.champion.version if decision.champion else ""
    reasons = "\n".join(decision.reasons)[:4000]
    return {"gate.verdict": decision.verdict, "gate.reasons": reasons, "gate.champion": against}
