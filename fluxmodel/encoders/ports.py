"""What the rest asks of a text encoder and of an autoencoder, whoever wrote them: ours, or FLUX.1's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from fluxmodel.encoders.text import EncodedText


class TextEncoder(Protocol):
    """Captions to embeddings."""

    def __call__(self, captions: Sequence[str], /) -> EncodedText:
        """Encode captions."""
        ...

    def text_ids(self, batch: int) -> Float[Tensor, "batch max_tokens 3"]:
        """Return the rotary positions of text tokens."""
        ...


class LatentShape(Protocol):
    """The shape of latents."""

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        ...

    @property
    def downscale(self) -> int:
        """Image side over latent side."""
        ...


class LatentCoder(Protocol):
    """Images to normalised latents and back."""

    @property
    def config(self) -> LatentShape:
        """The shape of its latents."""
        ...

    def encode(self, images: Float[Tensor, "n 3 h w"], /) -> Float[Tensor, "n c h/d w/d"]:
        """Return normalised latents of images in [-1, 1]."""
        ...

    def decode(self, latents: Float[Tensor, "n c h w"], /) -> Float[Tensor, "n 3 d*h d*w"]:
        """Return images, about in [-1, 1], of normalised latents."""
        ...
