"""The page that compares two versions, told in order: verdict, what changed, numbers, curves, images, groups."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from .charts import measured_metrics, panel_svg
from .compare import Side
from .gate import GateDecision, Verdict
from .page import box, boxes, contents, note, page, section, table
from .report_gate import banner, drawn_interval
from .rules_table import rule_words, rules_table
from .versus_changes import VersionAccount
from .versus_numbers import NumberRow, block_of
from .versus_page_changes import changes_chapter, changes_in_a_sentence
from .versus_page_images import groups, images, short_label, small
from .versus_words import (
    difference_words,
    interval_words,
    metric_words,
    p_words,
    plain_words,
    span_words,
    value_words,
)

if TYPE_CHECKING:
    from .versus import Comparison

VERDICTS: Mapping[Verdict, str] = {
    "promote": "Would be promoted",
    "reject": "Would be rejected",
    "inconclusive": "No evidence either way",
    "incomparable": "Not comparable",
}
_MARKS = {
    "better": '<span class="pass">better</span>',
    "worse": '<span class="miss">worse</span>',
    "unclear": "no evidence",
    "same": "the same",
    "none": "no test",
}
_BLOCKS = {"detailed": "prompts in full", "lora": "the LoRA"}


def comparison_page(found: Comparison, sides: tuple[Side, Side] | None) -> str:
    """The whole document; `sides` are the new and the old evaluation, None where they must not be compared."""
    chapters = [_verdict(found), changes_chapter(found)]
    if sides is not None:
        chapters += [_numbers(found), _curves(found, sides), *images(found, sides), groups(found)]
    chapters.append(_where(found))
    chapters = [each for each in chapters if each]
    body = [_opening(found), contents(chapters), *chapters]
    return page(found.title, "\n".join(body))


def _opening(found: Comparison) -> str:
    decision, boxed = found.decision, []
    boxed.append(
        box("As challenger", VERDICTS[decision.verdict], [escape(_first_reason(decision))], wide=True)
    )
    if decision.primary is not None:
        row = decision.primary
        words, _ = metric_words(row.name)
        values = f"{value_words(row.name, row.champion)} → {value_words(row.name, row.challenger)}"
        boxed.append(
            box(words.capitalize(), difference_words(row), [escape(values), escape(interval_words(row))])
        )
    if found.outcomes is not None:
        won = found.outcomes
        lines = [
            f"by {escape(short_label(found.old))} alone: {won.only_old:,}",
            f"of {len(found.pairs):,} prompts",
        ]
        boxed.append(box(f"Right by {short_label(found.new)} alone", f"{won.only_new:,}", lines))
    top = '<p class="eyebrow">Fluxline comparison</p>'
    lead = escape(changes_in_a_sentence(found))
    return f'{top}<h1>{escape(found.title)}</h1><p class="lead">{lead}</p>{boxes(boxed)}'


def _first_reason(decision: GateDecision) -> str:
    """The first reason that says more than the verdict, cut at a word where it is long."""
    reasons = [plain_words(each).split(": ", 1)[-1] for each in decision.reasons[:1]]
    if decision.verdict == "incomparable" and decision.differing:
        reasons = [f"They differ in {', '.join(decision.differing)}."]
    reason = "".join(reasons)
    return reason if len(reason) <= 140 else f"{reason[:139].rsplit(' ', 1)[0]} …"


def _verdict(found: Comparison) -> str:
    decision = found.decision
    if decision.verdict == "incomparable":
        said = "The two were measured differently, so no number of the one says anything about the other."
        decision = decision.model_copy(update={"reasons": decision.reasons[:1]})
        if "dataset" in decision.differing:
            said += (
                " Each was judged on prompts of its own data. A gate evaluates the champion again on its challenger's "
                "terms, and a comparison with that champion uses it."
            )
    else:
        said = (
            f"What the gate says of {found.new.label} as challenger of {found.old.label}, on the same prompts and "
            "noise. It promotes only what is shown better and no worse elsewhere."
        )
    said = f"{said} {found.note[:1].upper()}{found.note[1:]}".strip()
    return section(
        "verdict",
        "gate",
        "The verdict",
        note(escape(said)),
        banner(decision),
        rules_table(decision, "Every rule it asks"),
    )


def _numbers(found: Comparison) -> str:
    said = (
        "A positive difference is better for the new version, whichever way the number goes. Images are paired by "
        "prompt and noise; “better” and “worse” need a two-sided p ≤ 0.05 after Holm's correction for the rows of a "
        "block, and an interval without zero."
    )
    main = [each for each in found.numbers if block_of(each.row.name) in ("", "held_out")]
    rest = [each for each in found.numbers if each not in main]
    further = ""
    if rest:
        blocks = dict.fromkeys(block_of(each.row.name) for each in rest)
        which = " and ".join(_BLOCKS.get(each, each) for each in blocks)
        further = f"<details><summary>{len(rest)} more: {escape(which)}</summary>{_number_table(found, rest)}</details>"
    left_out = ", ".join(rule_words(found.decision, name) for name in found.unlike)
    more = note(f"Measured differently, so left out: {escape(left_out)}.") if left_out else ""
    return section(
        "numbers", "evaluate", "The numbers", note(said), _number_table(found, main), further, more
    )


def _number_table(found: Comparison, numbers: Sequence[NumberRow]) -> str:
    rows = []
    for each in numbers:
        row = each.row
        words, where = metric_words(row.name)
        rows.append(
            [
                f"{escape(words)}{small(where)}",
                f"{escape(value_words(row.name, row.champion))}{small(span_words(row.name, each.old_ci))}",
                f"{escape(value_words(row.name, row.challenger))}{small(span_words(row.name, each.new_ci))}",
                f"{difference_words(row)}{small(interval_words(row))}",
                drawn_interval(row, each.mark in ("better", "worse")),
                f"{escape(p_words(row.p_value))}{small(_corrected(each.p_holm))}",
                _MARKS[each.mark],
            ]
        )
    head = ["", found.old.label, found.new.label, "difference", "", "p", ""]
    best = next((i for i, each in enumerate(numbers) if _is_primary(found, each.row.name)), None)
    return table(head, rows, best)


def _is_primary(found: Comparison, name: str) -> bool:
    return found.decision.primary is not None and found.decision.primary.name == name


def _corrected(p_holm: float | None) -> str:
    return "" if p_holm is None else f"Holm {p_words(p_holm)}"


def _curves(found: Comparison, sides: tuple[Side, Side]) -> str:
    new, old = (dict(side.document) for side in sides)
    if not (new.get("curves") and old.get("curves")):
        return ""
    names = [name for name in measured_metrics(new) if name in measured_metrics(old)]
    panels = "".join(f"<div>{panel_svg(new, name, old)}</div>" for name in names)
    if not panels:
        return ""
    line = '<svg viewBox="0 0 44 16" aria-hidden="true"><path d="M1 8H43" stroke="#22262a" stroke-width="{}"{}/></svg>'
    key = "".join(
        f'<span class="key">{drawn}{escape(label)}</span>'
        for drawn, label in (
            (line.format(2.5, ""), found.new.label),
            (line.format(2, ' stroke-dasharray="7 4"'), found.old.label),
        )
    )
    said = note("Quality over the number of solver steps; bands are 95 % intervals of the new version.")
    return section(
        "curves",
        "evaluate",
        "Over the number of steps",
        said,
        f"<p>{key}</p>",
        f'<div class="panels">{panels}</div>',
    )


def _where(found: Comparison) -> str:
    """Links, and what the registry says of both; nothing where neither is a version."""
    items = "".join(_facts(account) for account in (found.old, found.new))
    if not items:
        return ""
    said = "Aliases and the gate's earlier answers are those of the registry when this page was made."
    if not (found.old.url or found.new.url):
        said += " `fluxline up` shows the versions and their runs in MLflow."
    said = re.sub(r"`(.+?)`", r"<code>\1</code>", escape(said))
    return section("where", "evidence", "Where to look further", note(said), f"<dl>{items}</dl>")


def _facts(account: VersionAccount) -> str:
    if not account.version:
        return ""
    said = [f"alias {' and '.join(account.aliases)}"] if account.aliases else []
    said += [f"the gate said {account.verdict}"] if account.verdict else []
    known = escape("; ".join(said) or "no alias")
    if account.url:
        known = f'<a href="{escape(account.url, quote=True)}">in MLflow</a>; {known}'
    runs = ", ".join(
        f'<a href="{escape(stage.url, quote=True)}">{escape(name)}</a>'
        for name, stage in account.stages.items()
        if stage.url
    )
    return f"<dt>{escape(account.label)}</dt><dd>{known}{f'<br>runs: {runs}' if runs else ''}</dd>"
