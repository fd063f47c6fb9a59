"""What a LoRA does to a model: is the style there when asked for and only then, and are prompts still followed?

All figures share prompts and noise, so every change is paired: LoRA on and off, with the trigger word and without.
A trained classifier says whether an image wears the style; the scene judge reads it in the look that fits it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fluxmodel.data.decode import encode_png
from fluxmodel.data.procedural import LEVELS, parse_caption, short_caption
from fluxmodel.data.style_images import styled_caption
from fluxmodel.data.styles import STYLES
from fluxmodel.encoders.style_classifier import StyleClassifier
from fluxmodel.sampling import in_precision
from fluxmodel.text_to_image import TextToImage
from fluxmodel.training_job import Precision

from .identity import digest_of
from .prompts import draw_scenes
from .scene_judge import SceneJudge, SceneReading
from .statistics import Interval, clustered_bootstrap, mean_share, proportion
from .verdicts import AskedScenes, compare

FIRST_NOISE = 1_700_000_021
NUM_TILES = 12


class LoraSettings(BaseModel):
    """How a LoRA is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_prompts: int = Field(
        default=200, gt=1, description="Prompts, each with and without the trigger word."
    )
    seed: int = Field(default=0, ge=0, description="Which prompts and noise.")
    base_steps: int = Field(default=8, gt=0, description="Guided steps of the base.")
    guidance: float = Field(default=2.0, ge=1, description="Guidance of the base.")
    rectified_steps: tuple[int, ...] = Field(
        default=(1, 2), description="Unguided steps of the rectified model."
    )
    scale: float = Field(default=1.0, ge=0, description="How strongly the LoRA is merged.")
    precision: Precision = Field(default="fp32", description="Of the network while it draws, fp32 or bf16.")


@dataclass(frozen=True)
class Sampling:
    """A model and how it is sampled; `name` is the prefix of its figures."""

    name: str
    pipe: TextToImage
    num_steps: int
    guidance: float


@dataclass(frozen=True)
class Asked:
    """The same requests without and with the trigger word; `scenes` where a judge can compare."""

    plain: list[str]
    triggered: list[str]
    seeds: list[int]
    scenes: AskedScenes | None


def measure_lora(
    pipe_base: TextToImage,
    pipe_rectified: TextToImage | None,
    lora: str | Path,
    classifier: StyleClassifier,
    level: str | None,
    settings: LoraSettings = LoraSettings(),  # noqa: B008 (frozen)
    captions: list[str] | None = None,
) -> dict[str, Any]:
    """Draw with and without the LoRA, with and without its trigger; judge all.

    Args:
        pipe_base: the model the LoRA was trained on.
        pipe_rectified: the few-step model, tried with the same LoRA; None leaves it out.
        lora: directory that the LoRA job left.
        classifier: knows the style.
        level: of procedural data; None for a folder, whose `captions` are then the prompts, and no judge reads along.
        settings: how many prompts, and how they are sampled.
        captions: prompts of a folder.

    Returns:
        `identity`, `about` (lora.json), `metrics` as in an evaluation, `tiles` for the report.
    """
    about = json.loads((Path(lora) / "lora.json").read_text())
    asked = ask(level, about["trigger"], settings, captions)
    reader = Reader(classifier, level, about["style"])
    metrics, tiles = [], {}
    for sampling in _samplings(pipe_base, pipe_rectified, settings):
        drawn = draw_four(sampling, asked, lora, settings)
        metrics += figures(sampling.name, drawn, asked, reader)
        tiles[sampling.name] = _tiles(drawn, asked)
    identity = {
        "style": about["style"],
        "trigger": about["trigger"],
        "prompts": digest_of([*asked.plain, *asked.triggered]),
        "judge": reader.name,
        "classifier": digest_of([classifier.config.model_dump(), weights_of(classifier)]),
        **settings.model_dump(mode="json"),
    }
    return {"identity": identity, "about": about, "metrics": metrics, "tiles": tiles}


def weights_of(network: torch.nn.Module) -> str:
    """Return the sha256 of a network's weights."""
    total = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        total.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def ask(level: str | None, trigger: str, settings: LoraSettings, captions: list[str] | None = None) -> Asked:
    """Return fresh prompts, none naming a background; or a folder's own."""
    num = settings.num_prompts
    seeds = [FIRST_NOISE + settings.seed * 1_000_003 + index for index in range(num)]
    if level is None:
        plain = [(captions or [""])[index % len(captions or [""])] for index in range(num)]
        return Asked(plain, [styled_caption(text, trigger) for text in plain], seeds, None)
    plain = [short_caption(scene) for scene in draw_scenes(level, "prompts", settings.seed, num)]
    scenes = AskedScenes.of([parse_caption(text, LEVELS[level]) for text in plain], level)
    return Asked(plain, [styled_caption(text, trigger) for text in plain], seeds, scenes)


def _samplings(
    base: TextToImage, rectified: TextToImage | None, settings: LoraSettings
) -> Iterator[Sampling]:
    yield Sampling("base", base, settings.base_steps, settings.guidance)
    for steps in settings.rectified_steps if rectified is not None else ():
        assert rectified is not None
        yield Sampling(f"rectified_{steps}", rectified, steps, 1.0)


def draw_four(
    sampling: Sampling, asked: Asked, lora: str | Path, settings: LoraSettings
) -> dict[str, Tensor]:
    """Return images by what was done: plain or triggered prompts, LoRA off or on; the same noise in all."""
    merged = in_precision(sampling.pipe.with_lora(lora, settings.scale), settings.precision)
    plain = in_precision(sampling.pipe, settings.precision)
    how: dict[str, Any] = {
        "num_steps": sampling.num_steps,
        "guidance": sampling.guidance,
        "seeds": asked.seeds,
    }
    return {
        "plain_off": plain.sample(asked.plain, **how),
        "plain_on": merged.sample(asked.plain, **how),
        "triggered_off": plain.sample(asked.triggered, **how),
        "triggered_on": merged.sample(asked.triggered, **how),
    }


class Reader:
    """Tells styled images from others, and reads each in the look it wears."""

    def __init__(self, classifier: StyleClassifier, level: str | None, style: str):
        self.classifier = classifier
        self.plain = SceneJudge(level) if level is not None else None
        self.styled = SceneJudge(level, STYLES[style]) if level is not None and style in STYLES else None
        self.name = ", ".join(judge.name for judge in (self.plain, self.styled) if judge is not None)

    @torch.inference_mode()
    def wears_style(self, images: Tensor) -> np.ndarray:
        """Return which of uint8 images [n, 3, h, w] wear the style."""
        return (self.classifier(images.float() / 127.5 - 1) > 0).numpy()

    def accuracy(self, images: Tensor, asked: AskedScenes) -> np.ndarray:
        """Return each image's share of right attributes, [n], read in the look that fits.

        The fitting look is the one in which more objects are made out, and of equals the one that leaves less
        unexplained: the prompt has no say in it, nor has the classifier.
        """
        assert self.plain is not None, "a folder has no judge"
        reading = self.plain.read(images)
        right = compare(asked, reading).accuracy
        if self.styled is None:
            return right
        other = self.styled.read(images)
        fits = _fit(other) > _fit(reading)
        return np.where(fits, compare(asked, other).accuracy, right)


def _fit(reading: SceneReading) -> np.ndarray:
    """Return how well a look explains each image: objects made out, less the share left unexplained, [n]."""
    made_out = ((reading.shape >= 0) & (reading.color >= 0)).sum(1)
    left = reading.unexplained.sum(1) / reading.unexplained.shape[1]
    return (made_out - left).numpy()


def figures(name: str, drawn: dict[str, Tensor], asked: Asked, reader: Reader) -> list[dict[str, Any]]:
    """Return the metrics of one sampling: adoption, prompt-following and its paired changes."""
    styled = {how: reader.wears_style(images) for how, images in drawn.items()}
    found = [
        _metric(
            f"{name}/adoption/{how}",
            proportion(wears, asked.plain),
            "higher" if how == "triggered_on" else "lower",
        )
        for how, wears in styled.items()
    ]
    if asked.scenes is None or reader.plain is None:
        return found
    right = {how: reader.accuracy(images, asked.scenes) for how, images in drawn.items()}
    for how in ("plain_off", "plain_on", "triggered_on"):
        found.append(_metric(f"{name}/following/{how}", mean_share(right[how], asked.plain), "higher"))
    for how in ("plain_on", "triggered_on"):
        change = clustered_bootstrap(right[how] - right["plain_off"], asked.plain)
        found.append(_metric(f"{name}/following_change/{how}", change, "higher"))
    return found


def _metric(name: str, interval: Interval, direction: str) -> dict[str, Any]:
    return {"name": name, **asdict(interval), "direction": direction}


def _tiles(drawn: dict[str, Tensor], asked: Asked) -> list[dict[str, str]]:
    """The first prompts, never chosen by their score: before, after without the trigger, after with it."""
    return [
        {
            "prompt": asked.plain[row],
            "triggered": asked.triggered[row],
            **{how: _png(images[row]) for how, images in drawn.items()},
        }
        for row in range(min(NUM_TILES, len(asked.plain)))
    ]


def _png(image: Tensor) -> str:
    return base64.b64encode(encode_png(image.permute(1, 2, 0).contiguous().numpy())).decode()
