"""Prompts to images: text encoder, MM-DiT, flow and autoencoder composed, as one directory.

model_index.json    what the directory is, and the sampler's defaults
transformer/        config.json, model.safetensors (original FLUX.1 names)
transformer_NAME/   another variant on the same encoders: in a rectified model, the base it came from
autoencoder/        config.json, model.safetensors
text_encoder/       config.json
loras/NAME/         pytorch_lora_weights.safetensors and lora.json of a LoRA made for it (docs/lora.md)
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fluxmodel.data.text_embeddings import remembered_flux_text
from fluxmodel.encoders.autoencoder import Autoencoder
from fluxmodel.encoders.flux_text import FluxText
from fluxmodel.encoders.ports import LatentCoder, TextEncoder
from fluxmodel.encoders.text import WordEncoder, WordEncoderConfig
from fluxmodel.errors import InputError
from fluxmodel.flow.guidance import Guidance, choose_guidance
from fluxmodel.flow.solver_names import Solver
from fluxmodel.flow.solvers import SOLVERS, VelocityField
from fluxmodel.flow_sampler import FlowSampler, NoiseLayout
from fluxmodel.flux_directory import load_flux_directory
from fluxmodel.lora_files import load_lora
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.module_files import read_config
from fluxmodel.pixels import to_pixels
from fluxmodel.pretrained_folder import is_pipeline
from fluxmodel.time_shift import TimeShift
from fluxmodel.weights import load_mmdit

INDEX = "model_index.json"
LARGEST_SEED = 2**63 - 1
"""Of what torch's generators take on every device."""
FLUX_DEFAULTS = {"dev": (28, 3.5), "schnell": (4, 1.0)}
"""Steps and guidance of FLUX.1; schnell was distilled to draw unguided."""


class Variant(BaseModel):
    """How to sample from a variant of the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_steps: int = Field(default=8, gt=0, description="Default number of Euler steps.")
    guidance: float = Field(default=2.0, ge=1, description="Default guidance; 1 means unguided.")


class ModelIndex(Variant):
    """What `model_index.json` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pipeline: str = Field(default="fluxline.TextToImage", description="What reads the directory.")
    image_size: int = Field(gt=0, description="Side of the images it was trained on, pixels.")
    dynamic_shift: bool = Field(
        default=False,
        description="Spend more steps near noise the more tokens there are, as FLUX.1 dev does.",
    )
    time_shift: TimeShift | None = Field(
        default=None, description="How sampling times are shifted where that is not as FLUX.1 dev's are."
    )
    noise: NoiseLayout = Field(
        default="tokens",
        description="How a seed's noise is drawn: token by token, or as latents, as FLUX.1's users know it.",
    )
    name: str = Field(default="base", description="Which variant transformer/ is.")
    variants: dict[str, Variant] = Field(default={}, description="The other variants, in transformer_NAME/.")

    def mu(self, num_tokens: int) -> float:
        """Return how far sampling times of an image of so many tokens are shifted."""
        shift = self.time_shift or TimeShift(use_dynamic_shifting=self.dynamic_shift)
        return shift.mu(num_tokens)

    def choose(self, variant: str) -> tuple[str, ModelIndex]:
        """Return the folder of a variant, "" for the default, and the index as seen from it.

        Raises:
            InputError: there is no such variant.
        """
        if variant in ("", self.name):
            return "transformer", self
        if variant not in self.variants:
            raise InputError(
                f"variant is {variant!r}; this model has {', '.join((self.name, *self.variants))}"
            )
        chosen = {"name": variant, "variants": {}, **self.variants[variant].model_dump()}
        return f"transformer_{variant}", self.model_copy(update=chosen)


def assemble(
    trained: str | Path,
    autoencoder: str | Path,
    output: str | Path,
    image_size: int,
    num_steps: int,
    guidance: float,
) -> None:
    """Compose what a flow job left (`trained`) and an autoencoder into the existing directory `output`."""
    trained, output = Path(trained), Path(output)
    shutil.copytree(trained / "transformer", output / "transformer")
    (output / "autoencoder").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(Path(autoencoder) / name, output / "autoencoder" / name)
    (output / "text_encoder").mkdir()
    shutil.copy(trained / "text_encoder.json", output / "text_encoder" / "config.json")
    index = ModelIndex(image_size=image_size, num_steps=num_steps, guidance=guidance)
    (output / INDEX).write_text(index.model_dump_json(indent=2) + "\n")


def assemble_rectified(
    model: str | Path, trained: str | Path, output: str | Path, num_steps: int, guidance: float
) -> None:
    """Compose a model and the network rectified from it into the existing directory `output`, the latter first."""
    model, output = Path(model), Path(output)
    index = read_config(ModelIndex, model / INDEX)
    for part in ("autoencoder", "text_encoder"):
        shutil.copytree(model / part, output / part)
    shutil.copytree(Path(trained) / "transformer", output / "transformer")
    shutil.copytree(model / "transformer", output / f"transformer_{index.name}")
    base = Variant(num_steps=index.num_steps, guidance=index.guidance)
    rectified = {
        "name": "rectified",
        "num_steps": num_steps,
        "guidance": guidance,
        "variants": {index.name: base},
    }
    (output / INDEX).write_text(index.model_copy(update=rectified).model_dump_json(indent=2) + "\n")


@dataclass(frozen=True)
class TextToImage:
    """A trained model that draws what prompts say."""

    index: ModelIndex
    transformer: MMDiT
    autoencoder: LatentCoder
    text_encoder: TextEncoder

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        variant: str = "",
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        cache: str | Path | None = None,
    ) -> TextToImage:
        """Read a directory that `assemble` wrote, or a standard FLUX.1 directory.

        Args:
            directory: where it lies.
            variant: which of its networks; default the one it is made for.
            dtype: of the network, and of FLUX.1's encoders; default as it is stored.
            device: where all goes; default the CPU, and the GPU for FLUX.1 where there is one.
            cache: folder of all caches. FLUX.1's text encoders are then read only for a prompt that was never seen;
                other models' need no cache. Default none.

        Raises:
            InputError: the directory is none, there is no such variant, or a part is missing or does not fit.
        """
        directory = Path(directory)
        if is_pipeline(directory):
            return cls._from_flux(directory, variant, dtype, device, cache)
        if not (directory / INDEX).is_file():
            raise InputError(
                f"{directory}: no {INDEX} there; name a directory that a Fluxline run registered, or FLUX.1's"
            )
        folder, index = read_config(ModelIndex, directory / INDEX).choose(variant)
        text = read_config(WordEncoderConfig, directory / "text_encoder" / "config.json")
        transformer = load_mmdit(directory / folder, dtype=dtype, device=device)
        autoencoder = Autoencoder.from_directory(directory / "autoencoder").to(device)
        for name, width in (
            ("in_channels", 4 * autoencoder.config.latent_channels),
            ("out_channels", 4 * autoencoder.config.latent_channels),
            ("vec_in_dim", text.dim),
            ("context_in_dim", text.dim),
        ):
            if getattr(transformer.config, name) != width:
                raise InputError(
                    f"{directory / folder / 'config.json'}: {name} is {getattr(transformer.config, name)}, "
                    f"but the parts beside it need {width}; assemble it from parts of one run"
                )
        return cls(index, transformer, autoencoder, WordEncoder(text))

    @classmethod
    def _from_flux(
        cls,
        directory: Path,
        variant: str,
        dtype: torch.dtype | None,
        device: str | torch.device | None,
        cache: str | Path | None,
    ) -> TextToImage:
        read_text = FluxText.load if cache is None else partial(remembered_flux_text, cache=cache)
        parts = load_flux_directory(directory, variant, dtype, device, read_text)
        steps, guidance = FLUX_DEFAULTS[parts.name]
        index = ModelIndex(
            image_size=parts.image_size,
            num_steps=steps,
            guidance=guidance,
            time_shift=parts.time_shift,
            noise="latents",
            name=parts.name,
        )
        return cls(index, parts.transformer, parts.autoencoder, parts.text_encoder)

    def with_lora(self, directory: str | Path, scale: float = 1.0) -> TextToImage:
        """Return this model with a LoRA merged into its network; this one stays as it is.

        Raises:
            InputError: the directory holds no LoRA, or one of another network.
        """
        return replace(self, transformer=load_lora(copy.deepcopy(self.transformer), directory, scale))

    def in_bfloat16(self) -> TextToImage:
        """Return this model with its network in bf16; encoders and solver stay in fp32."""
        return replace(self, transformer=copy.deepcopy(self.transformer).to(torch.bfloat16))

    def __call__(
        self,
        prompts: str | Sequence[str],
        num_steps: int | None = None,
        guidance: float | None = None,
        height: int | None = None,
        width: int | None = None,
        seed: int = 0,
        solver: Solver = "euler",
        true_guidance: float = 1.0,
        negative: str = "",
    ) -> list[Image.Image]:
        """Draw one image a prompt; image i starts from the noise of seed + i.

        Args:
            prompts: one or several.
            num_steps: steps of the solver, at least 1; default the directory's.
            guidance: told to a network that embeds it (FLUX.1 dev); of another the strength of classifier-free
                guidance, at least 1, where 1 is unguided and costs half. Default the directory's.
            height, width: pixels; default the training size. Whole tokens are drawn and the image is cut out of them.
            seed: at least 0, and below 2^63 with those that count up from it.
            solver: "euler", or "heun" or "midpoint" of second order, which call the network twice a step.
            true_guidance: strength of classifier-free guidance of a network that embeds guidance besides.
            negative: what classifier-free guidance leads away from; default nothing said.

        Raises:
            InputError: a value is out of its range.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        size = tuple(self.index.image_size if side is None else side for side in (height, width))
        for name, value in zip(("height", "width"), size, strict=True):
            if value < 1:
                raise InputError(f"{name} is {value}; use at least 1 pixel")
        if seed < 0:
            raise InputError(f"seed is {seed}; it must be at least 0")
        if seed > (largest := LARGEST_SEED - max(0, len(prompts) - 1)):
            raise InputError(f"seed is {seed}; it must be at most {largest}")
        images = self.sample(
            prompts,
            num_steps=self.index.num_steps if num_steps is None else num_steps,
            guidance=self.index.guidance if guidance is None else guidance,
            seeds=range(seed, seed + len(prompts)),
            size=(size[0], size[1]),
            solver=solver,
            true_guidance=true_guidance,
            negative=negative,
        )
        return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]

    def sample(
        self,
        prompts: Sequence[str],
        *,
        num_steps: int,
        guidance: float,
        seeds: Sequence[int],
        batch_size: int = 256,
        size: tuple[int, int] | None = None,
        solver: Solver = "euler",
        true_guidance: float = 1.0,
        negative: str = "",
    ) -> UInt8[Tensor, "n 3 height width"]:
        """Draw one image a prompt from the noise of its own seed; arguments as in a call of the model.

        Raises:
            InputError: num_steps, guidance or solver is out of its range, or prompts and seeds differ in number.
        """
        chosen = self._choose(guidance, true_guidance, negative)
        if num_steps < 1:
            raise InputError(f"num_steps is {num_steps}; use at least 1")
        if solver not in SOLVERS:
            raise InputError(f"solver is {solver!r}; use one of {', '.join(SOLVERS)}")
        if len(prompts) != len(seeds):
            raise InputError(f"{len(prompts)} prompts but {len(seeds)} seeds; give one seed a prompt")
        height, width = size or (self.index.image_size, self.index.image_size)
        images = []
        for start in range(0, len(prompts), batch_size):
            rows = slice(start, start + batch_size)
            with torch.inference_mode():
                latents = self.sampler.latents(
                    prompts[rows], num_steps, chosen, seeds[rows], (height, width), solver
                )
                images.append(to_pixels(self.autoencoder.decode(latents))[..., :height, :width].cpu())
        return torch.cat(images) if images else torch.empty(0, 3, height, width, dtype=torch.uint8)

    @torch.inference_mode()
    def sample_latents(
        self,
        prompts: Sequence[str],
        num_steps: int,
        guidance: float,
        seeds: Sequence[int],
        size: tuple[int, int],
        solver: Solver = "euler",
    ) -> Float[Tensor, "n c h w"]:
        """Follow the flow from each seed's noise to normalised latents; arguments as in `sample`."""
        return self.sampler.latents(prompts, num_steps, self._choose(guidance), seeds, size, solver)

    def noise(self, seeds: Sequence[int], size: tuple[int, int]) -> Float[Tensor, "n tokens c"]:
        """Return the packed noise of each seed for images of `size`."""
        return self.sampler.noise(seeds, size)

    def velocity(
        self,
        prompts: Sequence[str],
        guidance: float,
        size: tuple[int, int],
        times: Sequence[float] = (),
    ) -> VelocityField:
        """Return the velocity that sampling follows, of packed latents; told the times to come it is faster there."""
        return self.sampler.velocity(prompts, self._choose(guidance), size, times)

    @property
    def sampler(self) -> FlowSampler:
        """Return what draws latents with this model's parts."""
        return FlowSampler(
            self.transformer,
            self.text_encoder,
            self.autoencoder.config.downscale,
            self.index.mu,
            self.index.noise,
        )

    def _choose(self, guidance: float, true_guidance: float = 1.0, negative: str = "") -> Guidance:
        return choose_guidance(self.transformer.config.guidance_embed, guidance, true_guidance, negative)
