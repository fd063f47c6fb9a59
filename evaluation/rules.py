"""The gate's rules: what each asks, what it found, and whether that keeps it.

A promotion is an intersection of rules: the primary must be shown better, every other rule kept. So only the primary
spends the sequential budget (budget.py), and each rule more can only make a promotion rarer. `broken` means shown: the
whole interval lies beyond what is asked; `open` that it does so by its value alone, or cannot be shown not to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import NormalDist
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .compare import Difference
from .gate_settings import GateSettings
from .identity import Measurement
from .statistics import Z95, holm
from .wording import borne, interval_of, number, signed, told

Finding = Literal["kept", "open", "broken", "unmeasured"]
PRIMARIES = ("all_correct", "retrieval")
GUARDED = ("attr_acc", "held_out/all_correct", "clip", "fd", "memorised", "contrast")
BY_VALUE = ("fd", "contrast")
"""Guarded numbers judged by their value, although paired: broken where the whole interval lies beyond the margin."""
HOLM_ALPHA = 0.05


class Rule(BaseModel):
    """One rule as it was applied."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    asked: str = Field(description="What it asks, with its threshold.")
    found: str = Field(description="What was found, in numbers.")
    verdict: Finding


def primary_rule(row: Difference, settings: GateSettings, look: int, gates_spent: int) -> Rule:
    """Better on the primary: shown by the exact test at this look's part of the budget, and by enough.

    It is its own mirror image: what keeps it for A against B breaks it for B against A.
    """
    budget = settings.budget
    alpha = budget.alpha(look)
    finding: Finding = "open"
    if is_shown(row, settings, 1, alpha):
        finding = "kept"
    elif is_shown(row, settings, -1, alpha):
        finding = "broken"
    asked = (
        f"{row.name} better by at least {borne(row.name, settings.min_effect)}, exact one-sided p at most {alpha:.2g} "
        f"(look {look} of {len(budget.rounds)})"
    )
    p = row.p_worse if row.difference < 0 else row.p_better
    found = f"{told(row)}, {row.n} pairs, p = {1.0 if p is None else p:.2g}"
    if finding == "kept" and gates_spent >= budget.gates_per_year:
        finding = "open"
    return Rule(name="primary", asked=asked, found=found, verdict=finding)


def is_shown(row: Difference, settings: GateSettings, sign: int, alpha: float) -> bool:
    """Return whether the primary is shown better (sign 1) or worse (sign -1)."""
    p = row.p_better if sign > 0 else row.p_worse
    return p is not None and p <= alpha and sign * row.difference >= settings.min_effect - 1e-12


def budget_rule(settings: GateSettings, gates_spent: int) -> Rule:
    """No more gates a year than share the budget."""
    most = settings.gates_per_year
    return Rule(
        name="budget",
        asked=f"at most {most} gates of a model in 365 days, {settings.yearly_alpha:g} a year for a false promotion",
        found=f"{gates_spent} before this one",
        verdict="kept" if gates_spent < most else "open",
    )


def guard(row: Difference, settings: GateSettings) -> Difference:
    """Return a guarded number with its margin, and whether it keeps within it.

    Where image by image, it must be shown to; elsewhere the value counts, the interval being too wide for what is
    asked. So it is with two figures without pairs; with the Frechet distance, whose paired interval at n = 1000 left
    the demo's model within +50 % of itself in 11 of 18 pairs of noise; and with contrast (+-2.6 % between two noises).
    """
    margin = settings.margin(row.name, row.champion)
    least = row.ci_low if row.paired and row.name not in BY_VALUE else row.difference
    return row.model_copy(update={"margin": margin, "passed": least is not None and least >= -margin})


def is_shown_worse(row: Difference) -> bool:
    """Return whether a guarded number lies beyond its margin with its whole interval."""
    return row.ci_high is not None and row.margin is not None and row.ci_high < -row.margin


def margin_rule(row: Difference) -> Rule:
    """Loses no more than its margin."""
    assert row.margin is not None
    finding: Finding = "broken" if is_shown_worse(row) else "kept" if row.passed else "open"
    how = "shown to lose" if row.paired and row.name not in BY_VALUE else "loses"
    asked = f"{how} at most {borne(row.name, row.margin)}"
    return Rule(name=row.name, asked=asked, found=told(row), verdict=finding)


def coverage_rule(new: Measurement | None, old: Measurement | None, settings: GateSettings) -> Rule:
    """Covers the reference at least half as well as the champion: a collapsed model draws few things, and well."""
    ratio = settings.coverage_ratio
    asked = f"at least {ratio:g} of the champion's coverage"
    mine, theirs = _value(new), _value(old)
    if ratio == 0 or mine is None or theirs is None:
        return _unmeasured("coverage", asked)
    excess = mine - ratio * theirs
    half = math.hypot(_half(new), ratio * _half(old))
    finding: Finding = "kept" if excess >= 0 else "broken" if excess + half < 0 else "open"
    found = f"{number('coverage', theirs)} -> {number('coverage', mine)}"
    return Rule(name="coverage", asked=asked, found=found, verdict=finding)


def groups_rule(rows: Mapping[str, Difference], settings: GateSettings) -> Rule:
    """No group pays for the rest; shown so by Holm's procedure over all groups."""
    margin = settings.group_margin
    asked = f"no group worse by more than {borne('group', margin)}"
    groups = [row for name, row in rows.items() if name.startswith("group/")]
    if not groups:
        return _unmeasured("groups", asked)
    adjusted = holm([p_beyond(row, margin) for row in groups])
    worst = min(groups, key=lambda row: row.difference)
    shown = [row for row, p in zip(groups, adjusted, strict=True) if p <= HOLM_ALPHA]
    beyond = [row for row in groups if row.difference < -margin]
    finding: Finding = "broken" if shown else "open" if beyond else "kept"
    named = sorted(shown or beyond, key=lambda row: row.difference)[:3] or [worst]
    said = ", ".join(
        f"{_group_name(row)} {signed(row.name, row.difference)} {interval_of(row)}" for row in named
    )
    found = f"{said} the worst of {len(groups)} groups" if not beyond else f"{said} of {len(groups)} groups"
    return Rule(name="groups", asked=asked, found=found, verdict=finding)


def p_beyond(row: Difference, margin: float) -> float:
    """Return a one-sided p of "worse by no more than the margin".

    The normal one by the interval's deviation, and never below the exact p of "not worse at all": a group of five
    images has no deviation worth the name, but its sign-flip p is at least 1/32.
    """
    assert row.p_worse is not None
    deviation = row.half_width / Z95
    if not math.isfinite(deviation):
        return 1.0
    beyond = row.difference + margin
    if deviation == 0:
        return row.p_worse if beyond < 0 else 1.0
    return max(row.p_worse, NormalDist().cdf(beyond / deviation))


def latency_rule(
    new: Measurement | None, old: Measurement | None, timed: Mapping[str, Any] | None, settings: GateSettings
) -> Rule:
    """At most 1.1 times the champion's time an image, against anybody only where both were timed in turn.

    Two stored latencies come from different hours of a machine: they may speak for a model, never against it.
    """
    limit = settings.latency_ratio
    asked = f"at most {limit:g} of the champion's time an image, timed in turn in one process"
    if limit == 0:
        return _unmeasured("latency", asked)
    if timed:
        ratio, low, high = timed["ratio"], timed["ci_low"], timed["ci_high"]
        finding: Finding = "kept" if ratio <= limit else "broken" if low > limit else "open"
        found = (
            f"{timed['champion_ms']:.1f} -> {timed['challenger_ms']:.1f} ms in turn, ratio {ratio:.2f} "
            f"[{low:.2f}, {high:.2f}]"
        )
        return Rule(name="latency", asked=asked, found=found, verdict=finding)
    ratio = stored_latency_ratio(new, old)
    if ratio is None:
        return _unmeasured("latency", asked)
    found = f"{_value(old):.1f} -> {_value(new):.1f} ms, ratio {ratio:.2f}, timed at different hours"
    return Rule(name="latency", asked=asked, found=found, verdict="kept" if ratio <= limit else "unmeasured")


def stored_latency_ratio(new: Measurement | None, old: Measurement | None) -> float | None:
    """Return the challenger's time an image by the champion's as their evaluations have it; None without."""
    mine, theirs = _value(new), _value(old)
    return mine / theirs if mine is not None and theirs else None


def threshold_rules(metrics: Mapping[str, Measurement], thresholds: Mapping[str, float]) -> list[Rule]:
    """Values asked of the model itself, champion or not; what was not measured stops nothing: a folder has no judge."""
    rules = []
    for name, least in thresholds.items():
        measured = metrics.get(name)
        if measured is None or measured.value is None:
            rules.append(
                Rule(
                    name=f"threshold {name}", asked=f"{least:.4g}", found="not measured", verdict="unmeasured"
                )
            )
            continue
        is_lower = measured.direction == "lower"
        sign, best = (-1, measured.ci_low) if is_lower else (1, measured.ci_high)
        finding: Finding = "kept"
        if sign * (measured.value - least) < 0:
            is_clear = best is not None and sign * (best - least) < 0
            finding = "broken" if is_clear else "open"
        asked = f"{name} {'at most' if is_lower else 'at least'} {least:.4g}"
        interval = ""
        if measured.ci_low is not None and measured.ci_high is not None:
            interval = f" [{measured.ci_low:.4g}, {measured.ci_high:.4g}]"
        found = f"{measured.value:.4g}{interval}"
        rules.append(Rule(name=f"threshold {name}", asked=asked, found=found, verdict=finding))
    return rules


def leakage_rules(found: Mapping[str, Any] | None, settings: GateSettings) -> list[Rule]:
    """No more of the evaluation with a near twin in training than asked; where asked, an unmeasured one is open."""
    most = settings.max_leakage
    if most >= 1:
        return []
    asked = f"at most {most:.2%} of evaluation images and prompts with a near twin in training"
    if not found:
        return [Rule(name="leakage", asked=asked, found="not measured; evaluate again", verdict="open")]
    images = f"{found['same_pixels'] + found['near_images']} of {found['num_images']} images"
    captions = f"{found['same_captions'] + found['near_captions']} of {found['num_prompts']} prompts"
    if found["is_procedural"]:
        captions += " (a grammar's, not counted)"
    said = f"{found['share']:.2%}: {images}, {captions}"
    finding: Finding = "broken" if found["share"] > most else "open" if found["unchecked"] else "kept"
    if finding == "open":
        said += f", and {found['unchecked']} candidates not looked at"
    return [Rule(name="leakage", asked=asked, found=said, verdict=finding)]


def missed(rule: Rule) -> str:
    """Return a missed threshold as a sentence."""
    how = "with its whole interval" if rule.verdict == "broken" else "by less than its interval"
    return f"{rule.name.removeprefix('threshold ')} is {rule.found}, asked {rule.asked.split(' ', 1)[1]}: missed {how}."


def unmeasured_guards(rows: Iterable[str], primary: str) -> list[Rule]:
    """The guarded numbers that one side lacks; they stop nothing."""
    known = set(rows)
    return [
        _unmeasured(name, "loses at most its margin")
        for name in GUARDED
        if name not in known and name != primary
    ]


def _unmeasured(name: str, asked: str) -> Rule:
    return Rule(name=name, asked=asked, found="not measured on both sides", verdict="unmeasured")


def _group_name(row: Difference) -> str:
    return row.name.removeprefix("group/").replace("_", " ")


def _value(measured: Measurement | None) -> float | None:
    return None if measured is None else measured.value


def _half(measured: Measurement | None) -> float:
    if measured is None or measured.ci_low is None or measured.ci_high is None:
        return math.inf
    return (measured.ci_high - measured.ci_low) / 2
