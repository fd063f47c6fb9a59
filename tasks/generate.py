"""Drawing images with a registered model."""

import hashlib
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


@dataclass(frozen=True)
class Drawing:
    """How to draw.

    Attributes:
        model: a registered NAME, NAME@VERSION or a directory; empty is the newest name.
        variant: of the model; empty is its default, the rectified one where there is one.
        lora: name of one of the model's LoRAs, or a directory with one; empty draws without.
        lora_scale: how strongly it acts.
        steps: solver steps; 0 is the variant's default.
        guidance: 1 is unguided; 0 the variant's default.
        seed: of the first image.
    """

    model: str = ""
    variant: str = ""
    lora: str = ""
    lora_scale: float = 1.0
    steps: int = 0
    guidance: float = 0.0
    seed: int = 0


def draw(home: Home, prompts: list[str], how: Drawing, out: Path) -> list[DrawnImage]:
    """Write one PNG a prompt below `out`; each carries its recipe.

    Raises:
        InputError: no such model, variant or LoRA, or a value out of its range.
    """
    for name, value in (("steps", how.steps), ("guidance", how.guidance), ("seed", how.seed)):
        if value < 0:
            raise InputError(f"--{name} is {value}; give 0 or more.")
    directory = find_model(home, how.model)
    from fluxmodel.drawing import DrawingModel

    pictures = DrawingModel(directory).draw(
        prompts,
        seed=how.seed,
        num_steps=how.steps or None,
        guidance=how.guidance or None,
        variant=how.variant,
        lora=find_lora(directory, how.lora) if how.lora else None,
        lora_scale=how.lora_scale,
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be made ({error.strerror}); name a folder you own.") from error
    drawn = []
    for picture in pictures:
        prompt, seed = picture.recipe.prompt, picture.recipe.seed
        path = _place(out, prompt, seed)
        path.write_bytes(picture.png)
        drawn.append(DrawnImage(str(path), prompt, seed))
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


def find_lora(model: Path, lora: str) -> Path:
    """Return where a LoRA lies: one of the model's by name, or any file or directory by path.

    Raises:
        InputError: there is none.
    """
    own = model / "loras" / lora
    if own.is_dir():
        return own
    if Path(lora).exists():
        return Path(lora)
    names = sorted(place.name for place in (model / "loras").glob("*"))
    said = f"this model has {', '.join(names)}" if names else "this model has none"
    raise InputError(f"--lora {lora}: {said}; name one of its LoRAs, or the path of another.")


def _place(out: Path, prompt: str, seed: int) -> Path:
    """Return the file of a prompt and seed: its own from before, or a new one; never what holds anything else."""
    plain = out / f"{_slug(prompt)}-{seed}.png"
    if not plain.exists() or _prompt_of(plain) == prompt:
        return plain
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:12]
    return out / f"{_slug(prompt)}-{digest}-{seed}.png"


def _prompt_of(path: Path) -> str | None:
    from fluxmodel.recipe import read_recipe

    try:
        return read_recipe(path).prompt
    except InputError:  # someone else's file
        return None


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "image"
