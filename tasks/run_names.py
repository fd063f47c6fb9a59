"""Names of task runs that say what they do, from what the task was given: "train 1500 steps, seed 0".

They stand apart from the tasks' own files, whose code is part of a run key: another name makes nothing again.
"""

from collections.abc import Callable
from typing import Any

_LENGTH = 80


def namer(stage: str) -> Callable[[dict[str, Any]], str]:
    """Return what Prefect asks for the name of a run of `stage`; it never fails, as a name is not worth a run."""

    def name(parameters: dict[str, Any]) -> str:
        try:
            return run_name(stage.format(**parameters), parameters)
        except Exception:
            return stage

    return name


def run_name(stage: str, given: dict[str, Any]) -> str:
    """Return what a run of a stage does, in a few words."""
    job = given.get("job")
    kind, _, part = stage.partition("-")
    words = [kind, part.replace("_", " ")] if part else [kind]
    if stage == "curate":
        words.append(given["source"].data)
    elif stage == "caption":
        words.append(
            "with a model of your own" if given.get("own") else "" if given.get("captioner") else "as given"
        )
    elif stage == "rectify":
        words.append(f"{given['pairs'].num} pairs,")
    elif stage == "finetune":
        words.append(f"{given['style'].source.rpartition('/')[2]},")
    elif stage == "evaluate":
        words.append(f"{given['settings'].num_images} images")
    elif "name" in given:  # gate, register, vigil
        words += [given["name"], str(given.get("version") or "")]
    if job is not None:
        words.append(f"{job.steps} steps" + ("" if part else f", seed {job.seed}"))
    if stage == "train" and given.get("start") is not None:
        words.append("from the champion")
    return " ".join(word for word in words if word)[:_LENGTH]
