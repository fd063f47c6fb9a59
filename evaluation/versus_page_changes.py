"""The comparison's chapter on what changed: data, settings, code, environment, parents."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from .page import note, picture, section, sentence, table
from .versus_changes import Changes, CodeChange, environment_of
from .versus_data import DataChange, ShownImage
from .versus_words import count_words, setting_words

if TYPE_CHECKING:
    from .versus import Comparison

MOST_SETTINGS = 60
MOST_MODULES = 6
_KINDS = {"added": "Added", "removed": "Removed", "recaptioned": "Captioned anew"}


def changes_chapter(found: Comparison) -> str:
    """The chapter; one sentence where nothing is known of a side."""
    if not found.changes.is_known and found.data is None:
        said = (
            "At least one of the two is no version of the registry, so what it was made of is not known here."
        )
        return section("changed", "lineage", "What changed", note(said))
    parts = [_data(found), *_made(found)]
    return section("changed", "lineage", "What changed", *parts)


def changes_in_a_sentence(found: Comparison) -> str:
    """Return in a sentence or two what changed, for the top of the page."""
    new, said = found.new.label, []
    if found.data is not None and not found.data.is_same:
        said.append(_counts(found.data))
    elif found.data is not None:
        said.append("the data are the same")
    made = found.changes
    if made.is_known:
        if made.settings:
            said.append(
                f"{count_words(len(made.settings), 'setting')} {'differs' if len(made.settings) == 1 else 'differ'}"
            )
        if made.code:
            said.append(f"the code of {count_words(len(made.code), 'stage')} changed")
        if made.environment:
            said.append(f"{count_words(len(made.environment), 'part')} of the environment changed")
        if not made.different:
            said.append("every artifact is shared")
    if not said:
        return f"What {new} and {found.old.label} were made of is not known here; their evaluations are compared."
    text = "; ".join(said)
    return f"From {found.old.label} to {new}: {text}."


def _counts(data: DataChange) -> str:
    counts = [
        (data.added, "added"),
        (data.removed, "removed"),
        (data.recaptioned, "captioned anew"),
        (data.resplit, "moved between training and test"),
    ]
    told = [f"{count:,} {what}" for count, what in counts if count]
    first = f"{told[0].split(' ', 1)[0]} image{'' if told[0].startswith('1 ') else 's'} {told[0].split(' ', 1)[1]}"
    return ", ".join([first, *told[1:]])


def _data(found: Comparison) -> str:
    """Images added, removed and captioned anew, with thumbnails of the first."""
    title = "<h3>Data</h3>"
    data = found.data
    names = list(dict.fromkeys(each.data for each in (found.old, found.new) if each.data))
    told = " → ".join(f"<code>{escape(name)}</code>" for name in names)
    named = f"<p>{told}</p>" if told else ""
    if data is None:
        why = found.data_note or "the data of these evaluations are not at hand"
        return f"{title}{named}{note(sentence(why))}"
    if data.is_same:
        return f"{title}{named}{note(f'The same {data.num_new:,} images with the same captions.')}"
    rows = [
        ("unchanged", data.unchanged, ""),
        ("added", data.added, ""),
        ("removed", data.removed, "bad"),
        ("captioned anew", data.recaptioned, "soft"),
        ("moved between training and test", data.resplit, "soft"),
    ]
    most = max(data.num_old, data.num_new, 1)
    bars = "".join(
        f'<span>{name}</span><div class="track"><i class="{kind}" style="width:{100 * count / most:.2f}%"></i></div>'
        f"<span>{count:,}</span>"
        for name, count, kind in rows
        if count
    )
    replaced = (
        f" {count_words(data.replaced, 'image')} came in place of another of the same name."
        if data.replaced
        else ""
    )
    said = note(
        f"{data.num_old:,} images became {data.num_new:,}; an image is the same where its pixels are.{replaced}"
    )
    shown = "".join(_thumbnails(kind, data) for kind in _KINDS)
    return f'{title}{named}{said}<div class="bars">{bars}</div>{shown}'


def _thumbnails(kind: str, data: DataChange) -> str:
    images = data.shown.get(kind, [])
    if not images:
        return ""
    count = {"added": data.added, "removed": data.removed, "recaptioned": data.recaptioned}[kind]
    of = f", the first {len(images)} of {count:,}" if count > len(images) else ""
    return f'<h3>{_KINDS[kind]}{of}</h3><div class="tiles">{"".join(_tile(each) for each in images)}</div>'


def _tile(each: ShownImage) -> str:
    text = each.new or each.old
    if each.old and each.new and each.old != each.new:
        text = f"{each.old} → {each.new}"
    return f"<figure>{picture(each.png, text)}<figcaption>{escape(text)}</figcaption></figure>"


def _made(found: Comparison) -> list[str]:
    """Settings, code, environment and parents."""
    made = found.changes
    if not made.is_known:
        return [
            "<h3>Settings, code, environment</h3>"
            + note("One of the two is no version of the registry, so what it was made of is not known.")
        ]
    return [_settings(found), _code(found), _environment(found), _parents(found)]


def _settings(found: Comparison) -> str:
    made = found.changes
    rows = [
        [
            f"<code>{escape(each.name)}</code>",
            escape(setting_words(each.old)),
            escape(setting_words(each.new)),
            escape(", ".join(each.stages)),
        ]
        for each in made.settings[:MOST_SETTINGS]
    ]
    title = "<h3>Settings</h3>"
    if not rows:
        return f"{title}{note('All settings and seeds are the same.')}"
    cut = len(made.settings) - MOST_SETTINGS
    more = note(f"And {cut:,} more; comparison.json has all.") if cut > 0 else ""
    return f"{title}{_texts(['setting', found.old.label, found.new.label, 'stages'], rows)}{more}"


def _code(found: Comparison) -> str:
    made = found.changes
    old, new = (f"<code>{escape(_commit(each.commit))}</code>" for each in (found.old, found.new))
    said = []
    if found.old.commit and found.new.commit:
        same = found.old.commit == found.new.commit
        said.append(
            f"Both were registered at commit {new}." if same else f"Registered at commit {old}, then {new}."
        )
    if not made.code:
        said.append("What each stage runs is the same.")
    alike: dict[str, list[str]] = {}
    for each in made.code:
        alike.setdefault(_modules(each), []).append(each.stage)
    rows = [
        [f'<span class="said">{modules}</span>', escape(", ".join(stages))]
        for modules, stages in alike.items()
    ]
    listed = _texts(["modules that differ", "stages"], rows) if rows else ""
    return f"<h3>Code</h3>{note(' '.join(said))}{listed}"


def _texts(head: list[str], rows: list[list[str]]) -> str:
    """A table of words, which stand at the left and may wrap."""
    return f'<div class="texts">{table(head, rows)}</div>'


def _commit(name: str) -> str:
    return name[:12] + ("-dirty" if name.endswith("-dirty") else "")


def _modules(change: CodeChange) -> str:
    shown = ", ".join(f"<code>{escape(name)}</code>" for name in change.modules[:MOST_MODULES])
    more = len(change.modules) - MOST_MODULES
    return f"{shown} and {more} more" if more > 0 else shown


def _environment(found: Comparison) -> str:
    title, made = "<h3>Environment</h3>", found.changes
    known = [environment_of(each) for each in (found.old, found.new)]
    if not all(known):
        missing = [each.label for each, has in zip((found.old, found.new), known, strict=True) if not has]
        said = f"It was not recorded for {' and '.join(missing)}."
        return f"{title}{note(escape(said))}"
    if not made.environment:
        main = ", ".join(
            f"{name} {known[1][name]}" for name in ("python", "torch", "device") if name in known[1]
        )
        return f"{title}{note(f'The same: {escape(main)}.')}"
    rows = [[escape(each.name), escape(each.old), escape(each.new)] for each in made.environment]
    return f"{title}{_texts(['', found.old.label, found.new.label], rows)}"


def _parents(found: Comparison) -> str:
    """Which stages gave both the same artifact, and which did not."""
    made: Changes = found.changes
    chips = "".join(
        f"<li{'' if each.old == each.new else ' class=new'}>{escape(each.name)}</li>" for each in made.parents
    )
    shared, different = len(made.shared), len(made.different)
    said = (
        f"{count_words(shared, 'stage').capitalize()} gave both the very same artifact; "
        f"{count_words(different, 'stage')}{', marked,' if different else ''} gave each its own."
    )
    return f'<h3>Parents</h3>{note(said)}<ul class="chips">{chips}</ul>'
