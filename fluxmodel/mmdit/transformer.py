"""The MM-DiT whose state-dict names and forward are the original FLUX.1's, so its weights load with no adapter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fluxmodel.mmdit.blocks import DoubleStreamBlock, LastLayer, SingleStreamBlock
from fluxmodel.mmdit.conditioning import Conditioning
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.embedders import MLPEmbedder, timestep_embedding
from fluxmodel.mmdit.rope import rotary_table


class MMDiT(nn.Module):
    """Velocity of image tokens given text tokens, pooled text, time and (dev) guidance."""

    def __init__(self, config: MMDiTConfig):
        super().__init__()
        self.config = config
        hidden = config.hidden_size
        self.img_in = nn.Linear(config.in_channels, hidden)
        self.time_in = MLPEmbedder(256, hidden)
        self.vector_in = MLPEmbedder(config.vec_in_dim, hidden)
        if config.guidance_embed:
            self.guidance_in = MLPEmbedder(256, hidden)
        self.txt_in = nn.Linear(config.context_in_dim, hidden)
        self.double_blocks = nn.ModuleList(DoubleStreamBlock(config) for _ in range(config.depth))
        self.single_blocks = nn.ModuleList(
            SingleStreamBlock(config) for _ in range(config.depth_single_blocks)
        )
        self.final_layer = LastLayer(config)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw weights for training from scratch: Xavier matrices, and zero where a block joins its residual."""
        for name, parameter in self.named_parameters():
            is_modulation = "_mod." in name or "modulation" in name
            if name.endswith("scale"):
                nn.init.ones_(parameter)
            elif parameter.ndim < 2 or is_modulation or name.startswith("final_layer.linear"):
                nn.init.zeros_(parameter)
            elif name.startswith(("time_in", "vector_in", "guidance_in")):
                nn.init.normal_(parameter, std=0.02, generator=generator)
            else:
                nn.init.xavier_uniform_(parameter, generator=generator)

    def forward(
        self,
        img: Float[Tensor, "b n in_channels"],
        img_ids: Float[Tensor, "#b n axes"],
        txt: Float[Tensor, "b m context_in_dim"],
        txt_ids: Float[Tensor, "#b m axes"],
        timesteps: Float[Tensor, " b"],
        y: Float[Tensor, "b vec_in_dim"],
        guidance: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b n out_channels"]:
        """Predict the velocity noise - data.

        Args:
            img: packed latents, n tokens.
            img_ids: (0, row, column) of every image token; one row of them serves a batch of equal sizes.
            txt: text token embeddings.
            txt_ids: positions of text tokens; FLUX.1 has zeros.
            timesteps: 1 is noise, 0 is data.
            y: pooled text embedding.
            guidance: guidance strength, if `config.guidance_embed`.

        Raises:
            ValueError: guidance is missing where the network wants it.
        """
        return self.velocity(img, self.condition(img_ids, txt, txt_ids, timesteps, y, guidance))

    def velocity(self, img: Float[Tensor, "b n in_channels"], given: Conditioning) -> Tensor:
        """Predict the velocity of packed latents under what `condition` prepared, [b, n, out_channels]."""
        img, txt = self.img_in(img.to(given.txt.dtype)), given.txt
        for block, img_mods, txt_mods in zip(self.double_blocks, given.img_mods, given.txt_mods, strict=True):
            img, txt = block(img, txt, img_mods, txt_mods, given.pe)
        if self.single_blocks:
            num_txt, last = txt.shape[1], len(self.single_blocks) - 1
            img = torch.cat((txt, img), dim=1)
            for number, (block, mod) in enumerate(zip(self.single_blocks, given.single_mods, strict=True)):
                img = block(img, mod, given.pe, num_unread=num_txt if number == last else 0)
        return self.final_layer(img, *given.last)

    def condition(
        self,
        img_ids: Float[Tensor, "#b n axes"],
        txt: Float[Tensor, "b m context_in_dim"],
        txt_ids: Float[Tensor, "#b m axes"],
        timesteps: Float[Tensor, " b"],
        y: Float[Tensor, "b vec_in_dim"],
        guidance: Float[Tensor, " b"] | None = None,
    ) -> Conditioning:
        """Prepare all that does not depend on the image; arguments and errors as in `forward`."""
        dtype = self.img_in.weight.dtype
        vec = self.time_in(timestep_embedding(timesteps).to(dtype))
        if self.config.guidance_embed:
            if guidance is None:
                raise ValueError(
                    "this network embeds guidance (guidance_embed=True): pass guidance, e.g. 3.5"
                )
            vec = vec + self.guidance_in(timestep_embedding(guidance).to(dtype))
        vec = vec + self.vector_in(y.to(dtype))
        active = functional.silu(vec)
        double_blocks = cast(Iterable[DoubleStreamBlock], self.double_blocks)
        single_blocks = cast(Iterable[SingleStreamBlock], self.single_blocks)
        batch = max(len(img_ids), len(txt_ids))
        ids = torch.cat((txt_ids.expand(batch, -1, -1), img_ids.expand(batch, -1, -1)), dim=1)
        return Conditioning(
            self.txt_in(txt.to(dtype)),
            rotary_table(ids, self.config.axes_dim, self.config.theta),
            [block.img_mod(active) for block in double_blocks],
            [block.txt_mod(active) for block in double_blocks],
            [block.modulation(active)[0] for block in single_blocks],
            self.final_layer.modulation(active),
        )

    def condition_steps(
        self,
        img_ids: Float[Tensor, "#b n axes"],
        txt: Float[Tensor, "b m context_in_dim"],
        txt_ids: Float[Tensor, "#b m axes"],
        times: Float[Tensor, " steps"],
        y: Float[Tensor, "b vec_in_dim"],
        guidance: Float[Tensor, " b"] | None = None,
    ) -> list[Conditioning]:
        """Prepare every step of a sampler at once, in the order of `times`; the rest as in `condition`."""
        num, batch = len(times), len(txt)
        strength = None if guidance is None else guidance.repeat(num)
        steps = self.condition(
            img_ids, txt, txt_ids, times.repeat_interleave(batch), y.repeat(num, 1), strength
        )
        return [steps.step(slice(batch * each, batch * (each + 1))) for each in range(num)]
