"""Gate: decide whether the evaluated model takes the champion's place in the registry."""

import shutil
import time
from pathlib import Path
from typing import Any

from prefect import task

from evaluation.compare import read_side
from evaluation.gate import (
    CURABLE,
    FILE,
    Champion,
    GateDecision,
    decide,
    headline,
    incomparable,
    needs_more_noise,
    needs_timing,
)
from evaluation.gate_settings import GateSettings
from fluxmodel.errors import ArtifactError, InputError
from tasks import registry
from tasks.artifacts import ArtifactRef, ArtifactStore
from tasks.gate_history import PRIMARY_DIFFERENCE, gates_spent
from tasks.home import Home
from tasks.rematch import Judged, champions_evaluation, draw_further, record_of
from tasks.run_key import RunBook
from tasks.stage import Stage
from tasks.stage_run import Outcome, RunContext, StageRun

WAITING = "It waits for a person's approval: "


def _against(home: Home, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return which champion the decision is about, so that a decision about another one is another decision.

    A champion that came out of the very evaluation asked about stands for the champion it was compared with: that
    decision stands. While MLflow is away, the last champion the gate saw with this evaluation counts.
    """
    name, evaluation = inputs["name"], inputs["evaluation"]
    try:
        now = registry.champion(home, name)
        if now is not None and now.tags.get("evaluate.digest") == evaluation.digest:
            before = now.tags.get("gate.champion", "")
            now = registry.find_version(home, name, before) if before else None
    except InputError:  # that version was removed from the registry
        now = None
    except Exception:  # MLflow away: the stage itself will say so
        return {"champion": _last_seen(home, name, evaluation)}
    return {"champion": _told(now)}


def _told(champion: registry.RegisteredVersion | None) -> str:
    if champion is None:
        return "none"
    return f"version {champion.version} ({champion.tags.get('artifact_digest', '')[:8]})"


def _last_seen(home: Home, name: str, evaluation: ArtifactRef) -> str:
    book = RunBook(home)
    for noted in reversed(book.history(GATE.name)):
        record = book.read(noted.run_key)
        if record is None or record.identity.upstream.get("evaluation") != evaluation.digest:
            continue
        if record.identity.parameters.get("name") == name:
            return str(record.identity.parameters.get("champion", ""))
    return "unknown"


GATE = Stage(
    "gate", kind="decision", modules=("tasks.gate", "tasks.rematch", "evaluation.duel"), beside=_against
)


@task(**GATE.options())
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
        with registry.answering(run.home):
            spent = gates_spent(run.home, name, run.identity.run_key, time.time())
        decision = _compared(run, Judged(evaluation, challenger), champion, settings, spent)
    decision = _asking(decision.model_copy(update={"name": name, "evaluation": evaluation.digest}), champion)
    final = run.output / "final"
    final.mkdir(parents=True, exist_ok=True)
    (final / FILE).write_text(decision.model_dump_json(indent=1) + "\n")
    row = decision.primary
    metrics = {PRIMARY_DIFFERENCE: row.difference} if row else {}
    if (drawn := run.work / "duel" / "output" / "final").is_dir():
        shutil.copytree(drawn, final / "duel", dirs_exist_ok=True)  # the rows it was decided on
    return Outcome(final, headline(decision), metrics)


def _compared(
    run: StageRun,
    judged: Judged,
    champion: registry.RegisteredVersion,
    settings: GateSettings,
    spent: int,
) -> GateDecision:
    """Decide; where evaluating the champion again or drawing further noise would help, do that first."""
    who = Champion(name=champion.name, version=champion.version)
    read_side(judged.directory)  # a fault of the challenger's is no answer about the champion
    place, decision = _at_hand(run, judged, champion, settings, who, spent)
    again = why = ""
    if settings.reevaluate and (place is None or _is_curable(decision)):
        why = ", ".join(decision.differing) or "what can be read of it"
        try:
            ref = champions_evaluation(run, judged, champion, why)
        except (ArtifactError, InputError) as error:
            said = f"The champion could not be evaluated again: {error}"
            return decision.model_copy(update={"reasons": [*decision.reasons, said]})
        place, again = run.path(ref), ref.digest
        decision = decide(judged.directory, place, settings, who, gates_spent=spent)
    notes = [f"Version {who.version} was evaluated again on the challenger's terms ({why})."] if again else []
    if place is not None:
        decision, said = _further(run, judged, place, champion, decision)
        notes += said
    update = {"reasons": [*decision.reasons, *notes], "reevaluated": again}
    return decision.model_copy(update=update)


def _is_curable(decision: GateDecision) -> bool:
    fields = set(decision.differing)
    return decision.verdict == "incomparable" and bool(fields) and fields <= set(CURABLE)


def _at_hand(
    run: StageRun,
    judged: Judged,
    champion: registry.RegisteredVersion,
    settings: GateSettings,
    who: Champion,
    spent: int,
) -> tuple[Path | None, GateDecision]:
    """The decision on the champion's evaluation as it is stored; None where that cannot be read."""
    try:
        place = registry.evaluation_directory(run.home, champion)
        return place, decide(judged.directory, place, settings, who, gates_spent=spent)
    except (ArtifactError, InputError) as error:
        return None, incomparable(str(error), settings, who)


def _further(
    run: StageRun,
    judged: Judged,
    place: Path,
    champion: registry.RegisteredVersion,
    decision: GateDecision,
) -> tuple[GateDecision, list[str]]:
    """The decision with further noise or with both timed in turn, where that may change it; and what to say."""
    draws = needs_more_noise(decision)
    if not draws and not needs_timing(decision, judged.directory, place):
        return decision, []
    try:
        drawn = draw_further(run, judged, place, champion, decision, draws)
    except (ArtifactError, InputError) as error:
        return decision, [f"No further noise was drawn: {error}"]
    known = {"who": decision.champion, "gates_spent": decision.gates_spent}
    return decide(judged.directory, place, decision.settings, further=drawn, **known), []


def _asking(decision: GateDecision, champion: registry.RegisteredVersion | None) -> GateDecision:
    """A promotion that waits for a person, where that is configured; a champion's own new evaluation does not."""
    is_move = decision.rules or champion is None
    if decision.verdict != "promote" or not decision.settings.needs_approval or not is_move:
        return decision
    reasons = [*decision.reasons, f"{WAITING}`fluxline promote {decision.name}`."]
    return decision.model_copy(update={"approval": "pending", "reasons": reasons})


def _stands(champion: registry.RegisteredVersion, settings: GateSettings) -> GateDecision:
    reason = f"This very model is the champion already, as version {champion.version}; that decision stands."
    who = Champion(name=champion.name, version=champion.version)
    return GateDecision(verdict="promote", reasons=[reason], champion=who, settings=settings)


def _is_same(home: Home, evaluation: ArtifactRef, champion: registry.RegisteredVersion) -> bool:
    """Whether the evaluated model and LoRA are the champion's."""
    record = record_of(home, evaluation)
    upstream = record.identity.upstream if record is not None else {}
    judged = [upstream.get(part, "") for part in ("model", "lora")]
    return bool(judged[0]) and judged == [
        champion.tags.get(f"{part}.digest", "") for part in ("model", "lora")
    ]


def read_decision(home: Home, ref: ArtifactRef) -> GateDecision:
    """Return the decision in an artifact."""
    return GateDecision.model_validate_json((ArtifactStore(home).path(ref) / FILE).read_text())
