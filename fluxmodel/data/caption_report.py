"""What re-captioning gave: scores of new captions and alt texts, errors by attribute, images before and after."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fluxmodel.data.caption_scores import CaptionTally
from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.data.procedural import Level, Scene, alt_text, detailed_caption, draw_scene, render
from fluxmodel.encoders.captioner import Written

if TYPE_CHECKING:
    from fluxmodel.data.caption_rows import CaptionRow

UNSEEN_SEED = 950_000_000
"""Family of the scenes with unseen pairs; no data set and no evaluation draws from it."""
NUM_EXAMPLES = 10
_BOTH = ("shape", "color")
"""Attributes that alt texts state too."""


@dataclass
class HeldOutScenes:
    """Fresh scenes with pairs of shape and colour that nothing was trained on, and what was written of them."""

    scenes: list[Scene]
    pixels: np.ndarray
    alt: list[str]
    written: list[Written] = field(default_factory=list)


def held_out_scenes(level: Level, num: int) -> HeldOutScenes:
    """Draw them."""
    scenes = [draw_scene(level, UNSEEN_SEED, i, held_out=True) for i in range(num)]
    alt = [alt_text(scene, UNSEEN_SEED, i) for i, scene in enumerate(scenes)]
    pixels = render(scenes) if scenes else np.empty((0, level.image_size, level.image_size, 3), np.uint8)
    return HeldOutScenes(scenes, pixels, alt)


def caption_report(
    source: CuratedDataset,
    rows: Sequence[CaptionRow],
    unseen: HeldOutScenes | None,
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """Return metrics, errors, flags and examples as JSON; scores only where the scenes are known."""
    written = [row for row in rows if row.kind == "detailed" and row.revision is not None]
    flags = Counter(flag for row in written for flag in row.flags)
    num_images = len({row.id for row in rows})
    metrics: dict[str, float] = {
        "num_images": float(num_images),
        "num_captioned": float(len(written)),
        "flagged": sum(bool(row.flags) for row in written) / max(len(written), 1),
    }
    report: dict[str, Any] = {
        "provenance": provenance,
        "kinds": dict(Counter(row.kind for row in rows)),
        "flags": dict(flags),
    }
    split = "test" if source.num("test") else "train"
    test = {row.id: row for row in written if row.split == split}
    if unseen is not None and test:
        scored, errors = _scores(source, rows, test, split, unseen)
        metrics = {**scored, **metrics}
        report["errors"] = errors
    shown = _examples(source, rows, test, split) if test else []
    return {**report, "metrics": metrics, "examples": shown[:NUM_EXAMPLES], "mistakes": shown[NUM_EXAMPLES:]}


def _scores(
    source: CuratedDataset,
    rows: Sequence[CaptionRow],
    test: dict[str, CaptionRow],
    split: str,
    unseen: HeldOutScenes,
) -> tuple[dict[str, float], list[dict]]:
    """Score captioner and alt texts on the test split and on unseen pairs; the headline covers both."""
    truth = _truth(source, split)
    alt = {row.id: row.text for row in rows if row.split == split and row.kind == "alt"}
    # An image that could not be captioned has been told nothing of.
    seen_texts = [test[i].text if i in test else "" for i in truth]
    seen_scenes = list(truth.values())
    new_texts = [w.text for w in unseen.written]
    ours = CaptionTally.of(seen_texts + new_texts, seen_scenes + unseen.scenes)
    theirs = CaptionTally.of([alt.get(i, "") for i in truth] + unseen.alt, seen_scenes + unseen.scenes)
    figures, alt_figures = ours.figures(), theirs.figures()
    scored = {"f1": figures["f1"], "alt_f1": alt_figures["f1"], "exact": figures["exact"]}
    for name in ("precision", "recall"):
        scored |= {name: figures[name], f"alt_{name}": alt_figures[name]}
    scored["shape_and_color_f1"] = ours.figures(_BOTH)["f1"]
    scored["alt_shape_and_color_f1"] = theirs.figures(_BOTH)["f1"]
    parts = {"test": (seen_texts, seen_scenes), "unseen": (new_texts, unseen.scenes)}
    for name, (texts, scenes) in parts.items():
        part = CaptionTally.of(texts, scenes).figures()
        scored |= {f"{name}_f1": part["f1"], f"{name}_exact": part["exact"]}
    alt_errors = {row["attribute"]: row for row in theirs.errors()}
    errors = [{**row, "alt": alt_errors[row["attribute"]]} for row in ours.errors()]
    return scored, errors


def _truth(source: CuratedDataset, split: str) -> dict[str, Scene]:
    pairs = zip(source.ids(split), source.scenes(split), strict=True)
    return {own: Scene.from_json(scene) for own, scene in pairs if scene}


def _examples(
    source: CuratedDataset, rows: Sequence[CaptionRow], test: dict[str, CaptionRow], split: str
) -> list[dict]:
    """Return the first ten images of a split, then up to ten others that were captioned wrong."""
    truth = {own: detailed_caption(scene) for own, scene in _truth(source, split).items()}
    original: dict[str, str] = {}
    for row in rows:
        if row.split == split and row.kind in ("alt", "given"):
            original.setdefault(row.id, row.text)
    ids = source.ids(split)
    first = [i for i in ids if i in test][:NUM_EXAMPLES]
    wrong = [i for i in ids if i in truth and i in test and i not in first and test[i].text != truth[i]]
    wanted = set(first + wrong[:NUM_EXAMPLES])
    pixels = dict(_pixels(source, split, wanted))
    return [
        {
            "id": own,
            "image": _png(pixels[own]),
            "original": original.get(own),
            "new": test[own].text,
            "truth": truth.get(own),
            "score": test[own].score,
            "flags": list(test[own].flags),
        }
        for own in [*first, *wrong[:NUM_EXAMPLES]]
    ]


def _pixels(source: CuratedDataset, split: str, wanted: set[str]) -> Iterator[tuple[str, np.ndarray]]:
    for own, image in zip(source.ids(split), source.iter_pixels(split), strict=True):
        if own in wanted:
            yield own, image


def _png(image: np.ndarray) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
