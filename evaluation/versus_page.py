"""The page that compares two versions, told in order: verdict, what changed, numbers, curves, images, groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from .charts import measured_metrics, panel_svg
from .compare import Side
from .gate import GateDecision, Verdict
from .page import box, boxes, contents, note, page, picture, section, table
from .report_gate import banner, drawn_interval
from .rules import Rule
from .versus_changes import VersionAccount
from .versus_numbers import NumberRow, block_of
from .versus_page_changes import changes_chapter, changes_in_a_sentence
from .versus_prompts import GroupRow, Outcomes, Pair, headline_pngs
from .versus_words import (
    count_words,
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

NUM_PAIRS = 24
NUM_WON = 12
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
_FINDINGS = {"broken": "miss", "open": "", "kept": "pass"}
_BLOCKS = {"detailed": "prompts in full", "lora": "the LoRA"}
_KINDS = {"color": "Colour asked for", "shape": "Shape asked for", "objects": "Number of objects"}


def comparison_page(found: Comparison, sides: tuple[Side, Side] | None) -> str:
    """The whole document; `sides` are the new and the old evaluation, None where they must not be compared."""
    chapters = [_verdict(found), changes_chapter(found)]
    if sides is not None:
        chapters += [_numbers(found), _curves(found, sides), *_images(found, sides), _groups(found)]
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
            f"only {escape(found.old.label)}: {won.only_old:,}",
            f"of {len(found.pairs):,} alike prompts",
        ]
        boxed.append(box(f"Right only with {found.new.label}", f"{won.only_new:,}", lines))
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
    plain = decision.model_copy(update={"reasons": [plain_words(each) for each in decision.reasons]})
    return section("verdict", "gate", "The verdict", note(escape(said)), banner(plain), _rules(found))


def _rules(found: Comparison) -> str:
    """What the gate asks and found: what is not kept first, and each kept rule but the LoRA's, which are counted."""
    asked = [rule for rule in found.decision.rules if rule.verdict != "unmeasured"]
    told = [rule for rule in asked if rule.verdict != "kept" or block_of(rule.name) != "lora"]
    rows = [
        [
            escape(_rule_words(rule.name)),
            f'<span class="{_FINDINGS[rule.verdict]}">{escape(rule.verdict)}</span>',
            f'<span class="said">{escape(_found(rule))}{_small(f"asked: {plain_words(rule.asked)}")}</span>',
        ]
        for rule in sorted(told, key=lambda rule: list(_FINDINGS).index(rule.verdict))
    ]
    if not rows:
        return ""
    notes = (
        [f"Kept, too: {count_words(len(asked) - len(told), 'rule')} on the LoRA."]
        if len(told) < len(asked)
        else []
    )
    missing = [_rule_words(rule.name) for rule in found.decision.rules if rule.verdict == "unmeasured"]
    notes += [f"Not asked, as not measured on both sides: {', '.join(missing)}."] if missing else []
    more = note(escape(" ".join(notes))) if notes else ""
    return f"<h3>Every rule it asks</h3>{table(['rule', '', 'found'], rows, worded=True)}{more}"


def _rule_words(name: str) -> str:
    """A rule that is named after a number by what that number is called."""
    words, where = metric_words(name.removeprefix("threshold "))
    asked = ", least asked" if name.startswith("threshold ") else ""
    return f"{words}{f', {where}' if where else ''}{asked}"


def _found(rule: Rule) -> str:
    """What a rule found, less its own name."""
    return plain_words(rule.found.removeprefix(f"{rule.name} "))


def _numbers(found: Comparison) -> str:
    said = (
        "A positive difference is better for the new version, whichever way the number goes. Images are paired by "
        "prompt and noise; “better” and “worse” need p ≤ 0.05 after Holm's correction for the rows of a block, and an "
        "interval without zero."
    )
    main = [each for each in found.numbers if block_of(each.row.name) in ("", "held_out")]
    rest = [each for each in found.numbers if each not in main]
    further = ""
    if rest:
        blocks = dict.fromkeys(block_of(each.row.name) for each in rest)
        which = " and ".join(_BLOCKS.get(each, each) for each in blocks)
        further = f"<details><summary>{len(rest)} more: {escape(which)}</summary>{_number_table(found, rest)}</details>"
    left_out = ", ".join(_rule_words(name) for name in found.unlike)
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
                f"{escape(words)}{_small(where)}",
                f"{escape(value_words(row.name, row.champion))}{_small(span_words(row.name, each.old_ci))}",
                f"{escape(value_words(row.name, row.challenger))}{_small(span_words(row.name, each.new_ci))}",
                f"{difference_words(row)}{_small(interval_words(row))}",
                drawn_interval(row, each.mark in ("better", "worse")),
                f"{escape(p_words(row.p_value))}{_small(_corrected(each.p_holm))}",
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


def _images(found: Comparison, sides: tuple[Side, Side]) -> list[str]:
    """The chapters with images: the first prompts in order, and those that only one version gets right."""
    won = [each for each in found.pairs if each.new_right and not each.old_right][:NUM_WON]
    lost = [each for each in found.pairs if each.old_right and not each.new_right][:NUM_WON]
    first = found.pairs[:NUM_PAIRS]
    shown = [*first, *won, *lost]
    new = headline_pngs(sides[0], {each.new_index for each in shown})
    old = headline_pngs(sides[1], {each.old_index for each in shown})
    if not (new and old):
        return []
    first = [each for each in first if each.new_index in new and each.old_index in old]
    said = (
        f"The first {count_words(len(first), 'prompt')} of the test in order, not chosen; left {found.old.label}, "
        f"right {found.new.label}, from the same noise."
    )
    side_by_side = section(
        "images",
        "evaluate",
        "The same prompts side by side",
        note(escape(said)),
        _duos(first, found, new, old),
    )
    return [side_by_side, _won(found, won, lost, new, old)]


def _won(
    found: Comparison, won: list[Pair], lost: list[Pair], new: dict[int, str], old: dict[int, str]
) -> str:
    if found.outcomes is None:
        return ""
    parts = []
    for label, chosen, count in (
        (found.new.label, won, found.outcomes.only_new),
        (found.old.label, lost, found.outcomes.only_old),
    ):
        chosen = [each for each in chosen if each.new_index in new and each.old_index in old]
        if chosen:
            of = f", the first {len(chosen)} of {count:,}" if count > len(chosen) else ""
            parts.append(f"<h3>Right only with {escape(label)}{of}</h3>{_duos(chosen, found, new, old)}")
    return section("won", "evaluate", "Where each wins and loses", _tally(found, found.outcomes), *parts)


def _tally(found: Comparison, won: Outcomes) -> str:
    """Who gets how many right, as bars."""
    total = max(1, len(found.pairs))
    bars = "".join(
        f'<span>{escape(label)}</span><div class="track">'
        f'<i class="{kind}" style="width:{100 * count / total:.2f}%"></i></div><span>{count:,}</span>'
        for label, count, kind in (
            ("both right", won.both, ""),
            (f"only {found.new.label}", won.only_new, ""),
            (f"only {found.old.label}", won.only_old, "bad"),
            ("neither", won.neither, "soft"),
        )
    )
    right = (
        "all it was asked for and nothing else" if won.measure == "all_correct" else "its own caption found"
    )
    said = note(
        f"Right is an image with {right}. Only prompts on which the two differ tell them apart: McNemar's exact test "
        f"gives p = {escape(p_words(won.p_value))}."
    )
    return f'{said}<div class="bars">{bars}</div>'


def _duos(chosen: Sequence[Pair], found: Comparison, new: Mapping[int, str], old: Mapping[int, str]) -> str:
    return f'<div class="duos">{"".join(_duo(each, found, new, old) for each in chosen)}</div>'


def _duo(each: Pair, found: Comparison, new: Mapping[int, str], old: Mapping[int, str]) -> str:
    """The old version's image beside the new one's, marks and prompt beneath."""
    images = picture(old[each.old_index], f"{each.prompt}; {found.old.label}")
    images += picture(new[each.new_index], f"{each.prompt}; {found.new.label}")
    marks = "".join(
        f"<small>{_mark(right)}{escape(_short(account))}</small>"
        for account, right in ((found.old, each.old_right), (found.new, each.new_right))
    )
    return f'<figure class="duo">{images}{marks}<figcaption>{escape(each.prompt)}</figcaption></figure>'


def _short(account: VersionAccount) -> str:
    return f"v{account.version}" if account.version else account.label


def _mark(right: bool | None) -> str:
    if right is None:
        return ""
    return f'<span class="mark {"pass" if right else "miss"}">{"✓" if right else "✗"}</span>'


def _groups(found: Comparison) -> str:
    if not found.groups:
        return ""
    parts = []
    for kind, title in _KINDS.items():
        rows = [_group(each) for each in found.groups if each.kind == kind]
        if rows:
            head = ["", _short(found.old), _short(found.new), "difference", "", "p, Holm"]
            parts.append(f"<div><h3>{title}</h3>{table(head, rows)}</div>")
    said = (
        "Shares right of what each group asks for, paired by prompt and noise; p is corrected for all groups together, "
        "for among so many some differ by luck."
    )
    body = f'<div class="halves">{"".join(parts)}</div>'
    return section("groups", "evaluate", "Strong and weak, by group", note(said), body)


def _group(each: GroupRow) -> list[str]:
    row = each.number.row
    name = f"{each.name} object{'' if each.name == '1' else 's'}" if each.kind == "objects" else each.name
    kind = {"better": ' class="pass"', "worse": ' class="miss"'}.get(each.number.mark, "")
    return [
        f"{escape(name)}{_small(f'n = {row.n:,}')}",
        value_words(row.name, row.champion),
        value_words(row.name, row.challenger),
        f"<span{kind}>{difference_words(row).removesuffix(' points')}</span>{_small(interval_words(row))}",
        drawn_interval(row, each.number.mark in ("better", "worse")),
        p_words(each.number.p_holm),
    ]


def _where(found: Comparison) -> str:
    """Links and what both stand on."""
    rows = [_facts(account) for account in (found.old, found.new)]
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{value}</dd>" for facts in rows for name, value in facts.items()
    )
    said = (
        "Versions, aliases and the gate's earlier answers are those of the registry when this page was made."
    )
    return section("where", "evidence", "Where to look further", note(said), f"<dl>{items}</dl>")


def _facts(account: VersionAccount) -> dict[str, str]:
    known = escape(account.label)
    aliases = f", alias {' and '.join(account.aliases)}" if account.aliases else ""
    verdict = f", {account.verdict} when it was made" if account.verdict else ""
    link = f'<a href="{escape(account.url, quote=True)}">{escape(account.url)}</a>' if account.url else ""
    runs = ", ".join(
        f'<a href="{escape(stage.url, quote=True)}">{escape(name)}</a>'
        for name, stage in account.stages.items()
        if stage.url
    )
    facts = {account.label: f"{known}{escape(aliases)}{escape(verdict)}"}
    facts |= {f"{account.label} in MLflow": link} if link else {}
    return facts | ({f"{account.label}, runs": runs} if runs else {})


def _small(text: str) -> str:
    return f'<span class="ci">{escape(text)}</span>' if text else ""
