"""The chapters of the page of curation that are told from its record alone: the funnel, moved thresholds, refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fluxmodel.data.histogram import number_words
from fluxmodel.data.page_markup import boxes, folded, plain, section, shortened, table
from fluxmodel.data.records import EXPLANATIONS, Reason

_OPEN = 12


def funnel_section(record: Mapping[str, Any]) -> str:
    """What each rule removed after those before it, and what it would remove by itself."""
    seen = max(int(record["seen"]), 1)
    rows = [["images seen", f"{record['seen']:,}", "", "", _bar(seen, 0, seen)]]
    for step in record.get("funnel", []):
        left, removed = step["left"], step["removed"]
        only = f"{step['only']:,}" if step["alone"] else ""
        rows.append([
            escape(plain(step["rule"])),
            f"−{removed:,}" if removed else "0",
            f"{step['alone']:,}",
            only,
            _bar(left, removed, seen),
        ])  # fmt: skip
    rows.append([
        "<b>kept</b>",
        f"<b>{record['kept']:,}</b>",
        "",
        "",
        f'<span class="bar"><i class="kept" style="width:{100 * record["kept"] / seen:.2f}%"></i></span>',
    ])  # fmt: skip
    skipped = [
        f"{plain(rule)}: {why}"
        for kind in ("skipped_rules", "partly_applied")
        for rule, why in record.get(kind, {}).items()
    ]
    lead = (
        "In turn: what each rule removed of what the rules before it had left. Alone: all that fails the rule, "
        "whatever the others say. No other rule: fails this rule alone."
    )
    listed = table(("rule", "in turn", "alone", "no other rule", "left"), rows, numbers=(1, 2, 3))
    why = folded(
        "Rules not applied, or not to all images",
        "<ul>" + "".join(f"<li>{escape(each)}</li>" for each in skipped) + "</ul>",
    )
    return section("funnel", "The funnel", lead, listed, why if skipped else "")


def sensitivity_section(record: Mapping[str, Any]) -> str:
    """What each moved threshold would keep."""
    rows = []
    for each in record.get("sensitivity", []):
        cells = [_change_cell(change) for change in each["changes"]]
        stands = f"<small>{escape(number_words(each['value']))} {escape(each['unit'])}</small>"
        rows.append([f"{escape(plain(each['field']))}{stands}", *cells])
    head = ("threshold", "−20 %", "−10 %", "+10 %", "+20 %")
    lead = (
        f"How many more or fewer than {record['kept']:,} would be kept if one threshold were moved and all else "
        "stayed, and beneath it how many that makes at which value. "
        "Duplicates are decided anew, so a copy may take the place of an image that goes. Whole numbers move by "
        "at least one."
    )
    return section("sensitivity", "If a threshold were moved", lead, table(head, rows, numbers=range(1, 5)))


def diversity_section(record: Mapping[str, Any]) -> str:
    """How varied the images are before and after: their looks, and the words of their captions."""
    found = record.get("diversity", {})
    if not found:
        return ""
    sides = [found["readable"], found["kept"]]
    looked_at = [f"<small>of {each['num_looked_at']:,}</small>" for each in sides]
    rows = [
        [
            "different looks",
            *(f"{each['vendi']:,.1f}{of}" for each, of in zip(sides, looked_at, strict=True)),
        ],
        ["different words", *(f"{each['num_words']:,}" for each in sides)],
        ["words, as if evenly spread", *(f"{each['effective_words']:,.1f}" for each in sides)],
    ]
    words = [
        [
            escape(shortened(word)),
            *(
                f"{num:,}<small>{100 * num / max(side['num_images'], 1):.1f} %</small>"
                for num, side in zip(nums, sides, strict=True)
            ),
        ]
        for word, *nums in found["common_words"]
    ]
    lead = (
        "Different looks is the Vendi score of the colours of an 8 x 8 grid: how many images there would be if none "
        "were like another. Words are those of first captions."
    )
    common = folded("The commonest words", table(("word", "readable images", "kept"), words, numbers=(1, 2)))
    measured = table(("", "readable images", "kept"), rows, numbers=(1, 2))
    return section("diversity", "How varied", lead, measured, common if words else "")


def refused_section(record: Mapping[str, Any]) -> str:
    """What could not be used, each with its reason: images, then captions, rows of metadata, folders and shards."""
    problems = _problems(record)
    images = [each for each in record.get("refused", []) if each["reason"] not in problems]
    others = [each for each in record.get("refused", []) if each["reason"] in problems]
    listed = len(images) + len(others)
    more = record.get("num_refused", listed) - listed
    lead = f"The first {listed}, rare reasons first; decisions.parquet names all." if more > 0 else ""
    parts = []
    for words, found in (("Images", images), ("Captions, rows of metadata, folders, shards", others)):
        if found:
            body = _refusals(found)
            parts.append(
                f"<h3>{words}</h3>{folded(f'{len(found)} listed', body) if len(found) > _OPEN else body}"
            )
    reasons = list(dict.fromkeys(each["reason"] for each in [*images, *others]))
    words = [[escape(plain(each)), escape(_explained(each))] for each in reasons]
    ignored = [[escape(name), f"{num:,}"] for name, num in record.get("ignored_files", {}).items()]
    return section(
        "refused",
        "Refused",
        lead,
        table(("reason", "what it means"), words),
        *parts,
        "<h3>Files that are neither image nor caption</h3>" + table(("suffix", "files"), ignored, (1,))
        if ignored
        else "",
    )


def rules_section(record: Mapping[str, Any]) -> str:
    """The rules as they stood."""
    rows = [
        [escape(plain(name)), "off" if value is None else escape(str(value))]
        for name, value in record.get("rules", {}).items()
    ]
    stood = folded("As they stood", table(("rule", "value"), rows))
    return section("rules", "The rules", "", _models(record), stood)


def _models(record: Mapping[str, Any]) -> str:
    """The models that scored the images; nothing where there was none."""
    rows = [
        [
            escape(plain(column)),
            escape(", ".join(each["labels"]) or "image and caption"),
            escape(each["revision"]),
            f"{each['scored']:,}",
            f"{each['failed']:,}"
            + (f"<small>{escape(each['first_failure'])}</small>" if each["failed"] else ""),
        ]
        for column, each in record.get("models", {}).items()
    ]
    return table(("score", "of", "model", "images", "failed"), rows, numbers=(3, 4)) if rows else ""


def headline(record: Mapping[str, Any]) -> str:
    """The counts in large print."""
    seen, dropped = record["seen"], sum(record["dropped"].values())
    split = ", ".join(f"{num:,} for {name}" for name, num in record.get("splits", {}).items())
    problems = sum(_problems(record).values())
    return boxes([
        ("seen", f"{seen:,}", "images"),
        ("kept", f"{record['kept']:,}", f"{100 * record['kept'] / max(seen, 1):.1f} %: {split}"),
        ("dropped", f"{dropped:,}", "seen = kept + dropped" if seen == record["kept"] + dropped else "does not add up"),
        ("refused beside images", f"{problems:,}", "captions, rows, folders, shards"),
    ])  # fmt: skip


def _problems(record: Mapping[str, Any]) -> Mapping[str, int]:
    """Return what could not be read beside images; records of earlier versions call it by its first kind."""
    return record.get("problems", record.get("caption_problems", {}))


def _change_cell(change: Mapping[str, Any]) -> str:
    if change["kept"] is None:
        return "<small>not allowed</small>"
    difference = change["difference"]
    kind = "up" if difference > 0 else "down" if difference < 0 else ""
    said = f"{'+' if difference > 0 else '−' if difference < 0 else '±'}{abs(difference):,}"
    at = f"{change['kept']:,} at {number_words(change['value'])}"
    return f'<span class="{kind}">{said}</span><small>{at}</small>'


def _bar(left: int, removed: int, seen: int) -> str:
    kept = f'<i style="width:{100 * left / seen:.2f}%"></i>'
    gone = f'<i class="dropped" style="width:{100 * removed / seen:.2f}%"></i>' if removed else ""
    return f'<span class="bar">{kept}{gone}</span><small>{left:,}</small>'


def _refusals(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            escape(shortened(each["path"])),
            escape(plain(each["reason"])),
            escape(shortened(each["detail"] or "")),
        ]
        for each in found
    ]
    return table(("file", "reason", "what was found"), rows)


def _explained(reason: str) -> str:
    return EXPLANATIONS[Reason(reason)] if reason in set(Reason) else ""
