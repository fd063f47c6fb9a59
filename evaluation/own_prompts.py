"""A user's prompts in the place of the data's, and what can be judged of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from fluxmodel.data.procedural import LEVELS, CaptionScene, Scene, SceneObject, parse_caption
from fluxmodel.errors import InputError

from .identity import digest_of
from .prompt_files import FilePrompt, read_prompts
from .prompts import Benchmark, PromptSet, noise_seed, render_tensor
from .settings import EvaluationSettings
from .verdicts import AskedScenes

GENEVAL = Path("geneval")
"""In place of a file: a GenEval-style set in the words of the data's scenes."""


def with_prompts(benchmark: Benchmark, path: Path, settings: EvaluationSettings) -> Benchmark:
    """Return the benchmark with a file's prompts asked, `settings.num_images` of them, and nothing beside them.

    Fewer prompts than images begin again with other noise. The reference stays, so distances say how far the images
    are from the data's, whatever was asked.

    Raises:
        InputError: the file is wrong, or scenes are asked for where the data shows none.
    """
    path = Path(path)
    if path == GENEVAL:
        if benchmark.level is None:
            raise InputError(
                "--prompts geneval is made of scenes, and this data is a folder; name a file of prompts."
            )
        from .geneval import scene_tasks

        found = scene_tasks(benchmark.level, settings.num_images, settings.seed)
        source = f"GenEval-style tasks on scenes of level {benchmark.level}"
    else:
        found, source = read_prompts(path), "a file"
    rows = _rows(found, settings)
    source += f", content {digest_of([each.model_dump(mode='json') for each in rows])}"
    prompts, said = _prompt_set(rows, source, benchmark.level)
    return replace(
        benchmark,
        prompts=prompts,
        held_out=None,
        detailed=None,
        real=_rendered(prompts, benchmark.level),
        unjudged=said,
    )


def _rows(found: list[FilePrompt], settings: EvaluationSettings) -> list[FilePrompt]:
    """As many rows as images are wanted, each with its seed."""
    first, rows = noise_seed(settings), []
    for number in range(settings.num_images):
        each, turn = found[number % len(found)], number // len(found)
        seed = first + number if each.seed is None else each.seed + turn
        rows.append(each.model_copy(update={"seed": seed}))
    if len({(each.prompt, each.seed) for each in rows}) < len(rows):
        raise InputError(
            f"--num-images is {len(rows)}, more than the {len(found)} prompts, and their seeds follow each other so "
            "closely that images would come twice; ask for fewer, or leave the seeds out of the file."
        )
    return rows


def _prompt_set(rows: list[FilePrompt], source: str, level: str | None) -> tuple[PromptSet, dict[str, str]]:
    """The rows as a prompt set, and why what cannot be judged of them is not."""
    asked, captions, said = None, (), {}
    if level is not None:
        captions, said = _captions(rows, level)
        asked = AskedScenes.of(captions, level) if captions else None
    prompts = PromptSet(
        name="given",
        prompts=[each.prompt for each in rows],
        seeds=[each.seed or 0 for each in rows],
        source=source,
        asked=asked,
        captions=captions,
        groups=tuple(each.group for each in rows),
        tasks=tuple(each.task for each in rows) if any(each.task for each in rows) else (),
    )
    return prompts, said


def _captions(rows: list[FilePrompt], level: str) -> tuple[tuple[CaptionScene, ...], dict[str, str]]:
    """What the prompts say of scenes; nothing, with the reason, where one of them is no sentence of the grammar."""
    captions, faults = [], []
    for each in rows:
        try:
            captions.append(parse_caption(each.prompt, LEVELS[level]))
        except InputError as error:
            faults.append(str(error))
    if not faults:
        return tuple(captions), {}
    said = f"{len(faults)} of {len(rows)} prompts are no sentence about scenes of level {level}: {faults[0]}"
    return (), {"attr_acc": said}


def _rendered(prompts: PromptSet, level: str | None) -> Tensor | None:
    """What the prompts describe, drawn exactly; None where they describe no scenes."""
    if not prompts.captions or level is None:
        return None
    size, ground = LEVELS[level].sizes[-1], LEVELS[level].backgrounds[0]
    return render_tensor(
        [
            Scene(
                level,
                caption.background or ground,
                tuple(SceneObject(o.shape, o.color, o.size or size, o.row, o.col) for o in caption.objects),
            )
            for caption in prompts.captions
        ]
    )
