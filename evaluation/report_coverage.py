"""The report's section on the set as a whole: are all kinds of images drawn, or a few, or some known by heart?"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from .page import note, section, table
from .report_numbers import interval_cell, percent_with_interval

_COLUMNS = {
    "precision": "like real ones",
    "density": "density",
    "coverage": "real ones reached",
    "recall": "recall",
    "mind": "Monge",
}


def coverage(document: Mapping[str, Any]) -> str:
    """Precision, coverage and the nearest training images; nothing where they were not measured."""
    metrics = {each["name"]: each for each in document["metrics"]}
    names = [name for name in _COLUMNS if name in metrics]
    nearest = _nearest(document.get("nearest"), metrics.get("memorised"))
    if not names:
        return ""
    real = document["baselines"].get("real_against_real", {})
    rows = [["<b>this model</b>", *(interval_cell(name, metrics.get(name)) for name in names)]]
    if any(name in real for name in names):
        rows.append(["real images", *(interval_cell(name, real.get(name)) for name in names)])
    said = note(
        "Each image's nearest neighbours say whether it lies among the real ones (precision, density) and whether the "
        "real ones are reached by it (coverage, recall): a model that draws one image well has the first and not the "
        "second. The Monge distance sees all moments of the features, the Frechet distance two."
    )
    leaked = note(_leakage(document.get("leakage")))
    head = ["", *(_COLUMNS[name] for name in names)]
    return section(
        "coverage", "evaluate", "Does it draw all of them?", said, table(head, rows, 0), note(nearest), leaked
    )


def _nearest(nearest: Mapping[str, Any] | None, memorised: Mapping[str, Any] | None) -> str:
    """What is known of images learnt by heart."""
    if not nearest or not memorised:
        return ""
    return (
        f"Learnt by heart: {percent_with_interval(memorised)} of its images lie as near to one of "
        f"{nearest['num_training']:,} training images as {nearest['of_real']:.1%} of real images do that were never "
        f"trained on. It is the nearer one in {nearest['nearer_than_real']:.0%} of pairs; by chance in 50 %."
    )


def _leakage(found: Mapping[str, Any] | None) -> str:
    """What of the evaluation has a near twin in training."""
    if not found:
        return ""
    images, prompts = (
        found[same] + found[near]
        for same, near in (("same_pixels", "near_images"), ("same_captions", "near_captions"))
    )
    return (
        f"Leakage: {images} of {found['num_images']:,} evaluation images have a near twin among "
        f"{found['num_training']:,} training images ({found['same_pixels']} by equal pixels), and {prompts} of "
        f"{found['num_prompts']:,} prompts among its captions ({found['same_captions']} equal). {escape(found['note'])}"
    )
