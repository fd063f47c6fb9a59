"""The MM-DiT whose state-dict names and forward are the original FLUX.1's, so its weights load with no adapter."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fluxmodel.mmdit.blocks import DoubleStreamBlock, LastLayer, SingleStreamBlock
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
        img_ids: Float[Tensor, "b n axes"],
        txt: Float[Tensor, "b m context_in_dim"],
        txt_ids: Float[Tensor, "b m axes"],
        timesteps: Float[Tensor, " b"],
        y: Float[Tensor, "b vec_in_dim"],
        guidance: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b n out_channels"]:
        """Predict the velocity noise - data.

        Args:
            img: packed latents, n tokens.
            img_ids: (0, row, column) of every image token.
            txt: text token embeddings.
            txt_ids: positions of text tokens; FLUX.1 has zeros.
            timesteps: 1 is noise, 0 is data.
            y: pooled text embedding.
            guidance: guidance strength, if `config.guidance_embed`.

        Raises:
            ValueError: guidance is missing where the network wants it.
        """
        dtype = self.img_in.weight.dtype
        vec = self.time_in(timestep_embedding(timesteps).to(dtype))
        if self.config.guidance_embed:
            if guidance is None:
                raise ValueError(
                    "this network embeds guidance (guidance_embed=True): pass guidance, e.g. 3.5"
                )
            vec = vec + self.guidance_in(timestep_embedding(guidance).to(dtype))
        vec = vec + self.vector_in(y.to(dtype))

        img, txt = self.img_in(img.to(dtype)), self.txt_in(txt.to(dtype))
        pe = rotary_table(torch.cat((txt_ids, img_ids), dim=1), self.config.axes_dim, self.config.theta)
        for block in self.double_blocks:
            img, txt = block(img, txt, vec, pe)
        num_text = txt.shape[1]
        x = torch.cat((txt, img), dim=1)
        for number, block in enumerate(self.single_blocks, start=1):
            x = block(x, vec, pe, num_unread=num_text if number == len(self.single_blocks) else 0)
        return self.final_layer(x if self.single_blocks else img, vec)
