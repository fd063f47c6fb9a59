"""Approval: what a person is asked about a version that waits, and what becomes of the answer.

The gate leaves a promotion that needs a person as the tag `approval` = `pending` (promotion.py). Who is asked, in the
terminal or in Prefect, answers here: yes promotes it over the very champion it was compared with, no tags it
`declined`, and where the champion has moved meanwhile nothing moves.
"""

import logging
from dataclasses import dataclass
from typing import Literal

from evaluation.gate import FILE, GateDecision
from evaluation.rules_table import rule_words
from evaluation.versus_words import plain_words
from fluxmodel.errors import ArtifactError, InputError
from tasks import promotion, registry, tracking
from tasks.artifacts import ArtifactStore
from tasks.home import Home
from tasks.promotion import APPROVAL, PENDING
from tasks.registry import CHAMPION, RegisteredVersion

DEPLOYMENT = "approve/approve"
DECLINED = "declined"
_MOST_RULES = 12


@dataclass(frozen=True)
class Answered:
    """What an answer came to.

    Attributes:
        outcome: `promoted`, `declined`, or `refused` where the yes came too late.
        said: the same as a sentence.
    """

    outcome: Literal["promoted", "declined", "refused"]
    said: str


def find_waiting(home: Home, name: str = "", version: str = "") -> RegisteredVersion:
    """Return the version that waits for a person: the named one, else the newest of `name`, else of the newest model.

    Raises:
        InputError: there is none, or it does not wait.
    """
    name = name or registry.newest_model_name(home)
    if version:
        found = registry.find_version(home, name, version)
        if found.tags.get(APPROVAL) != PENDING:
            raise InputError(_no_question(home, found))
        return found
    waiting = promotion.pending(home, name)
    if not waiting:
        raise InputError(
            f"No version of {name} waits for approval; to promote one all the same, use `fluxline promote {name} "
            "--version N`."
        )
    return waiting[0]


def question(home: Home, version: RegisteredVersion) -> str:
    """Return what a person needs to decide, as Markdown: the gate's reasons and rules, and where to see more."""
    name, against = version.name, version.tags.get("gate.champion", "")
    instead = f"in place of version {against}" if against else "as the first champion"
    lines = [f"**Make version {version.version} of {name} the champion, {instead}?**", ""]
    decision = _decision(home, version)
    reasons = decision.reasons if decision else version.tags.get("gate.reasons", "").splitlines()
    lines += [f"- {plain_words(reason)}" for reason in reasons]
    if decision is not None:
        lines += ["", *_rules(decision)]
    links = [
        f"[version {each}]({url})" for each in (version.version, against) if (url := _url(home, name, each))
    ]
    report = home.root / "reports" / f"{name}-version-{version.version}.html"
    lines += ["", *([f"In MLflow: {', '.join(links)}."] if links else [])]
    lines += [f"Report: `{report}`."] if report.is_file() else []
    if against:
        lines.append(f"Image by image: `fluxline compare {against} {version.version} --name {name}`.")
    return "\n".join(lines)


def answer(home: Home, version: RegisteredVersion, is_approved: bool, reason: str, by: str = "") -> Answered:
    """Do what a person decided about a version that waits; asked again after a crash, the same answer changes nothing.

    Args:
        home: where the registry is.
        version: what was asked about.
        is_approved: whether it shall be the champion.
        reason: why, kept as a tag.
        by: who decided; empty for whoever this process belongs to.
    """
    name, number = version.name, version.version
    now = registry.find_version(home, name, number)
    is_champion = registry.aliases(home, name).get(CHAMPION) == number
    if not is_approved:
        if is_champion:
            return Answered(
                "refused", f"{name} version {number} is the champion already; `fluxline rollback` undoes it."
            )
        registry.set_tags(home, now, {APPROVAL: DECLINED, **promotion.answer_tags(reason, by)})
        return Answered("declined", f"{name} version {number} was declined; the champion stays.")
    if not is_champion and now.tags.get(APPROVAL) != PENDING:
        return Answered("refused", _no_question(home, now))
    expected = now.tags.get("gate.champion", "")
    move = promotion.promote(home, now, "manual", reason, expected, by)
    if move.champion == number:
        return Answered("promoted", move.said)
    return Answered("refused", _moved(home, now))


def request(home: Home, name: str, version: str) -> str:
    """Ask in Prefect for the approval of a version that waits, once, and say where; empty where none is waiting.

    Where no Prefect with the deployment `approve` is reachable, say what to do instead.
    """
    try:
        made = tracking.client(home).get_model_version(name, version)
        if made.tags.get(APPROVAL) != PENDING:
            return ""
        url = _start(name, version, f"approve {name} {version} {made.creation_timestamp}")
        return f"{name} version {version} waits for approval: {url}"
    except Exception as error:  # whatever Prefect or MLflow raises while away
        logging.getLogger("fluxline").info("No approval was asked for in Prefect", exc_info=error)
        return f"{name} version {version} waits for approval: `fluxline promote {name} --version {version}`."


def _start(name: str, version: str, key: str) -> str:
    """Start one run of the deployment for this key; return its page."""
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        run = client.create_flow_run_from_deployment(
            deployment.id,
            parameters={"name": name, "version": version},
            name=f"approve {name} {version}",
            idempotency_key=key,
        )
    page = get_current_settings().ui_url or ""
    return f"{page}/runs/flow-run/{run.id}" if page else f"flow run {run.id}"


def _no_question(home: Home, version: RegisteredVersion) -> str:
    """Why a version does not wait, as a sentence with the cure."""
    name, number, tags = version.name, version.version, version.tags
    if tags.get(APPROVAL) == DECLINED:
        return (
            f"{name} version {number} was declined by {tags.get('approval.by', 'someone')} on "
            f"{tags.get('approval.time', 'some day')[:10]}; to promote it all the same, use `fluxline promote {name} "
            f"--version {number}`."
        )
    if registry.aliases(home, name).get(CHAMPION) == number:
        return f"{name} version {number} is the champion already."
    if tags.get("gate.verdict") == "promote":
        return _moved(home, version)
    verdict = tags.get("gate.verdict") or "nothing"
    return (
        f"{name} version {number} does not wait for approval (the gate said {verdict}); to promote it all the same, "
        f"use `fluxline promote {name} --version {number}`."
    )


def _moved(home: Home, version: RegisteredVersion) -> str:
    name, number = version.name, version.version
    was, now = version.tags.get("gate.champion", ""), registry.aliases(home, name).get(CHAMPION, "")
    moved = f"moved from {_told(was)} to {_told(now)}" if was != now else "moved away and back"
    return (
        f"{name} version {number} was not promoted: the champion {moved} since the gate compared them; run the "
        f"pipeline again to compare it with that one, or use `fluxline promote {name} --version {number}`."
    )


def _told(version: str) -> str:
    return f"version {version}" if version else "none"


def _decision(home: Home, version: RegisteredVersion) -> GateDecision | None:
    """The gate's decision about a version; None where its file cannot be had: the tags hold its reasons."""
    ref = registry.stage_artifact(version, "gate", "decision")
    try:
        if ref is not None:
            return GateDecision.model_validate_json((ArtifactStore(home).path(ref) / FILE).read_text())
    except (ArtifactError, OSError, ValueError) as error:
        logging.getLogger("fluxline").info("The gate's decision cannot be read", exc_info=error)
    return None


def _rules(decision: GateDecision) -> list[str]:
    """The gate's rules as a table of Markdown; those on the LoRA and what was not measured are left to the report."""
    rules = [
        rule for rule in decision.rules if rule.verdict != "unmeasured" and not rule.name.startswith("lora/")
    ]
    rows = [
        [rule_words(decision, rule.name), plain_words(rule.found), plain_words(rule.asked), rule.verdict]
        for rule in rules[:_MOST_RULES]
    ]
    return (
        ["| rule | found | asked | |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
        if rows
        else []
    )


def _url(home: Home, name: str, version: str) -> str:
    return tracking.version_url(home, name, version) if version else ""
