"""The frame of the report: typography and layout, light, readable on a phone and on paper."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

_CSS = """
:root{--ink:#22262a;--soft:#5a636b;--faint:#7b848c;--line:#e3e6e8;--paper:#fff;--tint:#f6f7f8;--good:#2f7d4f;
--bad:#b23a2e;--warn:#96690a;--blue:#1f6f8b}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue","DejaVu Sans",sans-serif}
main{max-width:68rem;margin:0 auto;padding:3rem 1.25rem 5rem}
h1{font-size:clamp(1.7rem,4.5vw,2.5rem);line-height:1.15;letter-spacing:-.02em;margin:0 0 .8rem;font-weight:700}
h2{font-size:1.35rem;letter-spacing:-.01em;margin:3.6rem 0 .4rem;font-weight:700}
h3{font-size:1rem;margin:1.6rem 0 .5rem;font-weight:650}
p{margin:.4rem 0 1rem;max-width:44rem}
.lead{font-size:1.12rem;color:var(--soft);max-width:46rem}
.note{color:var(--soft);font-size:.9rem}
section{margin-top:4.2rem;scroll-margin-top:1rem}
section>h2{margin-top:0}
.stage{color:var(--blue);font-weight:650;font-size:.78rem;letter-spacing:.06em;text-transform:uppercase;
margin:0 0 .3rem}
nav{display:flex;flex-wrap:wrap;gap:.35rem 1.15rem;margin:1.8rem 0 0;padding:.7rem 0;border-top:1px solid var(--line);
border-bottom:1px solid var(--line);font-size:.88rem}
a{color:var(--blue);text-decoration:none}a:hover,a:focus-visible{text-decoration:underline}
.eyebrow{color:var(--blue);font-weight:650;font-size:.85rem;
letter-spacing:.06em;text-transform:uppercase;margin:0 0 .6rem}
.figures{display:grid;grid-template-columns:repeat(var(--columns,4),1fr);gap:1px;margin:1.6rem 0;
padding:1px}
.figure{box-shadow:0 0 0 1px var(--line);padding:1.1rem 1.2rem 1rem}
.figure.wide{grid-column:span 2}
.figure b{display:block;font-size:2rem;line-height:1.15;letter-spacing:-.02em;font-weight:680;
font-variant-numeric:tabular-nums}
.figure span{display:block;font-weight:600;margin-bottom:.35rem}
.figure small{display:block;color:var(--soft);font-size:.82rem;font-variant-numeric:tabular-nums}
.pass{color:var(--good)!important}.miss{color:var(--bad)!important}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.2rem,1fr));gap:1.3rem 1rem;margin:1.2rem 0}
figure{margin:0}
.tiles img,.strip img{width:100%;aspect-ratio:1;image-rendering:pixelated;display:block;border-radius:.35rem;
box-shadow:0 0 0 1px var(--line)}
figcaption{font-size:.82rem;line-height:1.35;margin-top:.5rem;overflow-wrap:anywhere}
figcaption i{display:block;font-style:normal;color:var(--bad);margin-top:.2rem}
.mark{font-weight:700;margin-right:.3em}
.tiles.small{grid-template-columns:repeat(auto-fill,minmax(4.2rem,1fr));gap:.6rem}
.matrices{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,27rem),1fr));gap:1.8rem 2.5rem;
margin:1.4rem 0}
.matrix{display:grid;gap:.4rem;align-items:center;font-size:.8rem;color:var(--soft)}
.matrix img{width:100%;aspect-ratio:1;image-rendering:pixelated;display:block;border-radius:.25rem;
box-shadow:0 0 0 1px var(--line)}
.matrix .top{text-align:center;line-height:1.25;align-self:end}.matrix .top.after{border-left:1px solid var(--line)}
.matrix b{color:var(--ink);font-weight:600}
.matrices p{margin:0 0 .5rem;font-size:.9rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,27rem),1fr));gap:1.2rem 2.5rem;
margin:1.2rem 0}
.card{display:grid;grid-template-columns:6rem minmax(0,1fr);gap:1rem;align-items:start}
.card img{width:6rem;height:6rem;object-fit:contain;image-rendering:pixelated;border-radius:.35rem;
box-shadow:0 0 0 1px var(--line)}
.card dl{display:block;margin:0;font-size:.86rem;line-height:1.4}
.card dt{font-size:.74rem;color:var(--faint)}.card dd{margin:0 0 .35rem}
mark{background:none;color:var(--bad);text-decoration:underline;text-decoration-thickness:1.5px;
text-underline-offset:.18em}
.trigger{color:var(--blue);font-weight:650}
.duos{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,13.5rem),1fr));gap:1.6rem 1.6rem;
margin:1.2rem 0}
.duo{display:grid;grid-template-columns:1fr 1fr;gap:.3rem .4rem;align-content:start}
.duo img{width:100%;aspect-ratio:1;object-fit:contain;image-rendering:pixelated;display:block;border-radius:.3rem;
box-shadow:0 0 0 1px var(--line)}
.duo figcaption{grid-column:span 2;margin-top:.15rem}.duo small{font-size:.76rem;color:var(--soft)}
.key{display:inline-flex;align-items:center;gap:.4rem;margin-right:1.2rem;font-size:.88rem;color:var(--soft)}
.key svg{width:2.2rem;height:.8rem}
.halves{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,30rem),1fr));gap:0 2.5rem}
.halves td svg{width:8rem}
.texts th,.texts td{text-align:left;white-space:normal}.texts th:first-child,.texts td:first-child{white-space:nowrap}
.texts td+td{min-width:7rem;overflow-wrap:anywhere}.texts code{white-space:nowrap}
.chips{display:flex;flex-wrap:wrap;gap:.45rem;margin:.8rem 0;padding:0;list-style:none;font-size:.86rem}
.chips li{border:1px solid var(--line);border-radius:1rem;padding:.15rem .75rem;color:var(--soft)}
.chips li.new{border-color:var(--blue);color:var(--blue);font-weight:600}
.pairs{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1.4rem 2rem;margin:1.2rem 0}
.pairs svg{width:100%;height:auto;display:block;background:var(--tint);border-radius:.35rem}
.verdict{border-left:.35rem solid var(--faint);padding:.2rem 0 .2rem 1.2rem;margin:1.2rem 0}
.verdict b{display:block;font-size:2rem;line-height:1.2;letter-spacing:-.02em}
.verdict ul{margin:.5rem 0 0;padding-left:1.1rem;max-width:46rem}
.verdict.promote{border-color:var(--good)}.verdict.promote b{color:var(--good)}
.verdict.reject{border-color:var(--bad)}.verdict.reject b{color:var(--bad)}
.verdict.inconclusive{border-color:var(--warn)}.verdict.inconclusive b{color:var(--warn)}
td svg{display:block;width:11rem;height:1.5rem}
details{margin:1rem 0}summary{cursor:pointer;color:var(--blue);font-size:.9rem}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1.6rem 2rem;margin:1.2rem 0}
.panels svg{width:100%;height:auto;display:block}
.scroll{overflow-x:auto;margin:1rem 0;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;min-width:100%}
th,td{text-align:right;padding:.45rem .5rem;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600;color:var(--soft);font-size:.82rem;vertical-align:bottom}
th:first-child,td:first-child{text-align:left;padding-left:0}
tr.best td{background:#eef5f7}
.ci{color:var(--faint);font-size:.78rem;display:block;line-height:1.2}
.strip{display:grid;gap:.45rem;margin:.4rem 0 1.2rem;min-width:34rem;padding:1px}
.strip span{font-size:.78rem;color:var(--soft);text-align:center}
.bars{display:grid;grid-template-columns:max-content minmax(6rem,1fr) max-content;gap:.45rem .9rem;align-items:center;
font-size:.9rem;max-width:44rem;font-variant-numeric:tabular-nums}
.track{position:relative;height:.7rem;background:var(--tint);border-radius:.2rem}
.track i{position:absolute;inset:0 auto 0 0;background:#8fb7c5;border-radius:.2rem}
.track i.bad{background:var(--bad);opacity:.55;min-width:2px}.track i.soft{background:#c3d9e0}
.bars small{color:var(--soft)}.bars.paired{row-gap:.9rem}
.worded th:last-child{text-align:left}
.said{display:block;white-space:normal;min-width:13rem;max-width:34rem;text-align:left}
code{font-size:.92em;overflow-wrap:anywhere}
.track.second{height:.4rem;margin-top:.2rem}.track.second i{background:#c3c9ce}
.track u{position:absolute;top:50%;height:2px;margin-top:-1px;background:var(--ink)}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr));gap:0 2.5rem}
dl{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.35rem 1.2rem;font-size:.88rem;margin:1rem 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
@media(max-width:48rem){.figures{grid-template-columns:1fr 1fr}
.figures:not(:has(.wide)) .figure:last-child:nth-child(odd),
.figures:has(.wide) .figure:last-child:nth-child(even){grid-column:span 2}}
@media(max-width:34rem){main{padding-top:1.8rem}.tiles{grid-template-columns:repeat(2,1fr)}
.figure{padding:.8rem}.figure b{font-size:1.5rem}
dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.6rem}section{margin-top:3.2rem}
.card{grid-template-columns:4.5rem minmax(0,1fr)}.card img{width:4.5rem;height:4.5rem}
.tiles.small{grid-template-columns:repeat(4,1fr)}.duos{grid-template-columns:1fr 1fr;gap:1.2rem 1rem}
.worded td:first-child{white-space:normal}.duo figcaption{font-size:.76rem}}
@media print{main{max-width:none;padding:0}h2{break-after:avoid}figure,.figure{break-inside:avoid}}
"""


def page(title: str, body: str) -> str:
    """The whole document; `body` is trusted markup, the title is not."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n'
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(anchor: str, stage: str, title: str, *parts: str) -> str:
    """A chapter: the stage it tells of above its heading; parts are trusted markup."""
    body = "\n".join(part for part in parts if part)
    head = f'<p class="stage">{escape(stage)}</p><h2>{escape(title)}</h2>'
    return f'<section id="{anchor}">{head}\n{body}</section>'


def contents(chapters: Sequence[str]) -> str:
    """Links to the chapters there are, by their headings."""
    found = [re.match(r'<section id="([^"]+)">.*?<h2>(.*?)</h2>', chapter) for chapter in chapters]
    links = "".join(f'<a href="#{each[1]}">{each[2]}</a>' for each in found if each)
    return f'<nav aria-label="Chapters">{links}</nav>'


def note(text: str) -> str:
    """A paragraph in small print; trusted markup."""
    return f'<p class="note">{text}</p>'


def sentence(text: str) -> str:
    """A recorded reason as a sentence, escaped."""
    text = text.strip().rstrip(".")
    return escape(f"{text[:1].upper()}{text[1:]}.")


def box(words: str, value: str, lines: list[str], wide: bool = False) -> str:
    """One figure in large print with small lines beneath; the lines are trusted markup."""
    small = "".join(line if line.startswith("<small") else f"<small>{line}</small>" for line in lines)
    kind = "figure wide" if wide else "figure"
    return f'<div class="{kind}"><span>{escape(words)}</span><b>{escape(value)}</b>{small}</div>'


def boxes(found: Sequence[str]) -> str:
    """Figures side by side in rows as full as can be; nothing where there are none."""
    cells = len(found) + sum('class="figure wide"' in each for each in found)
    columns = min((4, 3), key=lambda each: (-cells % each, -each)) if cells > 4 else max(cells, 3)
    return f'<div class="figures" style="--columns:{columns}">{"".join(found)}</div>' if found else ""


def picture(png: str, alt: str) -> str:
    """An image from the base64 of its PNG."""
    said = escape(alt or "a real image", quote=True)
    return f'<img alt="{said}" src="data:image/png;base64,{escape(png, quote=True)}">'


def table(head: list[str], rows: list[list[str]], best: int | None = None, worded: bool = False) -> str:
    """A table that scrolls sideways where it is too wide; cells are trusted markup, the last column words or not."""
    top = "".join(f"<th>{escape(each)}</th>" for each in head)
    lines = [
        f"<tr{' class=best' if number == best else ''}>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for number, row in enumerate(rows)
    ]
    kind = ' class="worded"' if worded else ""
    body = f"<thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll"><table{kind}>{body}</table></div>'


def tile(png: str, caption: str, right: bool | None = None, seen: str = "") -> str:
    """An image with its prompt, a mark for right or wrong, and what was seen instead."""
    mark = ""
    if right is not None:
        mark = f'<span class="mark {"pass" if right else "miss"}">{"✓" if right else "✗"}</span>'
    note = f"<i>seen: {escape(seen)}</i>" if seen else ""
    text = f"<figcaption>{mark}{escape(caption)}{note}</figcaption>" if caption else ""
    return f"<figure>{picture(png, caption)}{text}</figure>"


def bars(rows: Sequence[tuple[str, float, float | None, float | None]]) -> str:
    """Shares as bars from 0 to 1 with their intervals as lines."""
    cells = []
    for name, value, low, high in rows:
        line = ""
        if low is not None and high is not None:
            line = f'<u style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></u>'
        bar = f'<div class="track"><i style="width:{100 * value:.2f}%"></i>{line}</div>'
        cells.append(f"<span>{escape(name)}</span>{bar}<span>{value:.1%}</span>")
    return f'<div class="bars">{"".join(cells)}</div>'
