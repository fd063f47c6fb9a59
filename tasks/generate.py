"""Drawing images with a registered model."""

import re
from dataclasses import dataclass
from pathlib import Path

from fluxmodel.errors import InputError
from tasks.home import Home


@dataclass(frozen=True)
class DrawnImage:
    """One image on disk: where it is, and what it was drawn from."""

    path: str
    prompt: str
    seed: int


def draw(
    home: Home, prompts: list[str], model: str, steps: int, guidance: float, seed: int, out: Path
) -> list[DrawnImage]:
    """Write one PNG a prompt below `out`; `model` is a registered NAME, NAME@VERSION or a directory.

    Raises:
        InputError: no such model, or a value out of its range.
    """
    for name, value in (("steps", steps), ("guidance", guidance), ("seed", seed)):
        if value < 0:
            raise InputError(f"--{name} is {value}; give 0 or more.")
    directory = find_model(home, model)
    from fluxmodel.text_to_image import TextToImage

    pipe = TextToImage.from_pretrained(directory)
    images = pipe(prompts, num_steps=steps or None, guidance=guidance or None, seed=seed)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be made ({error.strerror}); name a folder you own.") from error
    drawn = []
    for number, (prompt, image) in enumerate(zip(prompts, images, strict=True)):
        path = out / f"{_slug(prompt)}-{seed + number}.png"
        image.save(path)
        drawn.append(DrawnImage(str(path), prompt, seed + number))
    return drawn


def find_model(home: Home, model: str) -> Path:
    """Return the directory of a model named by path, by NAME@VERSION or by NAME alone; default the newest name.

    Of a name alone it is the champion, else the challenger, else the newest version.

    Raises:
        InputError: there is none.
    """
    if model and Path(model).is_dir():
        return Path(model)
    if "/" in model:
        raise InputError(f"--model {model} is not a directory; name one, or a registered model.")
    from tasks import registry

    with registry.answering(home):
        name, _, which = model.partition("@")
        found = registry.find_version(home, name or registry.newest_model_name(home), which)
        return registry.model_directory(home, found)


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "image"
