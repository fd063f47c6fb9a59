"""Image sliders of an evaluation: the same prompts and noise, one step of the slider a number of solver steps."""

import base64
from pathlib import Path

from tasks.cards import read_json
from tasks.tracking import Picture


def step_pictures(directory: Path, curves: tuple[str, ...] = ()) -> list[Picture]:
    """Return the images of an evaluation by number of solver steps, a slider a curve and prompt.

    Args:
        directory: of the evaluation; its gallery.json holds the images.
        curves: those wanted; all by default.
    """
    shown = read_json(directory / "gallery.json").get("steps") or {}
    prompts = shown.get("prompts", [])
    return [
        Picture(f"{column['curve']}/{prompt}", int(column["steps"]), base64.b64decode(png))
        for column in shown.get("columns", [])
        if not curves or column["curve"] in curves
        for prompt, png in zip(prompts, column["pngs"], strict=False)
    ]
