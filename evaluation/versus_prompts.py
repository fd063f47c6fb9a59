"""The same prompts from the same noise by two versions: which each gets right, and where each is strong.

Right is an image with all it was asked for (`all_correct`) where there is a judge, else one whose own caption is
found. Groups are colours, shapes and numbers of objects; each difference is paired, and Holm's correction covers
all groups, because among thirty of them one is "significant" by luck.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from .atlas import has_atlas, read_atlas
from .compare import Difference, Side
from .statistics import mcnemar_exact
from .versus_numbers import GROUPS, NumberRow, marked

RIGHT = ("all_correct", "retrieved")
LEAST_IN_A_GROUP = 8
"""Images below which a group says nothing."""


class Pair(BaseModel):
    """One prompt from one noise, by both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    seed: int
    old_index: int = Field(description="Place of the image among the old version's headline images.")
    new_index: int
    old_right: bool | None = None
    new_right: bool | None = None


class Outcomes(BaseModel):
    """Who gets how many images right."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measure: str = Field(description="What right means: all_correct or retrieved.")
    both: int
    only_new: int
    only_old: int
    neither: int
    p_value: float = Field(description="McNemar's exact test, two-sided.")


class GroupRow(BaseModel):
    """One group's paired difference."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field(description="color, shape or objects.")
    name: str
    number: NumberRow


def pairs(new: Side, old: Side) -> list[Pair]:
    """Return the headline images both drew, in the order of the test."""
    ours, theirs = new.at("headline"), old.at("headline")
    column = next((name for name in RIGHT if name in new.columns and name in old.columns), "")
    found = [
        Pair(
            prompt=prompt,
            seed=seed,
            old_index=_place(old, theirs[prompt, seed], min(theirs.values())),
            new_index=_place(new, row, min(ours.values())),
            old_right=bool(old.columns[column][theirs[prompt, seed]]) if column else None,
            new_right=bool(new.columns[column][row]) if column else None,
        )
        for (prompt, seed), row in ours.items()
        if (prompt, seed) in theirs
    ]
    return sorted(found, key=lambda each: each.new_index)


def outcomes(new: Side, old: Side, found: list[Pair]) -> Outcomes | None:
    """Return who gets how many right; None where nothing says what is right."""
    if not found or any(each.new_right is None or each.old_right is None for each in found):
        return None
    only_new = sum(bool(each.new_right and not each.old_right) for each in found)
    only_old = sum(bool(each.old_right and not each.new_right) for each in found)
    both = sum(bool(each.new_right and each.old_right) for each in found)
    measure = next(name for name in RIGHT if name in new.columns and name in old.columns)
    _, p_value = mcnemar_exact(only_new, only_old)
    return Outcomes(
        measure=measure,
        both=both,
        only_new=only_new,
        only_old=only_old,
        neither=len(found) - both - only_new - only_old,
        p_value=p_value,
    )


def group_rows(differences: Mapping[str, Difference]) -> list[GroupRow]:
    """Return each group's paired difference, numbers of objects in rising order, with Holm's p over all groups."""
    found = [
        row for name, row in differences.items() if name.startswith(GROUPS) and row.n >= LEAST_IN_A_GROUP
    ]
    numbers = marked([NumberRow(row=row) for row in found])
    parts = [each.row.name.removeprefix(GROUPS).partition("_") for each in numbers]
    return [
        GroupRow(kind=kind, name=name, number=each)
        for (kind, _, name), each in zip(parts, numbers, strict=True)
    ]


def headline_pngs(side: Side, wanted: set[int]) -> dict[int, str]:
    """Return the base64 PNG of headline images by their place: from the atlas, else the first ones of the gallery.

    Raises:
        InputError: the atlas is damaged.
    """
    if has_atlas(side.directory):
        images = read_atlas(side.directory)
        return {
            place: _png(images[place].permute(1, 2, 0).numpy()) for place in wanted if place < len(images)
        }
    gallery = side.directory / "gallery.json"  # evaluations of earlier code keep the first images only
    if not gallery.is_file():
        return {}
    tiles = json.loads(gallery.read_text(encoding="utf-8")).get("samples", [])
    return {place: tiles[place]["png"] for place in wanted if place < len(tiles)}


def _place(side: Side, row: int, first: int) -> int:
    """Place of a row among the headline's; rows of a set stand in one block."""
    return int(side.columns["index"][row]) if "index" in side.columns else row - first


def _png(pixels: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
