"""Gate: decide whether the evaluated model takes the champion's place in the registry."""

from pathlib import Path

from prefect import task

from evaluation.compare import read_side
from evaluation.gate import FILE, Champion, GateDecision, GateSettings, decide, headline
from fluxmodel.errors import ArtifactError, InputError
from tasks import registry
from tasks.artifacts import ArtifactRef, ArtifactStore
from tasks.cards import read_json
from tasks.home import Home
from tasks.run_key import RunBook
from tasks.stage import Stage
from tasks.stage_run import Outcome, RunContext, StageRun


def _champion_moved(home: Home, directory: Path) -> str:
    """Say what became of the champion a stored decision was made against, where that matters."""
    made = read_json(directory / FILE)
    was = (made.get("champion") or {}).get("version", "")
    try:
        now = registry.champion(home, made["name"])
    except Exception:  # MLflow away: what it said last counts
        return ""
    if (now.version if now else "") == was:
        return ""
    if now is not None and now.tags.get("evaluate.digest") == made["evaluation"]:
        return ""  # it came out of this decision
    return f"champion moved from version {was or 'none'} to {now.version if now else 'none'} since"


GATE = Stage("gate", kind="decision", modules=("tasks.gate",), fallen=_champion_moved)


@task(**GATE.options(), task_run_name="gate")
def gate(context: RunContext, evaluation: ArtifactRef, name: str, settings: GateSettings) -> ArtifactRef:
    """Compare the model's evaluation with that of the champion of `name`."""
    return GATE.run(context, _gate, evaluation=evaluation, name=name, settings=settings)


def _gate(run: StageRun, evaluation: ArtifactRef, name: str, settings: GateSettings) -> Outcome:
    challenger = run.path(evaluation)
    with registry.answering(run.home):
        champion = registry.champion(run.home, name)
    if champion is None:
        decision = decide(challenger, None, settings)
    elif _is_same(run.home, evaluation, champion):
        decision = _stands(champion, settings)
    else:
        decision = _compared(run.home, challenger, champion, settings)
    decision = decision.model_copy(update={"name": name, "evaluation": evaluation.digest})
    final = run.output / "final"
    final.mkdir(parents=True, exist_ok=True)
    (final / FILE).write_text(decision.model_dump_json(indent=1) + "\n")
    row = decision.primary
    metrics = {"difference": row.difference} if row else {}
    return Outcome(final, headline(decision), metrics)


def _compared(
    home: Home, challenger: Path, champion: registry.RegisteredVersion, settings: GateSettings
) -> GateDecision:
    who = Champion(name=champion.name, version=champion.version)
    read_side(challenger)  # a fault of the challenger's is no answer about the champion
    try:
        return decide(challenger, registry.evaluation_directory(home, champion), settings, who)
    except (ArtifactError, InputError) as error:
        reasons = [str(error), "The champion stays; to replace it by hand, use `fluxline promote`."]
        return GateDecision(verdict="incomparable", reasons=reasons, champion=who, settings=settings)


def _stands(champion: registry.RegisteredVersion, settings: GateSettings) -> GateDecision:
    reason = f"This very model is the champion already, as version {champion.version}; that decision stands."
    who = Champion(name=champion.name, version=champion.version)
    return GateDecision(verdict="promote", reasons=[reason], champion=who, settings=settings)


def _is_same(home: Home, evaluation: ArtifactRef, champion: registry.RegisteredVersion) -> bool:
    """Whether the evaluated model and LoRA are the champion's."""
    for record in RunBook(home).lineage([evaluation.digest]):
        if record.artifact.digest == evaluation.digest:
            judged = [record.identity.upstream.get(part, "") for part in ("model", "lora")]
            return bool(judged[0]) and judged == [
                champion.tags.get(f"{part}.digest", "") for part in ("model", "lora")
            ]
    return False


def read_decision(home: Home, ref: ArtifactRef) -> GateDecision:
    """Return the decision in an artifact."""
    return GateDecision.model_validate_json((ArtifactStore(home).path(ref) / FILE).read_text())
