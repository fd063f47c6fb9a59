"""Other people's models in our test: any diffusers pipeline directory drawn as its family is meant to be drawn.

Stable Diffusion and SDXL are guided by asking the network twice a step, v = v_empty + g (v_prompt - v_empty)
(Ho and Salimans 2022, arXiv:2207.12598); FLUX.1 dev is given g as an input; the distilled ones (SDXL Turbo,
FLUX.1 schnell) draw unguided in a few steps. Each draws at its own size, from the noise of each image's own seed,
and is brought to the size of the reference afterwards. Pipelines are drawn by diffusers itself, and this is
the only file that does so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fluxmodel.errors import InputError
from fluxmodel.pretrained_folder import INDEX, quiet_libraries, read_json, refuse_pickles

from .resize import resize_clean
from .settings import ContestantSettings

PIXELS_TOGETHER = 2**22
"""Pixels drawn in one batch at most: four images of 1024 x 1024."""
_LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


@dataclass(frozen=True)
class Family:
    """How a kind of pipeline is meant to be drawn.

    Attributes:
        name: what people call it.
        num_steps: solver steps where none are asked for.
        guidance: guidance where none is asked for; 1 is unguided.
        guiding: whether guidance asks the network twice, is an input of the network, or cannot be given at all.
        max_tokens: length of the long text encoder's prompts; 0 is the tokenizer's own.
    """

    name: str
    num_steps: int
    guidance: float
    guiding: Literal["twice", "input", "none"]
    max_tokens: int = 0


FAMILIES = {
    "sd": Family("Stable Diffusion", 50, 7.5, "twice"),
    "sd-turbo": Family("Stable Diffusion Turbo", 1, 1.0, "twice"),
    "sdxl": Family("Stable Diffusion XL", 50, 5.0, "twice"),
    "sdxl-turbo": Family("SDXL Turbo", 1, 1.0, "twice"),
    "flux-dev": Family("FLUX.1 dev", 28, 3.5, "input", max_tokens=512),
    "flux-schnell": Family("FLUX.1 schnell", 4, 1.0, "none", max_tokens=256),
}
"""Steps and guidance are those diffusers takes by itself; of the distilled ones, those of their model cards."""
_CLASSES = {"StableDiffusionPipeline": "sd", "StableDiffusionXLPipeline": "sdxl", "FluxPipeline": "flux"}


def family_of(directory: Path) -> Family:
    """Return how the pipeline in a directory is meant to be drawn; nothing of it is loaded.

    Raises:
        InputError: it is none of the known pipelines, wants code of its own, or its weights are pickled.
    """
    directory = Path(directory)
    index = read_json(directory / INDEX)
    kind = _CLASSES.get(str(index.get("_class_name")))
    if kind is None:
        raise InputError(
            f"{directory / INDEX}: _class_name is {index.get('_class_name')!r}; "
            f"the pipelines that can be judged are {', '.join(_CLASSES)}."
        )
    for name, entry in index.items():
        library = entry[0] if isinstance(entry, list) and entry else None
        if library is not None and library not in _LIBRARIES:
            raise InputError(
                f"{directory / INDEX}: {name} wants code from {library!r}, which is not run; "
                "export the pipeline with parts of diffusers and transformers only."
            )
        if library is not None and name not in _UNUSED:
            refuse_pickles(directory / name)
    if kind == "flux":
        has_input = read_json(directory / "transformer" / "config.json").get("guidance_embeds", False)
        return FAMILIES["flux-dev" if has_input else "flux-schnell"]
    # A distilled U-Net looks like its teacher; its scheduler, set to begin at the last timestep, tells it apart.
    spacing = read_json(directory / "scheduler" / "scheduler_config.json").get("timestep_spacing")
    return FAMILIES[f"{kind}-turbo" if spacing == "trailing" else kind]


class Contestant:
    """A diffusers pipeline that draws as `TextToImage.sample` does.

    Attributes:
        index, autoencoder: None, as it has no variants, and its autoencoder is none the judge is calibrated on.
        batch_size: images drawn together.
    """

    index = None
    autoencoder = None

    def __init__(self, pipe: Any, family: Family, image_size: int, settings: ContestantSettings, dtype: str):
        self.pipe = pipe
        self.family = family
        self.image_size = image_size
        self.size = settings.size or _native_size(pipe)
        self.batch_size = settings.batch_size or max(1, PIXELS_TOGETHER // self.size**2)
        self.settings = settings
        self.dtype = dtype
        self._lengths: dict[str, int] = {}

    @classmethod
    def from_directory(
        cls, directory: Path, image_size: int, settings: ContestantSettings | None = None
    ) -> Contestant:
        """Load a pipeline, safetensors only, onto the GPU where there is one.

        Args:
            directory: what diffusers' `save_pretrained` wrote.
            image_size: side of the images handed back, pixels: the reference's.
            settings: how it is drawn where that differs from how it is meant to be.

        Raises:
            InputError: diffusers is missing, or the directory is none that can be judged.
        """
        family = family_of(directory)
        pipe, dtype = _load(Path(directory), family)
        return cls(pipe, family, image_size, settings or ContestantSettings(), dtype)

    @property
    def places(self) -> list[tuple[int, float]]:
        """Every (steps, guidance) it is to be measured at.

        Raises:
            InputError: guidance is asked of a model that was distilled to do without.
        """
        guidance = self.settings.guidance or self.family.guidance
        if self.family.guiding == "none" and guidance > 1:
            raise InputError(
                f"--guidance is {guidance:g}, but {self.family.name} was distilled to draw unguided; leave it out."
            )
        return [(steps, guidance) for steps in self.settings.steps or (self.family.num_steps,)]

    def calls(self, num_steps: int, guidance: float) -> int:
        """Return how often the network is asked for one image; some schedulers ask more than once a step."""
        if self.family.guiding != "twice":
            return num_steps
        self.pipe.scheduler.set_timesteps(num_steps)
        return len(self.pipe.scheduler.timesteps) * (2 if guidance > 1 else 1)

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[str],
        *,
        num_steps: int,
        guidance: float,
        seeds: Sequence[int],
        batch_size: int = 256,
    ) -> Tensor:
        """Draw one image a prompt from the noise of its own seed, uint8 [n, 3, image_size, image_size]."""
        self._measure(prompts)
        size, images = min(batch_size, self.batch_size), []
        for start in range(0, len(prompts), size):
            rows = slice(start, start + size)
            images.append(self._draw(list(prompts[rows]), num_steps, guidance, seeds[rows]))
        drawn = torch.cat(images)
        return drawn if drawn.shape[-1] == self.image_size else resize_clean(drawn, self.image_size)

    def _draw(self, prompts: list[str], num_steps: int, guidance: float, seeds: Sequence[int]) -> Tensor:
        # Generators stay on the CPU: the same seed is the same noise whatever draws it.
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        limit = {"max_sequence_length": self.family.max_tokens} if self.family.max_tokens else {}
        full = _told_when_full(
            f"{len(prompts)} images of {self.size} pixels by {self.family.name}",
            "lower --batch-size, then --size",
        )
        with quiet_libraries(), full:
            made = self.pipe(
                prompts,
                height=self.size,
                width=self.size,
                num_inference_steps=num_steps,
                guidance_scale=guidance if self.family.guiding != "none" else 0.0,
                generator=generators,
                output_type="pt",
                **limit,
            ).images
        return (made.float().cpu() * 255).round().clamp(0, 255).to(torch.uint8)

    def _measure(self, prompts: Sequence[str]) -> None:
        """Note how many tokens each new prompt has."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._lengths]
        if new:
            with quiet_libraries():
                found = self._tokenizer(new, truncation=False, padding=False)["input_ids"]
            self._lengths |= {prompt: len(tokens) for prompt, tokens in zip(new, found, strict=True)}

    @property
    def _tokenizer(self) -> Any:
        """The tokenizer that carries the prompt's words: T5's in FLUX, else CLIP's."""
        return self.pipe.tokenizer_2 if self.family.max_tokens else self.pipe.tokenizer

    @property
    def max_tokens(self) -> int:
        """Tokens of a prompt it can take; what is beyond is cut off."""
        return self.family.max_tokens or int(self.pipe.tokenizer.model_max_length)

    @property
    def solver(self) -> str:
        """Name of its scheduler."""
        return type(self.pipe.scheduler).__name__.removesuffix("Scheduler")

    def identity(self) -> dict[str, str]:
        """Return the identity fields that it brings with it."""
        size = f"{self.image_size}x{self.image_size}"
        how = "none" if self.size == self.image_size else f"from {self.size}x{self.size}, antialiased bicubic"
        return {
            "solver": self.solver,
            "resize": f"{size}, {how}",
            "dtype": f"{self.dtype} pipeline in batches of {self.batch_size}",
        }

    def record(self) -> dict[str, Any]:
        """Return what was drawn and how, with what was left out; for the evaluation's document."""
        import diffusers

        truncated = sum(length > self.max_tokens for length in self._lengths.values())
        return {
            "family": self.family.name,
            "pipeline": type(self.pipe).__name__,
            "diffusers": diffusers.__version__,
            "size": self.size,
            "guiding": self.family.guiding,
            "safety_checker": "off: it blackens images, which would count as drawn",
            "max_tokens": self.max_tokens,
            "truncated_prompts": truncated,
            **self.identity(),
        }


def _load(directory: Path, family: Family) -> tuple[Any, str]:
    """Return the pipeline on its device, and the name of what it computes in."""
    with quiet_libraries():
        try:
            import diffusers
            import transformers
        except ImportError as error:
            raise InputError(
                f"{directory} is a diffusers pipeline, and diffusers is not installed; "
                "install it with `pip install fluxline[flux]`."
            ) from error
        for library in (diffusers, transformers):
            library.utils.logging.disable_progress_bar()
        cuda = torch.cuda.is_available()
        half = torch.bfloat16 if family.max_tokens else torch.float16
        dtype = half if cuda else torch.float32
        index = read_json(directory / INDEX)
        absent: dict[str, Any] = {name: None for name in _UNUSED if name in index}
        if "safety_checker" in index:
            absent["requires_safety_checker"] = False
        if index["_class_name"] == "StableDiffusionXLPipeline":
            absent["add_watermarker"] = (
                False  # it would change pixels, and only where its package is installed
            )
        try:
            pipe = getattr(diffusers, index["_class_name"]).from_pretrained(
                directory,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                variant=_variant(directory),
                **absent,
            )
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            said = " ".join(str(error).split())[:300]
            raise InputError(f"{directory}: diffusers cannot load this pipeline ({said}).") from error
        pipe.set_progress_bar_config(disable=True)
        with _told_when_full(family.name, "choose a smaller model, or a larger GPU"):
            pipe.to("cuda" if cuda else "cpu")
    return pipe, str(dtype).removeprefix("torch.")


def _variant(directory: Path) -> str | None:
    """Return "fp16" where the network's weights are there in that form only."""
    names = [
        path.name for part in ("unet", "transformer") for path in (directory / part).glob("*.safetensors")
    ]
    return "fp16" if names and all(".fp16." in name for name in names) else None


def _native_size(pipe: Any) -> int:
    """Return the side of the images a pipeline was trained on, pixels."""
    unet = getattr(pipe, "unet", None)
    side = pipe.default_sample_size if unet is None else unet.config.sample_size
    return int(side if isinstance(side, int) else side[0]) * pipe.vae_scale_factor


@contextmanager
def _told_when_full(what: str, cure: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(f"The GPU's memory does not hold {what}; {cure}.") from error
