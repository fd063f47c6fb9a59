"""Text embeddings by caption, kept between runs: an encoder that is asked again answers without being loaded.

Kept in bf16, pooled embedding and tokens. Of the tokens a run of equal rows at the end is kept once: where an encoder
leaves padding zero, as the embedded one does, that is all padding. FLUX.1's T5 sees its padding (no attention mask),
its rows there differ from each other, and the network has learned to see them: they are kept, for leaving them out
would change what is drawn. Either way what comes back equals the encoder's answer in bf16, bit for bit.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fluxmodel.data.content_cache import ContentCache
from fluxmodel.encoders.ports import TextEncoder
from fluxmodel.encoders.text import EncodedText
from fluxmodel.errors import InputError

_SHAPE = struct.Struct("<4I")
_FLUX_FOLDERS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


class CachedTextEncoder:
    """A text encoder that remembers; it answers in bf16 whether a caption was kept or not.

    Attributes:
        num_encoded: captions that were not kept.
    """

    def __init__(
        self,
        load: Callable[[], TextEncoder],
        recipe: Mapping[str, object],
        cache: str | Path,
        max_tokens: int,
        device: torch.device | str = "cpu",
    ):
        """Open the cache.

        Args:
            load: reads the encoder; called when the first caption is met that is not kept.
            recipe: all that an embedding depends on but its caption, as `flux_text_recipe`.
            cache: folder of all caches.
            max_tokens: tokens of an embedding, padding included.
            device: where embeddings are wanted.
        """
        self._load, self._encoder, self._device = load, None, torch.device(device)
        self._kept = ContentCache(cache, {"name": "text", **recipe})
        self.max_tokens, self.num_encoded = max_tokens, 0

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> EncodedText:
        """Encode captions, each by itself; bf16."""
        found = [self._embedding(caption) for caption in captions]
        if not found:
            empty = self._loaded()([])
            return EncodedText(*(part.to(self._device, torch.bfloat16) for part in empty))
        self._kept.flush()
        tokens, pooled = zip(*found, strict=True)
        return EncodedText(torch.stack(tokens).to(self._device), torch.stack(pooled).to(self._device))

    def text_ids(self, batch: int) -> Float[Tensor, "batch max_tokens 3"]:
        """Return the rotary positions of text tokens: all zero."""
        return torch.zeros(batch, self.max_tokens, 3, device=self._device)

    def close(self) -> None:
        """Write what is not written yet and give up the cache."""
        self._kept.close()

    def _embedding(self, caption: str) -> tuple[Tensor, Tensor]:
        key = hashlib.sha256(caption.encode("utf-8", "surrogatepass")).hexdigest()
        value = self._kept.get(key)
        if value is not None:
            return _unpacked(value)
        self.num_encoded += 1
        tokens, pooled = (part[0].to("cpu", torch.bfloat16) for part in self._loaded()([caption]))
        self._kept.put(key, _packed(tokens, pooled))
        return tokens, pooled

    def _loaded(self) -> TextEncoder:
        self._encoder = self._encoder or self._load()
        return self._encoder


def flux_text_recipe(
    directory: str | Path, max_tokens: int, dtype: torch.dtype, device: str = "cpu"
) -> dict[str, object]:
    """Return what an embedding of a FLUX.1 directory's text encoders depends on; reads their files once, whole.

    Raises:
        InputError: the directory has no such files.
    """
    from importlib.metadata import version

    digest, num_files = hashlib.sha256(), 0
    for folder in _FLUX_FOLDERS:
        for path in sorted((Path(directory) / folder).glob("*")):
            if path.is_file():
                num_files += 1
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                digest.update(f"{folder}/{path.name} {content}\n".encode())
    if not num_files:
        raise InputError(
            f"{directory}: there are no text encoders; a FLUX.1 directory has them, download it whole."
        )
    return {
        "encoders": digest.hexdigest(),
        "max_tokens": max_tokens,
        "computed_in": str(dtype),
        "device": torch.device(device).type,
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def _packed(tokens: Tensor, pooled: Tensor) -> bytes:
    """Return an embedding as bytes; equal rows at its end, to the last bit, are kept once."""
    bits = tokens.contiguous().view(torch.int16)
    differs = (bits != bits[-1:]).any(1).nonzero()
    num_rows = min(len(bits), int(differs[-1]) + 2 if len(differs) else 1)
    shape = _SHAPE.pack(len(bits), num_rows, bits.shape[1], len(pooled))
    return b"".join(
        (shape, bits[:num_rows].numpy().tobytes(), pooled.contiguous().view(torch.int16).numpy().tobytes())
    )


def _unpacked(value: bytes) -> tuple[Tensor, Tensor]:
    length, num_rows, width, pooled_width = _SHAPE.unpack_from(value)
    numbers = torch.frombuffer(bytearray(value), dtype=torch.bfloat16, offset=_SHAPE.size)
    rows, pooled = numbers[: num_rows * width].view(num_rows, width), numbers[num_rows * width :]
    assert len(pooled) == pooled_width
    return torch.cat([rows, rows[-1:].expand(length - num_rows, -1)]), pooled.clone()
