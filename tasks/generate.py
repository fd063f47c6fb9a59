"""Drawing images with a registered model."""

import hashlib
import json
import math
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fluxmodel.errors import InputError
from tasks.drawing import Drawing
from tasks.home import Home

if TYPE_CHECKING:
    from fluxmodel.recipe import Recipe


@dataclass(frozen=True)
class DrawnImage:
    """One image on disk: where it is, and what it was drawn from."""

    path: str
    prompt: str
    seed: int


def draw(
    home: Home,
    prompts: list[str],
    how: Drawing,
    out: Path,
    batch_size: int = 1,
    like: "tuple[Path, Recipe] | None" = None,
) -> list[DrawnImage]:
    """Write one PNG a prompt below `out`; each carries its recipe.

    Args:
        home: where models are registered.
        prompts: what to draw.
        how: to draw it.
        out: folder for the PNG files.
        batch_size: least number of images drawn together; those beyond the prompts are thrown away.
        like: an image and its recipe, whose LoRA it has to be; default whichever has the name.

    Raises:
        InputError: no such model, variant or LoRA, or a value out of its range.
    """
    for name in ("steps", "guidance", "seed", "height", "width"):
        if getattr(how, name) < 0:
            raise InputError(f"--{name} is {getattr(how, name)}; give 0 or more.")
    if not math.isfinite(how.lora_scale):
        raise InputError(f"--lora-scale is {how.lora_scale}; give a finite number, such as 0.8.")
    directory = find_model(home, how.model)
    lora = find_lora(directory, how.lora) if how.lora else None
    if lora is not None and like is not None:
        _require_same_lora(lora, *like)
    from fluxmodel.drawing import DrawingModel

    beyond = [prompts[-1]] * (batch_size - len(prompts))
    pictures = DrawingModel(directory, cache=home.cache).draw(
        [*prompts, *beyond],
        seed=how.seed,
        num_steps=how.steps or None,
        guidance=how.guidance or None,
        variant=how.variant,
        lora=lora,
        lora_scale=how.lora_scale,
        solver=how.solver,
        true_guidance=how.true_guidance,
        negative=how.negative,
        size=(how.height or None, how.width or None),
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be made ({error.strerror}); name a folder you own.") from error
    drawn = []
    for picture in pictures[: len(prompts)]:
        prompt, seed = picture.recipe.prompt, picture.recipe.seed
        path = _place(out, picture.recipe)
        path.write_bytes(picture.png)
        drawn.append(DrawnImage(str(path), prompt, seed))
    return drawn


def draw_again(home: Home, image: Path, prompts: list[str], how: Drawing, out: Path) -> list[DrawnImage]:
    """Draw as an image was drawn, by the recipe that its file carries; with nothing changed, the same file.

    Args:
        home: where models are registered.
        image: a PNG that Fluxline drew.
        prompts: what to draw instead; none draws its own prompt.
        how: what is set in it goes before the recipe. Where it sets no model, the one that drew the image is found.
        out: folder for the PNG files.

    Raises:
        InputError: the file carries no recipe, or its model is not registered here, or its LoRA is another.
    """
    from fluxmodel.recipe import read_recipe

    recipe = read_recipe(image)
    told = how.model_dump(include=how.model_fields_set)
    by = {name: getattr(recipe, name) for name in Drawing.model_fields if name not in ("model", "steps")}
    by["model"] = how.model or _model_of(home, image, recipe.model)
    by["steps"] = recipe.num_steps
    asked = Drawing(**{**by, **told})
    like = None if "lora" in told else (image, recipe)
    return draw(home, prompts or [recipe.prompt], asked, out, recipe.batch_size, like)


def _require_same_lora(lora: Path, image: Path, recipe: "Recipe") -> None:
    """Refuse a file that has the name of an image's LoRA and is another; an older image does not know its LoRA's."""
    from fluxmodel.lora_files import find_lora as find_file
    from fluxmodel.lora_passport import file_digest

    if recipe.lora_digest and file_digest(find_file(lora)) != recipe.lora_digest:
        raise InputError(
            f"{image} was drawn with another LoRA {recipe.lora} than {lora} (sha256 {recipe.lora_digest}); "
            "name its file, or this one if you mean it, with --lora."
        )


def _model_of(home: Home, image: Path, digest: str) -> str:
    """Return the registered version whose files have this digest.

    Raises:
        InputError: there is none.
    """
    from tasks import registry

    if not digest:
        raise InputError(f"{image} does not say which model drew it; name the model with --model.")
    with registry.answering(home):
        for version in registry.all_versions(home):
            if version.tags.get("artifact_digest") == digest:
                return f"{version.name}@{version.version}"
    raise InputError(
        f"{image} was drawn by a model with digest {digest}, which is not registered here; "
        "name its directory, or another model, with --model."
    )


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


def _place(out: Path, recipe: "Recipe") -> Path:
    """Return the file of a recipe: its own from before, or a new one; never what holds anything else."""
    plain = out / f"{_slug(recipe.prompt)}-{recipe.seed}.png"
    if not os.path.lexists(plain) or _recipe_of(plain) == recipe:
        return plain
    digest = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode()).hexdigest()[:12]
    return out / f"{_slug(recipe.prompt)}-{digest}-{recipe.seed}.png"


def _recipe_of(path: Path) -> "Recipe | None":
    from fluxmodel.recipe import read_recipe

    try:
        return read_recipe(path)
    except InputError:  # someone else's file
        return None


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "image"
