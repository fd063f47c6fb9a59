"""The report's chapter on captions: what images were called, what the captioner calls them, and what it gets wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from html import escape
from typing import Any

from .page import box, boxes, note, section, sentence, table
from .report_numbers import number

TITLE = "What the images are called"
_WORDS = {"presence": "objects", "shape": "shape", "color": "colour", "size": "size", "place": "place",
          "background": "background"}  # fmt: skip
_NUM_MISTAKES = 4


def captions(report: Mapping[str, Any] | None) -> str:
    """The whole chapter; one sentence where the captions were kept as they came, nothing where none are known."""
    if not report:
        return ""
    reason = report.get("provenance", {}).get("reason")
    if reason:
        return section("captions", "caption", TITLE, note(sentence(str(reason))))
    return section(
        "captions",
        "caption",
        TITLE,
        note(_told(report)),
        _figures(report["metrics"]),
        _by_attribute(report.get("errors", [])),
        _examples(report),
        _errors(report.get("errors", [])),
    )


def _told(report: Mapping[str, Any]) -> str:
    metrics, flags = report["metrics"], report.get("flags", {})
    text = (
        f"A vision-language model ({escape(str(report['provenance'].get('captioner')))}) looked at each of "
        f"{metrics['num_captioned']:,.0f} images and wrote what it saw. The model learns from its words, mixed with a "
        "few of the original texts, never from the truth."
    )
    if "flagged" in metrics:
        which = ", ".join(f"{_flag(name)} {count:,}" for name, count in flags.items())
        share = f"{metrics['flagged']:.1%} of its captions are flagged"
        text += f" {share}{f' ({escape(which)})' if which else ''}."
    return text


def _flag(name: str) -> str:
    return {"low_score": "unsure", "unparsable": "not in the expected form"}.get(name, name.replace("_", " "))


def _figures(metrics: Mapping[str, float]) -> str:
    if "f1" not in metrics:
        return ""
    found = [
        box("Attribute F1", f"{metrics['f1']:.3f}", [f"alt text: {metrics['alt_f1']:.3f}"]),
        box("Captions without a fault", number("all_correct", metrics["exact"]), ["of images held out"]),
    ]
    if "unseen_f1" in metrics:
        lines = [f"images like training: {metrics['test_f1']:.3f}"]
        found.append(box("F1, pairs never shown", f"{metrics['unseen_f1']:.3f}", lines))
    return boxes(found)


def _by_attribute(errors: Sequence[Mapping[str, Any]]) -> str:
    """F1 of each attribute, the captioner's bar above the alt text's."""
    cells = []
    for row in errors:
        if row["attribute"] == "presence" or not row["true"]:
            continue
        ours, alt = row["f1"], row.get("alt") or {}
        theirs = f"{alt['f1']:.2f}" if alt.get("stated") else "silent"
        cells.append(
            f"<span>{_WORDS.get(row['attribute'], escape(row['attribute']))}</span>"
            f'<div><div class="track"><i style="width:{100 * ours:.1f}%"></i></div>'
            f'<div class="track second"><i style="width:{100 * alt.get("f1", 0):.1f}%"></i></div></div>'
            f"<span>{ours:.3f} <small>alt text {theirs}</small></span>"
        )
    if not cells:
        return ""
    said = note("F1 by attribute: the wide bar is the captioner's, the narrow one the original alt text's.")
    return f'<h3>How right, by attribute</h3>{said}<div class="bars paired">{"".join(cells)}</div>'


def _examples(report: Mapping[str, Any]) -> str:
    shown, mistakes = report.get("examples", []), report.get("mistakes", [])[:_NUM_MISTAKES]
    parts = []
    if shown:
        words = " Underlined words contradict the truth." if any(each.get("truth") for each in shown) else ""
        parts.append(f"<h3>Before and after</h3>{note(f'The first images held out, in order.{words}')}")
        parts.append(f'<div class="cards">{"".join(_card(each) for each in shown)}</div>')
    if mistakes:
        parts.append(f"<h3>Where it is wrong</h3>{note('The next images whose caption is not the truth.')}")
        parts.append(f'<div class="cards">{"".join(_card(each) for each in mistakes)}</div>')
    return "".join(parts)


def _card(each: Mapping[str, Any]) -> str:
    truth, original, new = each.get("truth"), each.get("original"), str(each["new"])
    lines = []
    if original:
        lines.append(("alt text", _contradicted(original, truth)))
    lines.append(("captioner", _changed(new, truth)))
    if truth and truth != new:
        lines.append(("truth", escape(truth)))
    items = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in lines)
    image = f'<img alt="{escape(truth or new, quote=True)}" src="{escape(each["image"], quote=True)}">'
    return f'<div class="card">{image}<dl>{items}</dl></div>'


def _contradicted(text: str, truth: str | None) -> str:
    """The alt text with the words underlined that the truth does not hold; its grammar is another."""
    known = set(truth.replace(",", " ").split()) if truth else None
    words = [
        f"<mark>{escape(word)}</mark>"
        if known is not None and word.strip(",.") not in known and word not in ("and", "with", "a", "an")
        else escape(word)
        for word in text.split()
    ]
    return " ".join(words)


def _changed(text: str, truth: str | None) -> str:
    """The captioner's words with those underlined that differ from the truth's, word by word."""
    words = text.split()
    if not truth:
        return escape(text)
    parts = []
    for kind, start, end, _, _ in SequenceMatcher(None, words, truth.split(), autojunk=False).get_opcodes():
        if start < end:
            said = escape(" ".join(words[start:end]))
            parts.append(said if kind == "equal" else f"<mark>{said}</mark>")
    return " ".join(parts)


def _errors(errors: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for row in errors:
        if not row["true"]:
            continue
        most = "; ".join(
            f"{each['truth']} read as {each['said']} {each['count']}×"
            for each in row.get("commonest", [])[:3]
        )
        if row["attribute"] == "presence":
            most = f"{row.get('missing', 0):,} left out, {row.get('invented', 0):,} invented"
        alt = row.get("alt") or {}
        silent = row["attribute"] != "presence" and not alt.get("stated")
        theirs = "silent" if silent else f"{alt.get('errors', 0):,}"
        rows.append(
            [
                _WORDS.get(row["attribute"], escape(str(row["attribute"]))),
                f"{row['true']:,}",
                f"{row['errors']:,}",
                f"{row['errors'] / row['true']:.1%}",
                theirs,
                f'<span class="said">{escape(most)}</span>',
            ]
        )
    if not rows:
        return ""
    head = ["", "asked", "wrong", "share", "alt text wrong", "most often"]
    return f"<h3>Its errors</h3>{table(head, rows, worded=True)}"
