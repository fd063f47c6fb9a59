"""The report's chapter on the gate: the verdict, why, every number it weighed and every rule it asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .compare import Difference
from .gate import GateDecision
from .page import note, section, table
from .rules_table import rules_table
from .versus_words import metric_words, plain_words
from .wording import borne, in_words

TITLE = "The verdict"
WORDS = {
    "promote": "Promote",
    "reject": "Reject",
    "inconclusive": "Inconclusive",
    "incomparable": "Incomparable",
}
_WIDTH, _HEIGHT, _GOOD, _BAD, _SOFT, _INK = 176, 24, "#2f7d4f", "#b23a2e", "#b7bec4", "#22262a"


def verdict(decision: Mapping[str, Any] | None, registration: Mapping[str, Any] | None = None) -> str:
    """The chapter; nothing where no gate stood."""
    if not decision:
        return ""
    made = GateDecision.model_validate(dict(decision))
    against = (
        f"Compared with {escape(made.champion.name)} version {escape(made.champion.version)}, the champion, on the "
        "same prompts and noise."
        if made.champion
        else "There was no champion to compare with."
    )
    return section(
        "verdict",
        "gate",
        TITLE,
        note(against),
        banner(made),
        _numbers(made),
        rules_table(made, "The other rules it asked", [guard.name for guard in made.guards]),
        note(registered(registration)),
    )


def banner(made: GateDecision) -> str:
    """The verdict in large print with its reasons."""
    reasons = "".join(f"<li>{escape(plain_words(reason))}</li>" for reason in made.reasons)
    return f'<div class="verdict {made.verdict}"><b>{WORDS[made.verdict]}</b><ul>{reasons}</ul></div>'


def registered(registration: Mapping[str, Any] | None) -> str:
    """`Registered as NAME version 3, aliases challenger and champion.`; empty without a registration."""
    if not registration or not registration.get("version"):
        return ""
    text = f"Registered as {registration['name']} version {registration['version']}"
    aliases = registration.get("aliases", [])
    if aliases:
        text += f", alias{'es' if len(aliases) > 1 else ''} {' and '.join(aliases)}"
    return escape(f"{text}.")


def _numbers(made: GateDecision) -> str:
    """The primary number and the guards: values, difference, its interval drawn, margin and whether it is kept."""
    rows = [_row(made.primary, "primary")] if made.primary else []
    rows += [_row(guard, "") for guard in made.guards]
    if not rows:
        return ""
    said = note(
        "A positive difference means that this model is better. The bar is the 95 % interval of the difference; the "
        "vertical line is no difference, the dashed one the loss that is borne."
    )
    head = ["", "this model", "champion", "difference", "", "margin"]
    return f"<h3>The numbers it weighed</h3>{table(head, rows, 0 if made.primary else None)}{said}"


def _row(row: Difference, role: str) -> list[str]:
    challenger, champion, difference, interval = (escape(each) for each in in_words(row))
    margin = ""
    if row.margin is not None:
        kept = ("kept", "pass") if row.passed else ("not shown", "miss")
        margin = f'{borne(row.name, row.margin)}<span class="ci {kept[1]}">{kept[0]}</span>'
    words, where = metric_words(row.name)
    small = ", ".join(filter(None, (role, where)))
    name = f"{escape(words)}{f'<span class=ci>{escape(small)}</span>' if small else ''}"
    return [
        name,
        challenger,
        champion,
        f'{difference}<span class="ci">{interval}</span>',
        drawn_interval(row),
        margin,
    ]


def drawn_interval(row: Difference, is_shown: bool = True) -> str:
    """The interval on an axis of its own with no difference in the middle; grey where nothing is shown."""
    ends = [end for end in (row.ci_low, row.ci_high) if end is not None]
    reach = 1.15 * max(map(abs, _finite([row.difference, row.margin, *ends])), default=0.0) or 1.0
    middle = _HEIGHT / 2

    def at(value: float) -> float:
        return _WIDTH / 2 * (1 + value / reach)

    color = _GOOD if is_shown and row.ci_low is not None and row.ci_low > 0 else _SOFT
    if is_shown and row.ci_high is not None and row.ci_high < 0:
        color = _BAD
    parts = [_line(at(0), 1, _SOFT)]
    if row.margin is not None:
        parts.append(_line(at(-row.margin), 1.5, _INK, ' stroke-dasharray="3 3"'))
    if len(ends) == 2:
        parts.append(
            f'<rect x="{at(ends[0]):.1f}" y="{middle - 3}" width="{max(at(ends[1]) - at(ends[0]), 1):.1f}" '
            f'height="6" rx="3" fill="{color}"/>'
        )
    parts.append(f'<circle cx="{at(row.difference):.1f}" cy="{middle}" r="4" fill="{_INK}"/>')
    alt = escape(f"{row.name}: difference {' '.join(in_words(row)[2:])}", quote=True)
    return f'<svg role="img" aria-label="{alt}" viewBox="0 0 {_WIDTH} {_HEIGHT}">{"".join(parts)}</svg>'


def _finite(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _line(x: float, width: float, color: str, more: str = "") -> str:
    return f'<path d="M{x:.1f} 1V{_HEIGHT - 1}" stroke="{color}" stroke-width="{width}"{more}/>'
