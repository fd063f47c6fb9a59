"""The page of curation: what came in, what each rule dropped, and the pictures to judge the rules by.

One file without a script or a request: styles inline, pictures as base64.
"""

from __future__ import annotations

import base64
import html
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fluxmodel.data.records import EXPLANATIONS, Reason

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from fluxmodel.data.curation import CurationReport
    from fluxmodel.data.decision_log import Failure

_PICTURE_SIDE = 96
_MAX_KEPT, _MAX_PER_REASON = 32, 8


@dataclass(frozen=True)
class Picture:
    """One thumbnail as PNG bytes with its two lines of text."""

    image: bytes
    title: str
    text: str


class Gallery:
    """Collects a bounded number of pictures while curation passes by."""

    def __init__(self) -> None:
        self.kept: list[Picture] = []
        self.dropped: dict[Reason, list[Picture]] = {}
        self._wanted_kept: set[int] = set()
        self._pairs: dict[Reason, list[tuple[int, int]]] = {}
        self._found: dict[int, Picture] = {}

    def note_dropped(self, image: bytes, failure: Failure) -> None:
        """Keep a thumbnail of an image that was dropped, if its reason has room."""
        pictures = self.dropped.setdefault(failure.reason, [])
        if len(pictures) < _MAX_PER_REASON:
            pictures.append(Picture(_thumbnail(image), failure.name, failure.detail))

    def note_duplicate(self, index: int, survivor: int, failure: Failure) -> None:
        """Remember to show a duplicate beside the image that was kept for it."""
        pairs = self._pairs.setdefault(failure.reason, [])
        if len(pairs) < _MAX_PER_REASON:
            pairs.append((index, survivor))

    def choose_kept(self, kept: np.ndarray) -> None:
        """Choose evenly spread kept images to show."""
        import numpy as np

        indices = np.flatnonzero(kept)
        places = np.linspace(0, len(indices) - 1, min(_MAX_KEPT, len(indices))).astype(int)
        self._wanted_kept = set(indices[places].tolist())

    def take(self, start: int, batch: pa.RecordBatch) -> None:
        """Take the wanted pictures out of a batch of candidates whose first has the index `start`."""
        wanted = self._wanted_kept | {
            index for pairs in self._pairs.values() for pair in pairs for index in pair
        }
        for index in sorted(wanted & set(range(start, start + batch.num_rows))):
            row = batch.slice(index - start, 1).to_pylist()[0]
            caption = row["captions"][0]["text"]
            picture = Picture(_thumbnail(row["image"]["bytes"]), row["id"], caption)
            self._found[index] = picture
            if index in self._wanted_kept:
                self.kept.append(picture)

    def pairs(self) -> dict[Reason, list[tuple[Picture, Picture]]]:
        """Return the duplicates beside the images kept for them."""
        return {
            reason: [(self._found[index], self._found[survivor]) for index, survivor in pairs]
            for reason, pairs in sorted(self._pairs.items())
        }


def write_page(report: CurationReport, gallery: Gallery) -> None:
    """Write report.html beside the shards."""
    rules = json.loads((report.report.parent / "curation.json").read_text(encoding="utf-8"))["rules"]
    sections = [
        _funnel(report),
        _section("Kept", "".join(_figure(picture) for picture in gallery.kept)),
        *[_dropped_section(reason, pictures) for reason, pictures in sorted(gallery.dropped.items())],
        *[_pair_section(reason, pairs) for reason, pairs in gallery.pairs().items()],
        _table(
            "Refused",
            ("file", "reason", "what was found"),
            [(d.path, d.reason, d.detail) for d in report.refused],
        ),
        _table("Rules", ("rule", "value"), [(name, str(value)) for name, value in rules.items()]),
        _table("Rules not applied", ("rule", "why"), list(report.skipped_rules.items())),
        _table(
            "Files that are neither image nor caption",
            ("suffix", "files"),
            list(report.ignored_files.items()),
        ),
    ]
    body = "\n".join(section for section in sections if section)
    title = f"Curation of {html.escape(report.data)}"
    page = _PAGE.format(title=title, style=_STYLE, body=body)
    report.report.write_text(page, encoding="utf-8")


def _thumbnail(data: bytes) -> bytes:
    """Return an image as a small PNG of its whole frame."""
    import numpy as np
    from PIL import Image

    from fluxmodel.data.decode import decode, encode_png

    image = Image.fromarray(decode(data, max_pixels=1 << 62))
    image.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE), Image.Resampling.BOX)
    return encode_png(np.asarray(image))


def _funnel(report: CurationReport) -> str:
    """Return the counts as bars: what came in, what each reason took away, what is left."""
    rows = [("seen", "seen", report.seen, "")]
    rows += [("dropped", reason, count, _explain(reason)) for reason, count in report.dropped.items()]
    rows += [("train", "kept for training", report.splits["train"], "")]
    rows += [("test", "kept for testing", report.splits["test"], "")]
    bars = "".join(
        f'<tr><th>{html.escape(name)}</th><td class="n">{count:,}</td><td class="bar"><i class="{kind}" '
        f'style="width:{100 * count / max(report.seen, 1):.2f}%"></i></td><td>{html.escape(why)}</td></tr>'
        for kind, name, count, why in rows
    )
    others = ", ".join(f"{count} {reason}" for reason, count in report.caption_problems.items())
    note = f"<p>Beside the images, of captions, metadata rows and folders: {html.escape(others)}.</p>"
    lead = f"<p>{report.seen:,} images seen = {report.kept:,} kept + {sum(report.dropped.values()):,} dropped.</p>"
    return f'{lead}<table class="funnel">{bars}</table>{note if others else ""}'


def _explain(reason: str) -> str:
    return EXPLANATIONS[Reason(reason)]


def _dropped_section(reason: Reason, pictures: list[Picture]) -> str:
    figures = "".join(_figure(picture) for picture in pictures)
    return _section(f"Dropped: {reason}", figures, _explain(reason))


def _pair_section(reason: Reason, pairs: list[tuple[Picture, Picture]]) -> str:
    figures = "".join(
        f'<div class="pair">{_figure(dropped, "dropped")}{_figure(kept, "kept")}</div>'
        for dropped, kept in pairs
    )
    return _section(f"Dropped: {reason}", figures, _explain(reason))


def _section(title: str, figures: str, lead: str = "") -> str:
    lead = f"<p>{html.escape(lead)}</p>" if lead else ""
    return f'<h2>{html.escape(title)}</h2>{lead}<div class="grid">{figures}</div>' if figures else ""


def _figure(picture: Picture, label: str = "") -> str:
    data = base64.b64encode(picture.image).decode()
    shown = f'<img alt="" src="data:image/png;base64,{data}">'
    title, text = html.escape(picture.title), html.escape(picture.text)
    label = f"<em>{label}</em> " if label else ""
    return f'<figure>{shown}<figcaption>{label}<b title="{title}">{title}</b>{text}</figcaption></figure>'


def _table(title: str, head: tuple[str, ...], rows: list[tuple]) -> str:
    if not rows:
        return ""
    header = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<h2>{html.escape(title)}</h2><table class="list"><tr>{header}</tr>{body}</table>'


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c2330;background:#fff;max-width:1100px;margin:32px auto;padding:0 24px}
h1{font-size:26px;margin:0 0 8px}h2{font-size:18px;margin:36px 0 8px}p{margin:4px 0 12px}
table{border-collapse:collapse;width:100%}th{text-align:left;font-weight:600;white-space:nowrap}
td,th{padding:4px 12px 4px 0;vertical-align:top}.n{text-align:right;font-variant-numeric:tabular-nums}
.bar{width:38%}.bar i{display:block;height:14px;margin-top:4px;min-width:2px;border-radius:3px;background:#9aa5b8}
.bar .dropped{background:#d9603b}.bar .train{background:#2f7d5b}.bar .test{background:#3f6fc4}
.list td,.list th{border-top:1px solid #e4e8ee;overflow-wrap:anywhere}
.grid{display:flex;flex-wrap:wrap;gap:16px}figure{margin:0;width:118px;font-size:12px;line-height:1.35}
figure img{width:96px;height:96px;object-fit:contain;image-rendering:pixelated;background:#eef1f5;
border:1px solid #d8dee7;border-radius:4px}
figcaption{overflow-wrap:anywhere}figcaption b{font-weight:600;display:-webkit-box;overflow:hidden;
-webkit-line-clamp:2;-webkit-box-orient:vertical}figcaption em{color:#6b7588}
.pair{display:flex;gap:4px;padding:8px;border:1px solid #e4e8ee;border-radius:6px}
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{style}</style></head>
<body><h1>{title}</h1>
{body}
</body></html>
"""
