"""The comparison's chapters with images and groups: the same prompts side by side, and where each version is strong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from .compare import Side
from .page import note, picture, section, table
from .report_gate import drawn_interval
from .versus_changes import VersionAccount
from .versus_prompts import GroupRow, Outcomes, Pair, headline_pngs
from .versus_words import count_words, difference_words, interval_words, p_words, value_words

if TYPE_CHECKING:
    from .versus import Comparison

NUM_PAIRS = 24
NUM_WON = 12
_KINDS = {"color": "Colour asked for", "shape": "Shape asked for", "objects": "Number of objects"}


def images(found: Comparison, sides: tuple[Side, Side]) -> list[str]:
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
        f"<small>{_mark(right)}{escape(short_label(account))}</small>"
        for account, right in ((found.old, each.old_right), (found.new, each.new_right))
    )
    return f'<figure class="duo">{images}{marks}<figcaption>{escape(each.prompt)}</figcaption></figure>'


def short_label(account: VersionAccount) -> str:
    """Return `v12`, or what a directory is called."""
    return f"v{account.version}" if account.version else account.label


def _mark(right: bool | None) -> str:
    if right is None:
        return ""
    return f'<span class="mark {"pass" if right else "miss"}">{"✓" if right else "✗"}</span>'


def groups(found: Comparison) -> str:
    """The chapter on colours, shapes and numbers of objects; nothing where no rows tell of them."""
    if not found.groups:
        return ""
    parts = []
    for kind, title in _KINDS.items():
        rows = [_group(each) for each in found.groups if each.kind == kind]
        if rows:
            head = ["", short_label(found.old), short_label(found.new), "difference", ""]
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
        f"{escape(name)}{small(f'n = {row.n:,}')}",
        value_words(row.name, row.champion),
        value_words(row.name, row.challenger),
        f"<span{kind}>{difference_words(row).removesuffix(' points')}</span>{small(interval_words(row))}",
        f"{drawn_interval(row, each.number.mark in ('better', 'worse'))}{small(f'p {p_words(each.number.p_holm)}')}",
    ]


def small(text: str) -> str:
    """Small print below a cell's figure; nothing where there is none."""
    return f'<span class="ci">{escape(text)}</span>' if text else ""
