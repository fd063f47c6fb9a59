"""The headline by the groups that a file of prompts names; a GenEval-style file names its tags."""

from __future__ import annotations

from typing import Any

import numpy as np

from .curves import as_dict
from .instruments import Measured
from .statistics import clustered_bootstrap, mean_share, proportion


def given_groups(measured: Measured) -> dict[str, list[dict[str, Any]]]:
    """Return rows of the kind `given`, one a group: its name, and an interval of every metric read image by image."""
    names = [name for name in dict.fromkeys(measured.asked.groups) if name]
    groups = np.asarray(measured.asked.groups, dtype=object)
    return {"given": [_row(name, measured, groups == name) for name in names]} if names else {}


def unanswered(measured: Measured) -> dict[str, str]:
    """Return why tasks were not answered, under the metric's name; empty where all were."""
    if not measured.asked.tasks:
        return {}
    if measured.answers is None:
        return {"geneval": "no scene judge: these images have no scene description to be judged by"}
    asked = sum(task is not None for task in measured.asked.tasks)
    lost = sum(measured.answers.unjudged.values())
    if not lost:
        return {}
    reasons = sorted(measured.answers.unjudged.items(), key=lambda each: (-each[1], each[0]))
    more = f" and {len(reasons) - 3} more such words" if len(reasons) > 3 else ""
    said = "; ".join(f"{reason} ({count} images)" for reason, count in reasons[:3])
    return {"geneval tasks": f"{lost} of {asked} were not judged, and count neither way: {said}{more}"}


def _row(name: str, measured: Measured, chosen: np.ndarray) -> dict[str, Any]:
    prompts, seed = [p for p, kept in zip(measured.asked.prompts, chosen, strict=True) if kept], measured.seed
    row: dict[str, Any] = {"group": name}
    answers, verdicts = measured.answers, measured.verdicts
    if answers is not None and (judged := chosen & answers.judged).any():
        asked = [p for p, kept in zip(measured.asked.prompts, judged, strict=True) if kept]
        row["geneval"] = as_dict(proportion(answers.right[judged] == 1, asked, seed))
        row["geneval_undecided"] = as_dict(proportion(answers.undecided[judged], asked, seed))
    if verdicts is not None:
        row["attr_acc"] = as_dict(mean_share(verdicts.accuracy[chosen], prompts, seed))
        row["all_correct"] = as_dict(proportion(verdicts.all_correct[chosen], prompts, seed))
    if measured.hits is not None and len(measured.hits):
        row["retrieval"] = as_dict(proportion(measured.hits[chosen], prompts, seed))
    if measured.clip is not None:
        row["clip"] = as_dict(clustered_bootstrap(measured.clip[chosen], prompts, seed))
    return row
