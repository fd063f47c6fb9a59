"""The gate: does the challenger take the champion's place?

    promote       shown better on the one primary metric, and every other rule kept
    reject        shown worse on the primary, or another rule shown to be broken
    inconclusive  no evidence either way, or a rule that cannot be shown to be kept
    incomparable  the two were measured differently; the fields are named

The primary is `all_correct` at each side's headline point where there is a judge, else `retrieval`. "Shown" means that
the exact one-sided sign-flip test over prompts is at most this look's part of the sequential budget (budget.py), and
that the difference is at least `min_effect`: trainings with other seeds differ more than prompts do, and no test over
prompts knows that. The rule on the primary is its own mirror image: what promotes A over B rejects B against A.

The other rules and their thresholds are in rules.py. While nothing is decided, both models are asked for the same
prompts with further noise (duel.py), and those rows count as well. Without a champion only the thresholds are asked.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.errors import IncomparableError, InputError

from .compare import FURTHER, Difference, Side, compare_evaluations, read_side
from .gate_settings import GateSettings
from .rules import (
    GUARDED,
    PRIMARIES,
    Rule,
    budget_rule,
    coverage_rule,
    groups_rule,
    guard,
    is_shown,
    is_shown_worse,
    latency_rule,
    leakage_rules,
    margin_rule,
    missed,
    primary_rule,
    threshold_rules,
    unmeasured_guards,
)
from .statistics import Z95
from .wording import borne, interval_of, signed, told

Verdict = Literal["promote", "reject", "inconclusive", "incomparable"]
FILE = "decision.json"
DRAWN = "duel.json"
CURABLE = (
    "dataset", "reference", "feature_extractor", "judge", "text_image", "prompts", "seeds", "n", "dtype", "code",
)  # fmt: skip
"""Fields of an identity that follow the data, the evaluators and the code: evaluating again makes them alike."""
OVER_IMAGES = ("primary", "attr_acc", "clip", "contrast", "groups")
"""Rules that further noise can settle; the others look at sets drawn once."""
_STAYS = "The champion stays; to replace it by hand, use `fluxline promote`."


class Champion(BaseModel):
    """The version that a challenger was compared with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str


class GateDecision(BaseModel):
    """What `decision.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="", description="Registered model it is about.")
    evaluation: str = Field(default="", description="Digest of the challenger's evaluation.")
    verdict: Verdict
    reasons: list[str] = Field(description="Plain sentences.")
    rules: list[Rule] = Field(
        default=[], description="Every rule: what it asked, what it found, its verdict."
    )
    primary: Difference | None = Field(default=None, description="None where there was nothing to compare.")
    guards: list[Difference] = []
    champion: Champion | None = None
    differing: list[str] = Field(default=[], description="Fields of the identity that made it incomparable.")
    look: int = Field(default=1, description="Look of the sequential budget that decided.")
    num_seeds: int = Field(default=1, description="Noise seeds a prompt that were compared.")
    gates_spent: int = Field(default=0, description="Gates of this model in the 365 days before.")
    reevaluated: str = Field(
        default="", description="Digest of the champion's evaluation made for this gate."
    )
    approval: Literal["", "pending"] = Field(default="", description="Whether it waits for a person.")
    settings: GateSettings


def decide(
    challenger: Path,
    champion: Path | None,
    settings: GateSettings,
    who: Champion | None = None,
    further: Path | None = None,
    gates_spent: int = 0,
) -> GateDecision:
    """Return the verdict on the challenger's evaluation directory against the champion's.

    Args:
        challenger: directory of its evaluation.
        champion: directory of the champion's; None where there is no champion yet.
        settings: what each rule asks.
        who: the champion's name and version, for the record.
        further: what a duel of the two left (duel.py).
        gates_spent: gates of this model in the 365 days before.

    Raises:
        InputError: a directory holds no whole evaluation.
    """
    side = read_side(challenger)
    thresholds = threshold_rules(side.metrics, settings.thresholds)
    leakage = leakage_rules(side.document.get("leakage"), settings)
    if champion is None:
        return _first([*leakage, *thresholds], settings)
    drawn = read_drawn(further)
    has_rows = further is not None and (further / FURTHER["challenger"]).exists()
    try:
        rows = compare_evaluations(challenger, champion, further if has_rows else None)
    except IncomparableError as error:
        return incomparable(str(error), settings, who, error.fields)
    name = next((name for name in PRIMARIES if name in rows), "")
    if not name:
        said = "Neither all_correct nor retrieval was measured on both sides, so nothing can be decided."
        return incomparable(said, settings, who, is_fixed=True)
    guards = [guard(row, settings) for each, row in rows.items() if _is_guarded(each, name)]
    rules = [
        primary_rule(rows[name], settings, drawn["look"], gates_spent),
        budget_rule(settings, gates_spent),
        *map(margin_rule, guards),
        *unmeasured_guards(rows, name),
        *_rules_of_sides(side, read_side(champion), rows, drawn["latency"], settings),
        *leakage,
        *thresholds,
    ]
    verdict, reasons = _verdict(rows[name], guards, rules, settings, drawn["look"])
    reasons += [missed(rule) for rule in thresholds if rule.verdict == "open"]
    return GateDecision(
        verdict=verdict, reasons=[*reasons, *drawn["said"]], rules=rules, primary=rows[name], guards=guards,
        champion=who, look=drawn["look"], num_seeds=drawn["num_seeds"], gates_spent=gates_spent, settings=settings,
    )  # fmt: skip


def incomparable(
    said: str,
    settings: GateSettings,
    who: Champion | None,
    fields: Sequence[str] = (),
    is_fixed: bool = False,
) -> GateDecision:
    """Return the decision that nothing can be decided; `is_fixed` where evaluating again would not help."""
    reasons = [said] if is_fixed else [said, _STAYS]
    return GateDecision(
        verdict="incomparable", reasons=reasons, champion=who, differing=list(fields), settings=settings
    )


def headline(decision: GateDecision) -> str:
    """Return the decision in one line."""
    against = f" against version {decision.champion.version}" if decision.champion else ""
    row = decision.primary
    if row is None:
        return f"{decision.verdict}: {decision.reasons[0]}"
    return f"{decision.verdict}: {row.name} {signed(row.name, row.difference)} {interval_of(row)}{against}"


def read_drawn(further: Path | None) -> dict[str, Any]:
    """Return what a duel says of itself: `look`, `num_seeds`, `latency` (None where not timed), `said`.

    Raises:
        InputError: the directory holds no duel.
    """
    found: dict[str, Any] = {"look": 1, "num_seeds": 1, "latency": None, "said": []}
    if further is None:
        return found
    try:
        return found | json.loads((further / DRAWN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{further / DRAWN} cannot be read; run the gate again.") from error


def needs_more_noise(decision: GateDecision) -> bool:
    """Return whether further noise may settle it: a rule over images is open, and there are looks left to take.

    A primary shown better is tested again at each further look, so its budget is the same whatever else is open.
    """
    found = {rule.name: rule.verdict for rule in decision.rules}
    if decision.verdict != "inconclusive" or "open" not in {found.get(name) for name in OVER_IMAGES}:
        return False
    is_spent = decision.gates_spent >= decision.settings.gates_per_year
    return decision.look < len(decision.settings.budget.rounds) and not is_spent


def needs_timing(decision: GateDecision, challenger: Path, champion: Path) -> bool:
    """Return whether the two have to be timed in turn: before a promotion, or where the stored times speak against."""
    found = {rule.name: rule.verdict for rule in decision.rules}
    both = [read_side(each).metrics.get("latency_ms") for each in (challenger, champion)]
    if decision.settings.latency_ratio == 0 or "latency" not in found or None in both:
        return False
    return decision.verdict == "promote" or (
        decision.verdict == "inconclusive" and found["latency"] == "unmeasured"
    )


def pairs_needed(row: Difference, least: float, alpha: float = 0.025) -> int:
    """Return how many pairs would show the observed difference (at least `least`) at one-sided alpha; 0: unknown."""
    target = max(abs(row.difference), least)
    if not target or not math.isfinite(row.half_width):
        return 0
    wider = NormalDist().inv_cdf(1 - alpha) / Z95
    return math.ceil(row.n * (wider * row.half_width / target) ** 2)


def _is_guarded(name: str, primary: str) -> bool:
    return name != primary and (name in GUARDED or name.startswith("lora/"))


def _rules_of_sides(
    new: Side,
    old: Side,
    rows: Mapping[str, Difference],
    timed: Mapping[str, Any] | None,
    settings: GateSettings,
) -> list[Rule]:
    one, other = new.metrics, old.metrics
    return [
        coverage_rule(one.get("coverage"), other.get("coverage"), settings),
        groups_rule(rows, settings),
        latency_rule(one.get("latency_ms"), other.get("latency_ms"), timed, settings),
    ]


def _verdict(
    row: Difference, guards: list[Difference], rules: list[Rule], settings: GateSettings, look: int
) -> tuple[Verdict, list[str]]:
    primary, others = rules[0], rules[1:]
    words = {each.name: told(each) + f", margin {borne(each.name, each.margin or 0)}" for each in guards}
    worse = {each.name for each in guards if is_shown_worse(each)}
    if any(rule.verdict == "broken" for rule in rules):
        reasons = [missed(rule) for rule in others if _is_threshold(rule) and rule.verdict == "broken"]
        if primary.verdict == "broken":
            reasons.append(f"Shown worse on the primary metric: {primary.found}.")
        reasons += [f"{words[name]}: shown worse than its margin." for name in words if name in worse]
        broken = [rule for rule in others if rule.verdict == "broken" and rule.name not in words]
        reasons += [
            f"{rule.name}: {rule.found}; asked: {rule.asked}; shown to break it."
            for rule in broken
            if not _is_threshold(rule)
        ]
        return "reject", reasons
    unsure = [
        f"{words[each.name]}: not shown to keep within its margin." for each in guards if not each.passed
    ]
    unsure += [
        f"{rule.name}: {rule.found}; asked: {rule.asked}."
        for rule in others
        if rule.verdict == "open" and rule.name not in words and not _is_threshold(rule)
    ]
    if primary.verdict == "kept" and not unsure:
        names = [each.name for each in guards]
        return "promote", [
            f"Shown better on the primary metric: {primary.found}.",
            *([f"Within their margins: {', '.join(names)}."] if names else []),
            "The test covers prompts and noise; another training seed may move the number by more.",
        ]
    if is_shown(row, settings, 1, settings.budget.alpha(look)):
        return "inconclusive", [f"Better on the primary metric: {primary.found}.", *unsure]
    return "inconclusive", [f"No evidence either way: {primary.found}.", _needed(row, settings), *unsure]


def _needed(row: Difference, settings: GateSettings) -> str:
    budget = settings.budget
    pairs = pairs_needed(row, settings.min_effect, budget.alpha(len(budget.rounds)))
    if not pairs:
        return "Not one image differs, so nothing tells how many pairs would settle it."
    if abs(row.difference) >= settings.min_effect:
        return f"To resolve a difference of this size would take about {pairs} pairs."
    least = f"{100 * settings.min_effect:g} points"
    return f"The difference is below the least that counts, {least}; to resolve that would take about {pairs} pairs."


def _first(rules: list[Rule], settings: GateSettings) -> GateDecision:
    """Without a champion thresholds and leakage decide: clearly missed or clearly met, else inconclusive."""
    judged = [rule for rule in rules if rule.verdict != "unmeasured"]
    asked = f"meets the {len(judged)} thresholds asked" if judged else "has no threshold to meet"
    unmet = [rule for rule in judged if rule.verdict != "kept"]
    verdict: Verdict = "promote"
    if unmet:
        verdict = "reject" if any(rule.verdict == "broken" for rule in unmet) else "inconclusive"
    reasons = ["There is no champion yet.", *(map(_unmet, unmet) if unmet else [f"The model {asked}."])]
    return GateDecision(verdict=verdict, reasons=reasons, rules=rules, settings=settings)


def _unmet(rule: Rule) -> str:
    return missed(rule) if _is_threshold(rule) else f"{rule.name}: {rule.found}; asked: {rule.asked}."


def _is_threshold(rule: Rule) -> bool:
    return rule.name.startswith("threshold ")
