"""Image sliders of an evaluation: the same prompts and noise, one step of the slider a number of solver steps.

MLflow opens every slider at step 0, so that step holds the image a curve is judged by: of the rectified model the one
of fewest steps, of the base the one of most.
"""

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
    columns = [c for c in shown.get("columns", []) if not curves or c["curve"] in curves]
    pictures = []
    for curve in dict.fromkeys(column["curve"] for column in columns):
        own = sorted((c for c in columns if c["curve"] == curve), key=lambda column: column["steps"])
        first = own[0] if curve == "rectified" else own[-1]
        for column, step in ((first, 0), *((c, int(c["steps"])) for c in own)):
            pairs = zip(prompts, column["pngs"], strict=False)
            pictures += [Picture(f"{curve}/{prompt}", step, base64.b64decode(png)) for prompt, png in pairs]
    return pictures
