"""The frame of the data's pages: one file without a script or a request, light, for a phone and a wide screen.

Pictures are WebP in base64 and drawn from a budget of bytes, so that no page outgrows a mail or a browser.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Hashable, Iterable, Sequence
from html import escape

PICTURE_SIDE = 112
PICTURE_BYTES = 1_900_000
_QUALITY = 82
_MOST_TEXT = 160


class Pictures:
    """Thumbnails by key, each encoded once, until the budget is spent; what is not there is an empty box."""

    def __init__(self, budget: int = PICTURE_BYTES) -> None:
        self._left = budget
        self._found: dict[Hashable, str] = {}
        self.num_left_out = 0

    def add(self, images: Iterable[tuple[Hashable, bytes]], order: Iterable[Hashable]) -> None:
        """Make thumbnails of images as they come; those last in `order` are left out where the budget is spent."""
        small = {key: base64.b64encode(thumbnail(data)).decode() for key, data in images}
        for key in order:
            encoded = small.get(key, "")
            if len(encoded) > self._left:
                self.num_left_out += 1
            elif encoded:
                self._left -= len(encoded)
                self._found[key] = encoded

    def figure(self, key: Hashable, title: str, lines: Sequence[str] = (), kind: str = "") -> str:
        """An image with its name and lines beneath; `kind` colours its frame: kept or dropped."""
        encoded = self._found.get(key)
        shown = (
            f'<img alt="" src="data:image/webp;base64,{encoded}">'
            if encoded
            else '<div class="none">no picture</div>'
        )
        said = "".join(f"<span>{escape(shortened(line))}</span>" for line in lines if line)
        name = f'<b title="{escape(title, quote=True)}">{escape(shortened(title))}</b>'
        return f'<figure class="{kind}">{shown}<figcaption>{name}{said}</figcaption></figure>'


def thumbnail(data: bytes, side: int = PICTURE_SIDE) -> bytes:
    """Return an image as a small WebP of its whole frame; empty where it cannot be decoded."""
    from PIL import Image

    from fluxmodel.data.decode import Refusal, decode

    try:
        image = Image.fromarray(decode(data, max_pixels=1 << 62))
    except Refusal:
        return b""
    image.thumbnail((side, side), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, method=4)
    return buffer.getvalue()


def shortened(text: str, most: int = _MOST_TEXT) -> str:
    """Return a text on one line, cut where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def plain(name: object) -> str:
    """Return a name of the code as words."""
    return str(name).replace("_", " ")


def page(title: str, body: str) -> str:
    """The whole document; `body` is trusted markup, the title is not."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>\n{body}\n</main></body></html>\n"
    )


def section(anchor: str, title: str, lead: str, *parts: str) -> str:
    """A chapter with one sentence above it; nothing where it has no parts. Parts are trusted markup."""
    body = "\n".join(part for part in parts if part)
    lead = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>{lead}{body}</section>' if body else ""


def contents(sections: Sequence[tuple[str, str]]) -> str:
    """Links to the chapters there are, (anchor, words)."""
    links = "".join(f'<a href="#{anchor}">{escape(words)}</a>' for anchor, words in sections)
    return f'<nav aria-label="Chapters">{links}</nav>'


def boxes(found: Sequence[tuple[str, str, str]]) -> str:
    """Figures in large print: (words, value, a line beneath)."""
    cells = "".join(
        f"<div><span>{escape(words)}</span><b>{escape(value)}</b><small>{escape(line)}</small></div>"
        for words, value, line in found
    )
    return f'<div class="boxes">{cells}</div>'


def grid(figures: Sequence[str]) -> str:
    """Figures side by side."""
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table that scrolls sideways where it is too wide; cells are trusted markup, `numbers` align right."""
    if not rows:
        return ""
    kinds = [' class="n"' if place in numbers else "" for place in range(len(head))]
    top = "".join(f"<th{kind}>{escape(each)}</th>" for kind, each in zip(kinds, head, strict=True))
    lines = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def note(text: str) -> str:
    """A paragraph in small print; not trusted."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def folded(words: str, body: str) -> str:
    """What opens at a click; the body is trusted markup."""
    return f"<details><summary>{escape(words)}</summary>{body}</details>" if body else ""


_STYLE = """
:root{--ink:#22262a;--soft:#5a636b;--line:#e3e6e8;--tint:#f4f6f7;--good:#2f7d4f;--bad:#b8432f;--blue:#1f6f8b}
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}
body{margin:0;background:#fff;color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue","DejaVu Sans",sans-serif}
main{max-width:70rem;margin:0 auto;padding:2.4rem 1.25rem 5rem}
h1{font-size:clamp(1.4rem,4vw,2.1rem);line-height:1.2;letter-spacing:-.015em;margin:0 0 .8rem;overflow-wrap:anywhere}
h2{font-size:1.3rem;margin:0 0 .3rem}h3{font-size:1rem;margin:.6rem 0 .3rem}
section{margin-top:3.2rem;scroll-margin-top:1rem}p{margin:.3rem 0 1rem;max-width:46rem;overflow-wrap:anywhere}
.lead,.note{color:var(--soft)}.note{font-size:.88rem}a{color:var(--blue);text-decoration:none}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;padding:.6rem 0;margin:1.2rem 0 0;font-size:.9rem;
border-top:1px solid var(--line);border-bottom:1px solid var(--line)}
.boxes{display:grid;grid-template-columns:repeat(auto-fit,minmax(10rem,1fr));gap:1px;padding:1px;margin:1.2rem 0}
.boxes div{box-shadow:0 0 0 1px var(--line);padding:.8rem 1rem}.boxes span{font-weight:600;display:block}
.boxes b{display:block;font-size:1.8rem;line-height:1.25;font-variant-numeric:tabular-nums}
.boxes small{color:var(--soft)}
.scroll{overflow-x:auto;margin:.8rem 0}table{border-collapse:collapse;font-size:.9rem;min-width:100%;
font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.4rem .9rem .4rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:.82rem;vertical-align:bottom}.n{text-align:right;white-space:nowrap}
td small{display:block;color:var(--soft);line-height:1.35}td{overflow-wrap:break-word}td:first-child{min-width:8rem}
.up{color:var(--good)}.down{color:var(--bad)}
.bar{display:flex;height:.75rem;min-width:9rem;margin-top:.35rem;background:var(--tint);border-radius:.2rem;overflow:hidden}
.bar i{background:#b9d3da}.bar i.dropped{background:var(--bad);min-width:2px}.bar i.kept{background:var(--good)}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr));gap:1.8rem 2rem;margin:1rem 0}
.panels svg{width:100%;height:auto;display:block}svg text{font:10px system-ui,sans-serif;fill:var(--soft)}
svg .kept{fill:#7fb0bf}svg .dropped{fill:#cf6a55}svg .other{fill:#d5dadd}svg .axis{stroke:#aab1b7}
svg path.limit{stroke:var(--ink);stroke-width:1.2;stroke-dasharray:3 2}svg text.limit{fill:var(--ink);font-weight:600}
.key{display:inline-block;width:.8rem;height:.8rem;border-radius:.15rem;vertical-align:-.08rem;margin:0 .35rem 0 0}
.keys span{margin-right:1.2rem;white-space:nowrap}.keys{font-size:.88rem;color:var(--soft)}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(6.6rem,1fr));gap:1rem .8rem;margin:.6rem 0 1.2rem}
figure{margin:0;font-size:.76rem;line-height:1.35;min-width:0}
figure img,.none{width:100%;max-width:7rem;aspect-ratio:1;object-fit:contain;display:block;background:var(--tint);
border-radius:.3rem;box-shadow:0 0 0 1px var(--line)}
.none{display:grid;place-items:center;color:var(--soft)}
figure.kept img{box-shadow:0 0 0 2px var(--good)}figure.dropped img{box-shadow:0 0 0 2px var(--bad)}
figcaption{margin-top:.4rem;overflow-wrap:anywhere}figcaption b{font-weight:600;display:-webkit-box;overflow:hidden;
-webkit-line-clamp:2;-webkit-box-orient:vertical}
figcaption span{color:var(--soft);display:-webkit-box;overflow:hidden;-webkit-line-clamp:3;-webkit-box-orient:vertical}
.sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:.4rem 2rem}
.rule{margin:1.6rem 0 0;padding-top:1rem;border-top:1px solid var(--line)}
.groups{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,15rem),1fr));gap:1rem}
.group{padding:.8rem;box-shadow:0 0 0 1px var(--line);border-radius:.4rem;min-width:0}.group .grid{margin:.2rem 0 0;
grid-template-columns:repeat(auto-fill,minmax(5.4rem,1fr))}
details{margin:.8rem 0}summary{cursor:pointer;color:var(--blue)}
@media(max-width:34rem){main{padding-top:1.4rem}.boxes{grid-template-columns:1fr 1fr}.boxes b{font-size:1.4rem}
.grid{grid-template-columns:repeat(3,1fr)}td,th{padding-right:.6rem}td:first-child{min-width:6.5rem}.bar{min-width:3.2rem}
section{margin-top:2.4rem}}
@media print{figure,.group{break-inside:avoid}}
"""
