"""The gate's rules as a table, for the report and for a comparison: what is not kept first, in plain words."""

from __future__ import annotations

from collections.abc import Collection
from html import escape

from .gate import GateDecision
from .page import note, table
from .rules import Rule
from .versus_words import count_words, metric_words, plain_words

_FINDINGS = {"broken": "miss", "open": "", "kept": "pass"}


def rules_table(decision: GateDecision, title: str, told_above: Collection[str] = ()) -> str:
    """Return what the gate asked and found, rule by rule; kept rules on the LoRA are counted.

    Args:
        decision: the gate's.
        title: of the table.
        told_above: rules that stand elsewhere on the page, by name.
    """
    rules = [rule for rule in decision.rules if rule.name not in told_above]
    asked = [rule for rule in rules if rule.verdict != "unmeasured"]
    told = [rule for rule in asked if rule.verdict != "kept" or not rule.name.startswith("lora/")]
    rows = [
        _row(decision, rule) for rule in sorted(told, key=lambda rule: list(_FINDINGS).index(rule.verdict))
    ]
    if not rows:
        return ""
    notes = []
    if len(told) < len(asked):
        notes.append(f"Kept, too: {count_words(len(asked) - len(told), 'rule')} on the LoRA.")
    if missing := [rule_words(decision, rule.name) for rule in rules if rule.verdict == "unmeasured"]:
        notes.append(f"Not asked, as not measured on both sides: {', '.join(missing)}.")
    more = note(escape(" ".join(notes))) if notes else ""
    return f"<h3>{escape(title)}</h3>{table(['rule', '', 'found'], rows, worded=True)}{more}"


def _row(decision: GateDecision, rule: Rule) -> list[str]:
    found = plain_words(rule.found.removeprefix(f"{rule.name} "))
    asked = f'<span class="ci">{escape(f"asked: {plain_words(rule.asked)}")}</span>'
    return [
        escape(rule_words(decision, rule.name)),
        f'<span class="{_FINDINGS[rule.verdict]}">{escape(rule.verdict)}</span>',
        f'<span class="said">{escape(found)}{asked}</span>',
    ]


def rule_words(decision: GateDecision, name: str) -> str:
    """Return what a rule is called; one named after a number by what that number is called."""
    if name == "primary" and decision.primary is not None:
        return f"primary: {metric_words(decision.primary.name)[0]}"
    words, where = metric_words(name.removeprefix("threshold "))
    asked = ", least asked" if name.startswith("threshold ") else ""
    return f"{words}{f', {where}' if where else ''}{asked}"
