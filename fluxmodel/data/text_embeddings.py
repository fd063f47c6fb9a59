"""Text embeddings by caption, kept between runs: an encoder that is asked again answers without being loaded.

Kept are pooled embedding and tokens, in bf16 or, where the encoder computes in another dtype, in that one. Of the
tokens a run of equal rows at the end is kept once: where an encoder leaves padding zero, as the embedded one does, that
is all padding. FLUX.1's T5 sees its padding (no attention mask), its rows there differ from each other, and the network
has learned to see them: they are kept, for leaving them out would change what is drawn. Either way what comes back
equals the encoder's answer in that dtype, bit for bit.
"""

from __future__ import annotations

import hashlib
import struct
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fluxmodel.data.content_cache import ContentCache
from fluxmodel.data.file_digests import kept_digests
from fluxmodel.encoders.flux_text import FluxText
from fluxmodel.encoders.ports import TextEncoder
from fluxmodel.encoders.text import EncodedText
from fluxmodel.errors import InputError

_SHAPE = struct.Struct("<4I")
_FLUX_FOLDERS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
_AS_INTEGERS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


class CachedTextEncoder:
    """A text encoder that remembers; it answers in one dtype whether a caption was kept or not.

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
        dtype: torch.dtype = torch.bfloat16,
    ):
        """Open the cache; it is closed with `close`, or when the encoder goes.

        Args:
            load: reads the encoder; called when the first caption is met that is not kept.
            recipe: all that an embedding depends on but its caption, as `flux_text_recipe`.
            cache: folder of all caches.
            max_tokens: tokens of an embedding, padding included.
            device: where embeddings are wanted.
            dtype: of the embeddings that are kept and given.
        """
        self._load, self._encoder, self._device, self._dtype = load, None, torch.device(device), dtype
        self._kept = ContentCache(cache, {"name": "text", "dtype": str(dtype), **recipe})
        weakref.finalize(self, self._kept.close)
        self.max_tokens, self.num_encoded = max_tokens, 0

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> EncodedText:
        """Encode captions, each by itself."""
        found = [self._embedding(caption) for caption in captions]
        if not found:
            empty = self._loaded()([])
            return EncodedText(*(part.to(self._device, self._dtype) for part in empty))
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
            return _unpacked(value, self._dtype)
        self.num_encoded += 1
        tokens, pooled = (part[0].to("cpu", self._dtype) for part in self._loaded()([caption]))
        self._kept.put(key, _packed(tokens, pooled))
        return tokens, pooled

    def _loaded(self) -> TextEncoder:
        self._encoder = self._encoder or self._load()
        return self._encoder


def remembered_flux_text(text: FluxText, cache: str | Path) -> CachedTextEncoder:
    """Return FLUX.1's text encoders with a memory: T5 and CLIP are read when a caption comes that is not known.

    Raises:
        InputError: the directory has no such files, or one cannot be read.
    """
    recipe = flux_text_recipe(text.directory, text.max_tokens, text.dtype, text.device, cache)
    return CachedTextEncoder(text.load, recipe, cache, text.max_tokens, text.device, text.dtype)


def flux_text_recipe(
    directory: str | Path,
    max_tokens: int,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    cache: str | Path | None = None,
) -> dict[str, object]:
    """Return what an embedding of a FLUX.1 directory's text encoders depends on.

    Their files are read whole, those that `cache` (the folder of all caches) knows unchanged excepted.

    Raises:
        InputError: the directory has no such files, or one cannot be read.
    """
    from importlib.metadata import version

    names = [path for folder in _FLUX_FOLDERS for path in sorted((Path(directory) / folder).glob("*"))]
    files = [path for path in names if path.is_file()]
    if not files:
        raise InputError(
            f"{directory}: there are no text encoders; a FLUX.1 directory has them, download it whole."
        )
    try:
        contents = _digests(files) if cache is None else kept_digests(files, cache)
    except OSError as error:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}); download it again."
        ) from error
    digest = hashlib.sha256()
    for path, content in zip(files, contents, strict=True):
        digest.update(f"{path.parent.name}/{path.name} {content}\n".encode())
    return {
        "encoders": digest.hexdigest(),
        "max_tokens": max_tokens,
        "computed_in": str(dtype),
        "device": torch.device(device).type,
        "processor": _processor(torch.device(device)),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def _digests(files: Sequence[Path]) -> list[str]:
    found = []
    for path in files:
        with path.open("rb") as file:
            found.append(hashlib.file_digest(file, "sha256").hexdigest())
    return found


def _processor(device: torch.device) -> str:
    """Return what else decides the last bit of a product of matrices."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability()


def _packed(tokens: Tensor, pooled: Tensor) -> bytes:
    """Return an embedding as bytes; equal rows at its end, to the last bit, are kept once."""
    integer = _AS_INTEGERS[tokens.dtype]
    bits = tokens.contiguous().view(integer)
    differs = (bits != bits[-1:]).any(1).nonzero()
    num_rows = min(len(bits), int(differs[-1]) + 2 if len(differs) else 1)
    shape = _SHAPE.pack(len(bits), num_rows, bits.shape[1], len(pooled))
    return b"".join(
        (shape, bits[:num_rows].numpy().tobytes(), pooled.contiguous().view(integer).numpy().tobytes())
    )


def _unpacked(value: bytes, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    length, num_rows, width, pooled_width = _SHAPE.unpack_from(value)
    numbers = torch.frombuffer(bytearray(value), dtype=dtype, offset=_SHAPE.size)
    rows, pooled = numbers[: num_rows * width].view(num_rows, width), numbers[num_rows * width :]
    assert len(pooled) == pooled_width
    return torch.cat([rows, rows[-1:].expand(length - num_rows, -1)]), pooled.clone()
