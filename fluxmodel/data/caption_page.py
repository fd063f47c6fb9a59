"""The page of re-captioning: old and new captions side by side, with what was found in them.

One file without a script or a request: styles inline, pictures as base64. Its size is bounded, and the same captions
give the same page: pictures are chosen by a hash of their ids.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import html
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxmodel.data.caption_flags import (
    AGREES_LESS,
    EMPTY,
    LONG_FOR,
    LOOP,
    LOW_SCORE,
    REFUSAL,
    TRUNCATED,
    UNPARSABLE,
)
from fluxmodel.data.caption_rows import CaptionRow
from fluxmodel.data.caption_writers import CaptionFailure

if TYPE_CHECKING:
    import numpy as np

_RANDOM, _PER_FLAG, _LOWEST = 24, 8, 12
_SIDE = 160
_MAX_TEXT = 600
_MEANINGS = {
    EMPTY: "The captioner wrote nothing.",
    REFUSAL: "The captioner declined, or excused itself, instead of describing the image.",
    LOOP: "The text repeats itself.",
    TRUNCATED: "The text was cut off before its end.",
    UNPARSABLE: "The text does not follow the grammar of drawn scenes.",
    LOW_SCORE: "The captioner was unsure: the mean log-probability of its words is low.",
    AGREES_LESS: "By the dual encoder the new caption agrees less with the image than the old one.",
    LONG_FOR["clip"]: "CLIP reads only the first 77 tokens.",
    LONG_FOR["t5"]: "T5 reads only the first 512 tokens.",
}
"""What the flags mean, in the order of the page."""


@dataclass(frozen=True)
class Pair:
    """An image with its old and new caption."""

    id: str
    png: bytes
    old: str | None
    new: str
    flags: tuple[str, ...] = ()
    score: float | None = None
    agreement: tuple[float | None, float | None] = (None, None)
    """Of the old caption and of the new one."""
    failure: str = ""


@dataclass
class Selection:
    """Chooses a bounded number of pairs while they pass by; of each group those with the smallest key."""

    _groups: dict[str, list[tuple[float, str, Pair]]] = field(default_factory=dict)

    def note(self, row: CaptionRow, image: np.ndarray, old: str | None, old_agreement: float | None) -> None:
        """Show a new caption if its group has room."""
        by_hash = _hash(row.id)
        wanted = [("random", by_hash, _RANDOM), *((flag, by_hash, _PER_FLAG) for flag in row.flags)]
        if row.agreement is not None:
            wanted.append(("agreement", row.agreement, _LOWEST))
        both = (old_agreement, row.agreement)
        self._offer(wanted, row.id, image, Pair(row.id, b"", old, row.text, row.flags, row.score, both))

    def note_failure(self, own: str, image: np.ndarray, old: str | None, failure: CaptionFailure) -> None:
        """Show an image that could not be captioned."""
        said = f"{failure.reason}: {failure.detail}" if failure.detail else failure.reason
        self._offer([("failed", _hash(own), _PER_FLAG)], own, image, Pair(own, b"", old, "", failure=said))

    def group(self, name: str) -> list[Pair]:
        """Return the pairs of a group, smallest key first."""
        return [pair for _, _, pair in sorted(self._groups.get(name, []), key=lambda e: (-e[0], e[1]))]

    def _offer(self, wanted: list[tuple[str, float, int]], own: str, image: np.ndarray, pair: Pair) -> None:
        kept: Pair | None = None
        for name, key, room in wanted:
            group = self._groups.setdefault(name, [])
            if len(group) < room or -key > group[0][0]:
                kept = kept or Pair(**{**pair.__dict__, "png": _png(image)})
                push = heapq.heappush if len(group) < room else heapq.heapreplace
                push(group, (-key, own, kept))


def write_page(path: Path, report: dict[str, Any], selection: Selection) -> None:
    """Write the page of a report as `caption_report` and its caller made it."""
    flags, metrics = report.get("flags", {}), report["metrics"]
    told, failures = report["provenance"], report.get("failures", {"num": 0, "reasons": {}})
    sections = [
        _summary(told, metrics, report),
        _flag_table(flags, metrics["num_captioned"], failures),
        _section("Could not be captioned", "Each keeps its old caption.", selection.group("failed")),
        *[
            _section(_title(flag), _MEANINGS[flag], selection.group(flag))
            for flag in _MEANINGS
            if flag in flags
        ],
        _section(
            "Lowest agreement",
            "New captions that agree least with their image by the dual encoder.",
            selection.group("agreement"),
        ),
        _section("Any", "Chosen by a hash of their ids.", selection.group("random")),
    ]
    body = "\n".join(each for each in sections if each)
    title = f"Captions by {html.escape(str(told.get('captioner')))}"
    path.write_text(_PAGE.format(title=title, style=_STYLE, body=body), encoding="utf-8")


def _summary(told: dict[str, Any], metrics: dict[str, float], report: dict[str, Any]) -> str:
    lines = [
        ("images", f"{metrics['num_images']:,.0f}"),
        ("captioned", f"{metrics['num_captioned']:,.0f}"),
        ("flagged", f"{metrics['flagged']:.1%}"),
        ("asked", told.get("prompt") or "nothing: it takes the image alone"),
        ("revision", f"{told.get('revision')} ({told.get('revision_is')})"),
    ]
    if "f1" in metrics:
        truth = (
            f"precision {metrics['precision']:.3f}, recall {metrics['recall']:.3f}, F1 {metrics['f1']:.3f}"
        )
        lines.append(("against the truth", f"{truth}; old captions' F1 {metrics['alt_f1']:.3f}"))
    if agreement := report.get("agreement"):
        lines.append(
            (
                "agreement with the image",
                f"new {agreement['new']:.3f}, old {agreement['old']:.3f} (cosine, mean)",
            )
        )
    for name, length in report.get("lengths", {}).items():
        said = f"longest {length['longest']} of {length['limit']} tokens, {length['over']} beyond"
        lines.append((f"length for {name.upper()}", f"{said} ({length['counted']})"))
    cells = "".join(f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in lines)
    return f'<table class="facts">{cells}</table>'


def _flag_table(flags: dict[str, int], total: float, failures: dict[str, Any]) -> str:
    rows = [(_title(flag), flags[flag], meaning) for flag, meaning in _MEANINGS.items() if flag in flags]
    rows += [(f"failed: {name.replace('_', ' ')}", num, "") for name, num in failures["reasons"].items()]
    if not rows:
        return "<p>No caption is flagged, and no image failed.</p>"
    cells = "".join(
        f'<tr><td>{html.escape(name)}</td><td class="number">{num:,}</td>'
        f'<td class="number">{num / max(total + failures["num"], 1):.1%}</td><td>{html.escape(meaning)}</td></tr>'
        for name, num, meaning in rows
    )
    head = '<tr><th>flag</th><th class="number">captions</th><th class="number">share</th><th>what it means</th></tr>'
    return f"<h2>Flags</h2><table>{head}{cells}</table>"


def _section(title: str, meaning: str, pairs: list[Pair]) -> str:
    if not pairs:
        return ""
    cards = "".join(_card(pair) for pair in pairs)
    return f'<h2>{html.escape(title)}</h2><p>{html.escape(meaning)}</p><div class="pairs">{cards}</div>'


def _card(pair: Pair) -> str:
    image = base64.b64encode(pair.png).decode()
    old, new = pair.agreement
    figures = (
        [f"agreement {new:.3f}" + (f", old {old:.3f}" if old is not None else "")] if new is not None else []
    )
    figures += [f"log-probability {pair.score:.2f}"] if pair.score is not None else []
    flags = "".join(f'<span class="flag">{html.escape(_title(flag).lower())}</span>' for flag in pair.flags)
    new_text = f'<i class="failed">{html.escape(pair.failure)}</i>' if pair.failure else _text(pair.new)
    return (
        f'<figure><img src="data:image/png;base64,{image}" alt=""><figcaption><p class="id">{html.escape(pair.id)}</p>'
        f"<dl><dt>old</dt><dd>{_text(pair.old)}</dd><dt>new</dt><dd>{new_text}</dd></dl>"
        f'<p class="figures">{flags} {", ".join(figures)}</p></figcaption></figure>'
    )


def _text(text: str | None) -> str:
    if not text:
        return "<i>none</i>"
    return html.escape(text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + " …")


def _title(flag: str) -> str:
    return flag.replace("_", " ").capitalize().replace("clip", "CLIP").replace("t5", "T5")


def _hash(own: str) -> float:
    return float(int.from_bytes(hashlib.sha256(own.encode()).digest()[:6], "big"))


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } th, td { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; }
tr { border-bottom: 1px solid #e6e6e6; } .facts th { font-weight: normal; color: #666; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(24rem, 1fr)); gap: .8rem; }
figure { display: flex; gap: .8rem; margin: 0; padding: .7rem; border: 1px solid #e0e0e0; border-radius: 6px; }
img { width: 120px; height: 120px; object-fit: contain; image-rendering: auto; background: #f4f4f4; flex: none; }
figcaption { min-width: 0; overflow-wrap: anywhere; flex: 1; }
.id { margin: 0 0 .3rem; color: #888; font-size: .8rem; } .figures { margin: .4rem 0 0; color: #666; font-size: .8rem; }
dl { display: grid; grid-template-columns: 2.4rem 1fr; gap: .2rem; margin: 0; } dt { color: #888; } dd { margin: 0; }
.flag { background: #fdecc8; color: #6b4a00; border-radius: 3px; padding: .05rem .35rem; margin-right: .25rem; }
.failed { color: #a11; }
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{style}</style></head>
<body><h1>{title}</h1>
{body}
</body></html>
"""
