"""From prompts and seeds to latents: a network, what it is told, its noise, times and solver.

All that a network needs of the text and of the times is made before the first step; the loop over steps then holds
the network alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fluxmodel.encoders.ports import TextEncoder
from fluxmodel.encoders.text import EncodedText
from fluxmodel.flow.guidance import Guidance, guided, guided_together
from fluxmodel.flow.packing import image_ids, latent_side, pack, unpack
from fluxmodel.flow.schedule import sampling_times
from fluxmodel.flow.solver_names import Solver
from fluxmodel.flow.solvers import SOLVERS, VelocityField, call_times
from fluxmodel.mmdit.conditioning import Conditioning
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.randomness import image_noise, latent_noise

STACKED_NUMBERS = 2**28
"""Widest activation, in numbers (1 GiB in fp32), up to which guidance takes one call for its two halves.

FLUX.1 dev at 1024 pixels has 2e8 of them. Above it the halves go one after the other: no matrix is short of rows
then, and the memory stays that of the batch.
"""

PREPARED_NUMBERS = 2**26
"""Numbers of modulation that are kept at once (256 MiB in fp32); FLUX.1 dev has 2**20 a row and step."""

NoiseLayout = Literal["tokens", "latents"]


@dataclass(frozen=True)
class FlowSampler:
    """Draws latents.

    Attributes:
        network: the MM-DiT.
        text_encoder: its text.
        downscale: image side over latent side.
        mu: how far times are shifted for a number of image tokens.
        noise_layout: whether an image's noise is drawn token by token, as Fluxline's models are, or as latents that
            are packed, as FLUX.1's are: there a seed is that of `torch.Generator().manual_seed(seed)`.
    """

    network: MMDiT
    text_encoder: TextEncoder
    downscale: int
    mu: Callable[[int], float]
    noise_layout: NoiseLayout = "tokens"

    def latents(
        self,
        prompts: Sequence[str],
        num_steps: int,
        guidance: Guidance,
        seeds: Sequence[int],
        size: tuple[int, int],
        solver: Solver = "euler",
    ) -> Float[Tensor, "n c h w"]:
        """Follow the flow from each seed's noise to normalised latents, on the network's device."""
        height, width = self.latent_size(size)
        noise = self.noise(seeds, size).to(self.network.img_in.weight.device)
        times = sampling_times(num_steps, self.mu(noise.shape[1]))
        field = self.velocity(prompts, guidance, size, call_times(times, solver))
        return unpack(SOLVERS[solver](field, noise, times), height, width)

    def latent_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the latents that cover an image of `size` pixels."""
        return latent_side(size[0], self.downscale), latent_side(size[1], self.downscale)

    def noise(self, seeds: Sequence[int], size: tuple[int, int]) -> Float[Tensor, "n tokens c"]:
        """Return the packed noise of each seed for images of `size` pixels, on the CPU."""
        height, width = self.latent_size(size)
        channels = self.network.config.out_channels
        if self.noise_layout == "latents":
            return pack(latent_noise(seeds, (channels // 4, height, width)))
        return image_noise(seeds, (height * width // 4, channels))

    def velocity(
        self,
        prompts: Sequence[str],
        guidance: Guidance,
        size: tuple[int, int],
        times: Sequence[float] = (),
    ) -> VelocityField:
        """Return the velocity of packed latents under prompts; at `times` it is cheaper, since they are prepared."""
        height, width = self.latent_size(size)
        captioned = self._encode(prompts)

        def field(text: EncodedText) -> VelocityField:
            txt_ids = self.text_encoder.text_ids(len(text.tokens))
            return NetworkField(self.network, text, txt_ids, (height, width), guidance.embedded, times)

        if guidance.strength == 1.0:
            return field(captioned)
        negative = self._encode([guidance.negative] * len(prompts))
        if self._widest(2 * len(prompts), height, width, captioned) > STACKED_NUMBERS:
            return guided(field(captioned), field(negative), guidance.strength)
        both = EncodedText(*(torch.cat(pair) for pair in zip(captioned, negative, strict=True)))
        return guided_together(field(both), guidance.strength)

    def _encode(self, prompts: Sequence[str]) -> EncodedText:
        """Encode each different prompt once."""
        number = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        encoded = self.text_encoder(list(number))
        rows = [number[prompt] for prompt in prompts]
        return encoded if len(number) == len(rows) else EncodedText(*(each[rows] for each in encoded))

    def _widest(self, rows: int, height: int, width: int, text: EncodedText) -> int:
        config = self.network.config
        return (
            rows
            * (height * width // 4 + text.tokens.shape[1])
            * (3 * config.hidden_size + config.mlp_hidden_dim)
        )


class NetworkField:
    """velocity(x, t) of a network under fixed text; the solver's x stays in fp32 whatever the network's dtype."""

    def __init__(
        self,
        network: MMDiT,
        text: EncodedText,
        txt_ids: Float[Tensor, "b m axes"],
        latent_size: tuple[int, int],
        guidance: float | None = None,
        times: Sequence[float] = (),
    ):
        """Prepare what the first of `times` need.

        Args:
            network: whose velocity it is.
            text: of every row.
            txt_ids: positions of its tokens.
            latent_size: height and width of the latents.
            guidance: told to a network that embeds it.
            times: those it will be asked for, in order; any other works too, and is prepared when asked for.
        """
        weight = network.img_in.weight
        num = len(text.tokens)
        self.network = network
        self._told = {  # one row of positions serves all: images of a batch are of one size
            "img_ids": image_ids(1, *latent_size).to(weight.device),
            "txt": text.tokens.to(weight.device, weight.dtype),
            "txt_ids": txt_ids[:1].to(weight.device),
            "y": text.pooled.to(weight.device, weight.dtype),
            "guidance": None if guidance is None else torch.full((num,), guidance, device=weight.device),
        }
        self._together = max(1, PREPARED_NUMBERS // (max(1, num) * _modulation_numbers(network)))
        self._coming = list(dict.fromkeys(times))
        self._prepared: dict[float, Conditioning] = {}
        if self._coming:
            self._prepare(self._coming[0])

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """Return the velocity of packed latents, fp32."""
        if t not in self._prepared:
            self._prepare(t)
        return self.network.velocity(x, self._prepared[t]).float()

    @torch.no_grad()
    def _prepare(self, t: float) -> None:
        """Prepare a time, and the announced ones after it as far as memory goes; what was prepared before is let go."""
        first = self._coming.index(t) if t in self._coming else None
        times = [t] if first is None else self._coming[first : first + self._together]
        device = self._told["y"].device
        steps = self.network.condition_steps(times=torch.tensor(times, device=device), **self._told)
        self._prepared = dict(zip(times, steps, strict=True))


def _modulation_numbers(network: MMDiT) -> int:
    """Return how many numbers of modulation a row has in a step."""
    config = network.config
    return config.hidden_size * (12 * config.depth + 3 * config.depth_single_blocks + 2)
