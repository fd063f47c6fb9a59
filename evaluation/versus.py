"""Two versions of a model side by side: the verdict, what changed, every number, and the same prompts image by image.

`compare_versions` finds it out and `write_comparison` tells it: one page, one picture, one JSON file. Where the two
were measured differently the page names the fields and what changed, and claims nothing about the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.errors import ArtifactError

from .compare import compare_evaluations, read_side
from .gate import Champion, GateDecision, decide
from .gate_settings import GateSettings
from .versus_changes import Changes, VersionAccount, changes
from .versus_data import DataChange, Learned, data_change
from .versus_numbers import NumberRow, number_rows
from .versus_prompts import GroupRow, Outcomes, Pair, group_rows, outcomes, pairs

HTML, PNG, JSON = "comparison.html", "comparison.png", "comparison.json"


@dataclass(frozen=True)
class Version:
    """One side: what is known of it, its evaluation directory, and its data where they are at hand."""

    account: VersionAccount
    evaluation: Path
    learned: Learned | None = None
    why_no_data: str = ""


class Comparison(BaseModel):
    """What `comparison.json` holds, less the images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    old: VersionAccount
    new: VersionAccount
    decision: GateDecision
    changes: Changes
    data: DataChange | None = None
    data_note: str = Field(default="", description="Why the data could not be compared.")
    note: str = Field(
        default="", description="How the two came to be measured alike, where it took something."
    )
    numbers: list[NumberRow] = []
    unlike: list[str] = Field(default=[], description="Numbers that both have, but measured differently.")
    pairs: list[Pair] = []
    outcomes: Outcomes | None = None
    groups: list[GroupRow] = []

    @property
    def is_comparable(self) -> bool:
        """Whether the two were measured alike."""
        return self.decision.verdict != "incomparable"

    @property
    def title(self) -> str:
        """`shapes: version 12 against version 7`."""
        name = f"{self.new.name}: " if self.new.name and self.new.name == self.old.name else ""
        return f"{name}{self.new.label} against {self.old.label}"


def compare_versions(new: Version, old: Version, settings: GateSettings) -> Comparison:
    """Return how two versions differ, the new one as challenger of the old one.

    Raises:
        InputError: an evaluation is not whole.
        ArtifactError: data are damaged.
    """
    who = Champion(name=old.account.name, version=old.account.version) if old.account.version else None
    decision = decide(new.evaluation, old.evaluation, settings, who)
    data, why = _data(new, old)
    told: dict[str, Any] = {
        "old": old.account,
        "new": new.account,
        "decision": decision,
        "changes": changes(old.account, new.account),
        "data": data,
        "data_note": why,
    }
    if decision.verdict == "incomparable":
        return Comparison(**told)
    ours, theirs = read_side(new.evaluation), read_side(old.evaluation)
    differences = compare_evaluations(new.evaluation, old.evaluation)
    numbers, unlike = number_rows(ours, theirs, differences)
    found = pairs(ours, theirs)
    return Comparison(
        **told,
        numbers=numbers,
        unlike=unlike,
        pairs=found,
        outcomes=outcomes(ours, theirs, found),
        groups=group_rows(differences),
    )


def write_comparison(found: Comparison, new: Version, old: Version, directory: Path) -> dict[str, Path]:
    """Write the page, the picture and the JSON file into a directory; return their paths by kind.

    Raises:
        InputError: an atlas is damaged.
    """
    from .versus_page import comparison_page
    from .versus_picture import draw_comparison

    directory.mkdir(parents=True, exist_ok=True)
    paths = {"html": directory / HTML, "png": directory / PNG, "json_file": directory / JSON}
    sides = (read_side(new.evaluation), read_side(old.evaluation)) if found.is_comparable else None
    paths["html"].write_text(comparison_page(found, sides), encoding="utf-8")
    draw_comparison(found, sides).save(paths["png"])
    text = found.model_dump_json(indent=1, exclude={"data": {"shown"}})
    paths["json_file"].write_text(text + "\n", encoding="utf-8")
    return paths


def _data(new: Version, old: Version) -> tuple[DataChange | None, str]:
    if new.learned is None or old.learned is None:
        return None, new.why_no_data or old.why_no_data
    try:
        return data_change(old.learned, new.learned), ""
    except ArtifactError as error:
        return None, str(error)
