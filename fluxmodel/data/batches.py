"""Batches for the flow: which latents meet which noise, which caption and which time.

Two couplings (Liu et al. 2022, arXiv:2209.03003): *independent* noise, drawn anew every step, learns the flow;
*pairs*, each latent with the noise a teacher drew it from, straighten it (Reflow).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from fluxmodel.data.caption_mix import CaptionMix
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


class PackedLatents:
    """Latents as tokens [n, tokens, channels] in float32, packed when they are asked for: they may lie in a file."""

    def __init__(self, latents: Float[Tensor, "n c h w"]):
        self._latents = latents
        self.shape = pack(latents[:1]).expand(len(latents), -1, -1).shape

    def __len__(self) -> int:
        return len(self._latents)

    def __getitem__(self, samples: Int[Tensor, " b"] | slice) -> Float[Tensor, "b tokens channels"]:
        return pack(self._latents[samples].float())


class CaptionedLatents:
    """An encoded dataset, its captions embedded once.

    Attributes:
        data: packed latents.
        height, width: of the latents before packing.
        noise: the noise of each latent, where the dataset holds pairs; else None.
    """

    def __init__(
        self, encoded: EncodedDataset, encoder: WordEncoder, mix: Mapping[str, float], seed: int, where: str
    ):
        """Embed the captions that `mix` names.

        Args:
            encoded: latents and captions.
            encoder: what embeds the captions.
            mix: relative weight of each kind of caption; kinds that are not named are not used.
            seed: another seed chooses other captions.
            where: what to call the dataset in a message.

        Raises:
            InputError: `mix` leaves an image without a caption.
        """
        self.data = PackedLatents(encoded.latents)
        self.height, self.width = encoded.latents.shape[-2:]
        self.noise = None
        if encoded.noise_seeds is not None:
            self.noise = image_noise(encoded.noise_seeds, self.data.shape[1:])
        try:
            self._captions = CaptionMix(mix).table(encoded.captions, encoded.ids, seed)
        except InputError as error:
            raise InputError(f"objective.caption_mix, {where}: {error}") from error
        self._embedded = encoder(self._captions.texts)

    def __len__(self) -> int:
        return len(self.data)

    def samples(self, size: int, seed: int, step: int) -> tuple[Int[Tensor, " size"], Int[Tensor, " size"]]:
        """Return (sample, epoch) of every place in batch `step`."""
        return epoch_batch(len(self), size, seed, step)

    def texts(self, samples: Int[Tensor, " b"], epochs: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Return the number of each sample's caption in each epoch, by the mix policy; 0 is the empty one."""
        return self._captions.choose(samples, epochs)

    def embed(self, texts: Int[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        """Return the tokens and the pooled embedding of captions by number."""
        return self._embedded.tokens[texts], self._embedded.pooled[texts]
