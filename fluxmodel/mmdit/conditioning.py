"""What a forward pass knows before it sees the image: embedded text, rotary positions, every block's modulation.

None of it depends on the image, so a sampler computes it for all steps before its loop: the text and the positions
once, and the modulation of all steps in one product a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Complex, Float
from torch import Tensor

from fluxmodel.mmdit.modulation import Modulated


@dataclass(frozen=True)
class Conditioning:
    """Of one step and one batch.

    Attributes:
        txt: text tokens as `txt_in` embeds them.
        pe: rotary table of (txt, img); one for the batch where all positions are alike.
        img_mods: of each double block, the image stream's two sublayers.
        txt_mods: likewise the text stream's.
        single_mods: of each single block.
        last: shift and 1 + scale of the last layer.
    """

    txt: Float[Tensor, "b m d"]
    pe: Complex[Tensor, "#b m+n d/2"]
    img_mods: list[list[Modulated]]
    txt_mods: list[list[Modulated]]
    single_mods: list[Modulated]
    last: tuple[Tensor, Tensor]

    def step(self, rows: slice) -> Conditioning:
        """Return the part whose modulation lies in `rows`; text and positions are the same in every step."""

        def cut(mods: list[Modulated]) -> list[Modulated]:
            return [Modulated(*(each[rows] for each in mod)) for mod in mods]

        return Conditioning(
            self.txt,
            self.pe,
            [cut(mods) for mods in self.img_mods],
            [cut(mods) for mods in self.txt_mods],
            cut(self.single_mods),
            (self.last[0][rows], self.last[1][rows]),
        )
