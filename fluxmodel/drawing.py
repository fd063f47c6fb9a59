"""A model kept in memory to draw on request: its variants and LoRAs read once, requests checked against it.

A request is drawn alone, whoever else is waiting: its images depend on nothing but itself.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from fluxmodel.drawing_request import DrawingAnswer, DrawingRequest, RequestError, ServedImage
from fluxmodel.errors import InputError
from fluxmodel.flow.guidance import choose_guidance
from fluxmodel.flow.solver_names import Solver
from fluxmodel.lora_files import find_lora
from fluxmodel.lora_passport import file_digest
from fluxmodel.recipe import Recipe, encode_png
from fluxmodel.text_to_image import TextToImage, Variant

MERGED_LORAS, MERGED_BYTES = 4, 2 * 10**9
"""LoRAs kept merged into a copy of their network each, and what these copies weigh; the one unused longest goes."""


@dataclass(frozen=True)
class Picture:
    """One drawn image as a file."""

    png: bytes
    recipe: Recipe


@dataclass(frozen=True)
class _Merged:
    """A model with a LoRA merged, and the sha256 of the LoRA's file."""

    pipe: TextToImage
    digest: str


class DrawingModel:
    """Draws with one model directory."""

    def __init__(
        self, directory: str | Path, name: str = "", version: str = "", cache: str | Path | None = None
    ):
        """Read the model's default variant; another is read when it is first asked for.

        Args:
            directory: what `TextToImage.from_pretrained` reads.
            name: registered name, told in answers.
            version: registered version, likewise.
            cache: folder of all caches, where FLUX.1's text embeddings are kept; default nowhere.

        Raises:
            InputError: the directory is none, or a part is missing or damaged.
        """
        self.directory, self.name, self.version = Path(directory), name, version
        self._read = partial(TextToImage.from_pretrained, self.directory, cache=cache)
        pipe = self._read()
        self.index, self.multiple = pipe.index, 2 * pipe.autoencoder.config.downscale
        self.variants = {self.index.name: Variant(**pipe.index.model_dump(include=set(Variant.model_fields)))}
        self.variants |= self.index.variants
        self._pipes = {self.index.name: pipe}
        self.loras = {p.parent.name: _trigger(p) for p in sorted(self.directory.glob("loras/*/lora.json"))}
        self.digest = _digest(self.directory)
        self._merged: dict[tuple[str, Path, float], _Merged] = {}

    def read_all(self) -> DrawingModel:
        """Read the other variants too, so that whatever is wrong with one shows now; return this model.

        Raises:
            InputError: a part is missing or damaged.
        """
        for variant in self.variants:
            self._pipe(variant)
        return self

    def check(self, request: DrawingRequest) -> None:
        """Refuse what this model cannot draw.

        Raises:
            RequestError: names the field.
        """
        side = self.index.image_size
        for name, value in (("height", request.height), ("width", request.width)):
            if value is not None and (value % self.multiple or value > side):
                raise RequestError(
                    name, f"it is {value}; this model draws multiples of {self.multiple} up to {side}"
                )
        if request.variant and request.variant not in self.variants:
            raise RequestError("variant", f"it is {request.variant!r}; this model has {_list(self.variants)}")
        if request.lora and request.lora not in self.loras:
            raise RequestError("lora", f"it is {request.lora!r}; this model has {_list(self.loras)}")
        self._check_guidance(request)

    def _check_guidance(self, request: DrawingRequest) -> None:
        pipe = self._pipe(request.variant or self.index.name)
        guidance = request.guidance or pipe.index.guidance
        embeds = pipe.transformer.config.guidance_embed
        try:
            choose_guidance(embeds, guidance, request.true_guidance, request.negative)
        except InputError as error:
            field = "true_guidance" if request.true_guidance != 1 else "negative"
            said = str(error).removeprefix(f"{field} is ")
            raise RequestError(field, f"it is {said}") from None

    def answer(self, request: DrawingRequest) -> DrawingAnswer:
        """Draw what was asked for.

        Raises:
            RequestError: this model cannot; names the field.
        """
        self.check(request)
        start = time.perf_counter()
        pictures = self.draw(
            [request.prompt] * request.num_images,
            seed=request.seed,
            num_steps=request.num_steps,
            guidance=request.guidance,
            size=(request.height, request.width),
            variant=request.variant,
            lora=self.directory / "loras" / request.lora if request.lora else None,
            lora_scale=request.lora_scale,
            solver=request.solver,
            true_guidance=request.true_guidance,
            negative=request.negative,
        )
        images = [ServedImage(seed=p.recipe.seed, png=base64.b64encode(p.png).decode()) for p in pictures]
        made = pictures[0].recipe
        return DrawingAnswer(
            images=images,
            num_steps=made.num_steps,
            guidance=made.guidance,
            solver=made.solver,
            height=made.height,
            width=made.width,
            variant=made.variant,
            lora=made.lora,
            model=self.name,
            version=self.version,
            digest=self.digest,
            milliseconds=round(1000 * (time.perf_counter() - start), 3),
        )

    def draw(
        self,
        prompts: Sequence[str],
        *,
        seed: int = 0,
        num_steps: int | None = None,
        guidance: float | None = None,
        size: tuple[int | None, int | None] = (None, None),
        variant: str = "",
        lora: Path | None = None,
        lora_scale: float = 1.0,
        solver: Solver = "euler",
        true_guidance: float = 1.0,
        negative: str = "",
    ) -> list[Picture]:
        """Draw one image a prompt, together; image i starts from the noise of seed + i. None is the model's default.

        Raises:
            InputError: a value is out of its range, there is no such variant or LoRA, or the memory does not hold it.
        """
        name = variant or self.index.name
        with _enough_memory():
            merged = self._with_lora(name, lora, lora_scale) if lora is not None else None
        pipe = merged.pipe if merged is not None else self._pipe(name)
        height, width = (side or pipe.index.image_size for side in size)
        how = {
            "num_steps": num_steps or pipe.index.num_steps,
            "guidance": float(guidance or pipe.index.guidance),
            "height": height,
            "width": width,
            "solver": solver,
            "true_guidance": float(true_guidance),
            "negative": negative,
        }
        by = {
            "variant": name,
            "lora": Path(os.path.abspath(lora)).name if lora is not None else "",
            "lora_digest": merged.digest if merged is not None else "",
            "lora_scale": lora_scale if lora is not None else 1.0,
            "model": self.digest,
            "batch_size": len(prompts),
        }
        with _enough_memory():
            images = pipe(prompts, seed=seed, **how)
        recipes = [Recipe(prompt=prompt, seed=seed + i, **how, **by) for i, prompt in enumerate(prompts)]
        return [
            Picture(encode_png(image, recipe), recipe) for image, recipe in zip(images, recipes, strict=True)
        ]

    def _with_lora(self, variant: str, lora: Path, scale: float) -> _Merged:
        """Return a variant with a LoRA merged into a copy of its network; what is too much goes before that is made."""
        key = (variant, lora, scale)
        if (found := self._merged.pop(key, None)) is None:
            pipe = self._pipe(variant)
            room = MERGED_BYTES - _num_bytes(pipe)
            while self._merged and (
                len(self._merged) >= MERGED_LORAS
                or sum(_num_bytes(each.pipe) for each in self._merged.values()) > room
            ):
                del self._merged[next(iter(self._merged))]
            found = _Merged(pipe.with_lora(lora, scale), file_digest(find_lora(lora)))
        self._merged[key] = found
        return found

    def _pipe(self, variant: str) -> TextToImage:
        if variant not in self._pipes:
            self._pipes[variant] = self._read(variant)
        return self._pipes[variant]


@contextmanager
def _enough_memory() -> Iterator[None]:
    """Say what helps where the memory of the GPU is too small."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            "The GPU's memory does not hold what is to be drawn; draw fewer prompts at once, or a smaller size, and of "
            "a LoRA, which is merged into a second copy of the network, write the merged model with fluxline export."
        ) from error


def _num_bytes(pipe: TextToImage) -> int:
    return sum(tensor.nbytes for tensor in pipe.transformer.state_dict().values())


def _digest(directory: Path) -> str:
    """The digest of the artifact's manifest; it goes where the files go."""
    try:
        return str(json.loads((directory / "manifest.json").read_text())["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _trigger(about: Path) -> str:
    """The word that calls a LoRA's style; empty where it needs none."""
    try:
        return str(json.loads(about.read_text()).get("trigger", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _list(names: Sequence[str] | dict) -> str:
    return ", ".join(names) or "none"
