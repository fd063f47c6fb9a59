"""Batches for the flow: which latents meet which noise, which caption and which time.

Two couplings (Liu et al. 2022, arXiv:2209.03003): *independent* noise, drawn anew every step, learns the flow;
*pairs*, each latent with the noise a teacher drew it from, straighten it (Reflow).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fluxmodel.data.latent_cache import EncodedDataset
from fluxmodel.encoders.text import WordEncoder
from fluxmodel.errors import InputError
from fluxmodel.flow.packing import pack
from fluxmodel.randomness import epoch_batch, image_noise

Coupling = Literal["independent", "pairs"]


@dataclass(frozen=True)
class FlowBatch:
    """Packed latents [b, n, c], noise alike, times [b], text [b, m, d], pooled text [b, d]."""

    data: Tensor
    noise: Tensor
    t: Tensor
    txt: Tensor
    pooled: Tensor

    def __getitem__(self, part: slice) -> FlowBatch:
        return FlowBatch(self.data[part], self.noise[part], self.t[part], self.txt[part], self.pooled[part])


class CaptionedLatents:
    """An encoded dataset in memory, packed, its captions embedded once.

    Attributes:
        data: packed latents [n, tokens, channels].
        height, width: of the latents before packing.
        noise: the noise of each latent, where the dataset holds pairs; else None.
    """

    def __init__(
        self, encoded: EncodedDataset, encoder: WordEncoder, mix: Mapping[str, float], where: str = "the data"
    ):
        """Embed the captions that `mix` names.

        Args:
            encoded: latents and captions.
            encoder: what embeds the captions.
            mix: relative weight of each kind of caption; kinds that are not named are not used.
            where: what to call the dataset in a message.

        Raises:
            InputError: `mix` leaves an image without a caption.
        """
        self.data = pack(encoded.latents)
        self.height, self.width = encoded.latents.shape[-2:]
        self.noise = None
        if encoded.noise_seeds is not None:
            self.noise = image_noise(encoded.noise_seeds, self.data.shape[1:])
        self._weigh(encoded.captions, mix, where)
        texts = {"": 0}
        self._text_of = torch.tensor(
            [[texts.setdefault(own.get(k, ""), len(texts)) for k in self.kinds] for own in encoded.captions]
        )
        self._embedded = encoder(list(texts))

    def _weigh(self, captions: list[dict[str, str]], mix: Mapping[str, float], where: str) -> None:
        kinds = [k for k in mix if mix[k] > 0 and any(k in own for own in captions)]
        if not kinds:
            raise InputError(
                f"objective.caption_mix names {', '.join(mix) or 'nothing'}, and {where} has no such caption; "
                f"its kinds are {', '.join(sorted(set().union(*captions))) or 'none'}"
            )
        weight = torch.tensor([[mix[k] * (k in own) for k in kinds] for own in captions])
        if num_without := int((weight.sum(1) == 0).sum()):
            raise InputError(
                f"{num_without} images of {where} have no caption of the kinds {', '.join(kinds)}: "
                "caption them, or name their kinds in objective.caption_mix"
            )
        self.kinds = kinds
        self._cumulative = (weight / weight.sum(1, keepdim=True)).cumsum(1)

    def __len__(self) -> int:
        return len(self.data)

    def samples(self, size: int, seed: int, step: int) -> tuple[Int[Tensor, " size"], Int[Tensor, " size"]]:
        """Return (sample, epoch) of every place in batch `step`."""
        return epoch_batch(len(self), size, seed, step)

    def texts(self, samples: Tensor, pick: Float[Tensor, "b 1"]) -> Int[Tensor, " b"]:
        """Return the number of the caption each sample takes, by a uniform number each; 0 is the empty one."""
        column = (pick > self._cumulative[samples]).sum(1).clamp(max=self._text_of.shape[1] - 1)
        return self._text_of[samples, column]

    def embed(self, texts: Int[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        """Return the tokens and the pooled embedding of captions by number."""
        return self._embedded.tokens[texts], self._embedded.pooled[texts]
