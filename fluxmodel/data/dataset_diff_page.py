"""The page of what differs between two curated datasets: counts, decisions that changed, examples of each kind."""

from __future__ import annotations

from html import escape

from fluxmodel.data.dataset_diff import KINDS, ChangedImage, DatasetDiff
from fluxmodel.data.page_markup import (
    Pictures,
    boxes,
    contents,
    grid,
    note,
    page,
    plain,
    section,
    shortened,
    table,
)

_SAID = {
    "added": "Images that were not there before.",
    "removed": "Images that are no longer there.",
    "replaced": "Other pixels under the same name: before, then after.",
    "renamed": "The same pixels under another name.",
    "recaptioned": "The same image with other captions.",
}


def document(diff: DatasetDiff, old: str, new: str) -> str:
    """Return the page as one HTML document; `old` and `new` name the two datasets."""
    pictures = Pictures()
    images = {
        (kind, side, number): getattr(each, side)
        for kind, shown in diff.shown.items()
        for number, each in enumerate(shown)
        for side in ("old", "new")
        if getattr(each, side)
    }
    pictures.add(images.items(), images)
    sections = [
        ("decisions", "Decisions", _decisions(diff)),
        *[(kind, kind.capitalize(), _kind(kind, diff, pictures)) for kind in KINDS],
    ]
    counts = [("same", f"{diff.same:,}", f"of {diff.num_old:,} before, {diff.num_new:,} after")]
    counts += [(kind, f"{diff.counts[kind]:,}", _SAID[kind].rstrip(".")) for kind in KINDS]
    lead = f"<p><b>{escape(new)}</b> against <b>{escape(old)}</b></p>"
    nothing = note("Nothing differs: the same images, captions and decisions.") if diff.is_same else ""
    there = [(anchor, words) for anchor, words, text in sections if text]
    parts = [
        lead,
        boxes(counts),
        nothing,
        contents(there) if there else "",
        *[text for _, _, text in sections],
    ]
    return page("What changed in the data", "\n".join(parts))


def _decisions(diff: DatasetDiff) -> str:
    rules = [
        [escape(plain(name)), _value(before), _value(after)] for name, (before, after) in diff.rules.items()
    ]
    rows = [
        [
            escape(plain(each.before)),
            escape(plain(each.after)),
            f"{each.num_images:,}",
            escape(shortened(", ".join(each.examples))),
        ]
        for each in diff.decisions
    ]
    lead = (
        "What curation says of an image now and said before: that it is kept, the first rule that drops it, or "
        "that the source does not give it."
    )
    return section(
        "decisions",
        "Decisions that changed",
        lead if rows else "",
        table(("before", "after", "images", "for example"), rows, (2,)),
        "<h3>Rules that changed</h3>" + table(("rule", "before", "after"), rules) if rules else "",
    )


def _kind(kind: str, diff: DatasetDiff, pictures: Pictures) -> str:
    figures = []
    for number, each in enumerate(diff.shown.get(kind, ())):
        figures += _figures(kind, number, each, pictures)
    num = diff.counts[kind]
    more = (
        f" Shown are the first {len(diff.shown[kind])} of {num:,}."
        if num > len(diff.shown.get(kind, ()))
        else ""
    )
    return section(kind, f"{kind.capitalize()}: {num:,}", _SAID[kind] + more, grid(figures))


def _figures(kind: str, number: int, each: ChangedImage, pictures: Pictures) -> list[str]:
    """One picture of an image, or two where its pixels differ."""
    old, new = (kind, "old", number), (kind, "new", number)
    if kind == "removed":
        return [pictures.figure(old, each.old_id, [each.old_caption, plain(each.verdict)], "dropped")]
    if kind == "replaced":
        before = pictures.figure(old, each.old_id, ["before", each.old_caption], "dropped")
        return [before, pictures.figure(new, each.new_id, ["after", each.new_caption], "kept")]
    if kind == "renamed":
        return [pictures.figure(new, each.new_id, [f"was {each.old_id}"], "kept")]
    if kind == "recaptioned":
        return [pictures.figure(new, each.new_id, [f"was: {each.old_caption}", f"is: {each.new_caption}"])]
    return [pictures.figure(new, each.new_id, [each.new_caption], "kept")]


def _value(value: object) -> str:
    return "off" if value is None else escape(str(value))
