"""Image sliders: the same prompts and noise, over the steps of a training or over the solver steps of an evaluation.

MLflow opens every slider at step 0. In a training that is noise; in an evaluation that step holds the image a curve
is judged by: of the rectified model the one of fewest steps, of the base the one of most.
"""

import base64
from pathlib import Path

from tasks.cards import read_json
from tasks.tracking import Picture

SAMPLES = "samples"
"""Folder, beside a training child's spool, of the images it draws on its way."""


def training_pictures(samples: Path, name: str) -> list[Picture]:
    """Return the images a training drew, a slider `name/PROMPT` a prompt; none where it drew none."""
    return [read_picture(path, name) for path in sorted(samples.glob("*.png"))]


def read_picture(path: Path, name: str) -> Picture:
    """Return an image drawn while training; its file says of what prompt and at which step."""
    from PIL import Image

    with Image.open(path) as image:
        image.load()
        said = dict(image.info)
    return Picture(f"{name}/{said['prompt']}", int(said["step"]), path.read_bytes())


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
