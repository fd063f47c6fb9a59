"""The headline score by group: how many objects, which attribute, which shape and colour, seen or unseen."""

from __future__ import annotations

from typing import Any

import numpy as np

from fluxmodel.data.procedural import LEVELS

from .curves import as_dict
from .instruments import Measured
from .statistics import mean_share, proportion
from .verdicts import ATTRIBUTES


def group_rows(measured: Measured, held_out: Measured | None, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Rows by kind of group; each has `group`, and intervals by metric."""
    if measured.verdicts is None or measured.asked.asked is None:
        return {}
    num_objects = measured.asked.asked.num_objects
    rows = {
        "num_objects": [
            _both(f"{count} object{'s' if count > 1 else ''}", measured, num_objects == count, seed)
            for count in sorted(set(num_objects.tolist()))
        ],
        "attribute": _by_attribute(measured, seed),
        "shape": _by_name(measured, "shape", seed),
        "color": _by_name(measured, "color", seed),
        "combination": [_both("like training", measured, np.ones(len(num_objects), bool), seed)],
    }
    if held_out is not None and held_out.asked.asked is not None:
        chosen = np.ones(len(held_out.asked), bool)
        rows["combination"].append(_both("never seen in training", held_out, chosen, seed))
    return rows


def group_shares(measured: Measured) -> dict[str, np.ndarray]:
    """Each image's share right of what a group asked of it, [n], by `<kind>_<name>`; NaN where it asked nothing.

    `color_red`: of the cells asked red, those seen red; `shape_ring` alike; `objects_2`: attributes right of the
    images asked two objects. What two models are compared by, group by group, prompt by prompt.
    """
    if measured.verdicts is None or measured.reading is None or measured.asked.asked is None:
        return {}
    asked, level = measured.asked.asked, LEVELS[measured.reading.level]
    shares = {}
    for kind, names in (("color", level.colors), ("shape", level.shapes)):
        wanted = getattr(asked, kind)
        seen = getattr(measured.reading, kind).numpy()
        for number, name in enumerate(names):
            cells = wanted == number
            num_asked, num_right = cells.sum(1), (cells & (seen == number)).sum(1)
            shares[f"{kind}_{name}"] = np.where(num_asked > 0, num_right / np.maximum(1, num_asked), np.nan)
    for count in sorted(set(asked.num_objects.tolist())):
        chosen = asked.num_objects == count
        shares[f"objects_{count}"] = np.where(chosen, measured.verdicts.accuracy, np.nan)
    return shares


def _both(name: str, measured: Measured, chosen: np.ndarray, seed: int) -> dict[str, Any]:
    verdicts = measured.verdicts
    assert verdicts is not None
    prompts = [prompt for prompt, kept in zip(measured.asked.prompts, chosen, strict=True) if kept]
    return {
        "group": name,
        "attr_acc": as_dict(mean_share(verdicts.accuracy[chosen], prompts, seed)),
        "all_correct": as_dict(proportion(verdicts.all_correct[chosen], prompts, seed)),
    }


def _by_attribute(measured: Measured, seed: int) -> list[dict[str, Any]]:
    verdicts = measured.verdicts
    assert verdicts is not None
    rows = []
    for name in ATTRIBUTES:
        chosen = verdicts.asked[name] > 0
        if chosen.any():
            share = verdicts.right[name][chosen] / verdicts.asked[name][chosen]
            prompts = [prompt for prompt, kept in zip(measured.asked.prompts, chosen, strict=True) if kept]
            rows.append({"group": name, "attr_acc": as_dict(mean_share(share, prompts, seed))})
    return rows


def _by_name(measured: Measured, attribute: str, seed: int) -> list[dict[str, Any]]:
    """How often each shape, or each colour, comes out right where it was asked for."""
    assert measured.reading is not None
    assert measured.asked.asked is not None
    level = LEVELS[measured.reading.level]
    asked = getattr(measured.asked.asked, attribute)
    right = getattr(measured.reading, attribute).numpy() == asked
    rows = []
    for number, name in enumerate(getattr(level, f"{attribute}s")):
        images, cells = np.nonzero(asked == number)
        if len(images):
            prompts = [measured.asked.prompts[image] for image in images]
            interval = mean_share(right[images, cells].astype(float), prompts, seed)
            rows.append({"group": name, "attr_acc": as_dict(interval)})
    return rows
