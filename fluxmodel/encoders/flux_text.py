"""FLUX.1's text encoders, read by transformers: T5 for the tokens, CLIP for the pooled embedding.

T5's captions are padded to a fixed length and no attention mask is used: the network has learned to see the padding.
CLIP's are padded to its 77 tokens. What is longer is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fluxmodel.encoders.text import EncodedText
from fluxmodel.errors import InputError
from fluxmodel.pretrained_folder import quiet_libraries, read_json, read_network


@dataclass(frozen=True)
class FluxText:
    """The text encoders of a FLUX.1 directory, not read yet.

    Attributes:
        directory: holds `text_encoder`, `text_encoder_2`, `tokenizer` and `tokenizer_2`.
        max_tokens: tokens of T5, 512 for dev and 256 for schnell.
        dtype: of both networks.
        device: where they go.
    """

    directory: Path
    max_tokens: int
    dtype: torch.dtype
    device: torch.device

    def load(self) -> FluxTextEncoder:
        """Read them.

        Raises:
            InputError: a part is missing, damaged, pickled or of another shape.
        """
        return FluxTextEncoder.from_directory(self.directory, self.max_tokens, self.dtype).to(self.device)

    def widths(self) -> tuple[int, int]:
        """Return the width of a token's embedding and of the pooled one, by the configurations alone.

        Raises:
            InputError: a configuration is missing or damaged.
        """
        import transformers

        found = []
        for kind, part, field in (
            (transformers.T5Config, "text_encoder_2", "d_model"),
            (transformers.CLIPTextConfig, "text_encoder", "hidden_size"),
        ):
            config = kind.from_dict(read_json(self.directory / part / "config.json"))
            found.append(int(getattr(config, field)))
        return found[0], found[1]


class FluxTextEncoder(nn.Module):
    """Captions to T5's token embeddings and CLIP's pooled embedding, on its networks' device and in their dtype."""

    def __init__(
        self, clip: nn.Module, clip_tokenizer: Any, t5: nn.Module, t5_tokenizer: Any, max_tokens: int
    ):
        """Compose the encoders.

        Args:
            clip: transformers' `CLIPTextModel`.
            clip_tokenizer: its tokenizer.
            t5: transformers' `T5EncoderModel`.
            t5_tokenizer: its tokenizer.
            max_tokens: tokens of T5, 512 for dev and 256 for schnell.
        """
        super().__init__()
        self.clip, self.t5 = clip, t5
        self._clip_tokenizer, self._t5_tokenizer = clip_tokenizer, t5_tokenizer
        self.max_tokens = max_tokens

    @classmethod
    def from_directory(
        cls, directory: str | Path, max_tokens: int, dtype: torch.dtype = torch.float32
    ) -> FluxTextEncoder:
        """Read `text_encoder`, `text_encoder_2`, `tokenizer` and `tokenizer_2` of a FLUX.1 directory.

        Raises:
            InputError: a part is missing, damaged, pickled or of another shape.
        """
        import transformers

        directory, t5_tokenizer = Path(directory), getattr(transformers, "T5TokenizerFast")  # noqa: B009 (untyped)
        transformers.utils.logging.disable_progress_bar()
        return cls(
            read_network(transformers.CLIPTextModel, directory / "text_encoder", dtype),
            _tokenizer(transformers.CLIPTokenizer, directory / "tokenizer"),
            read_network(transformers.T5EncoderModel, directory / "text_encoder_2", dtype),
            _tokenizer(t5_tokenizer, directory / "tokenizer_2"),
            max_tokens,
        ).eval()

    @property
    def token_width(self) -> int:
        """Width of a token's embedding."""
        return int(self.t5.config.d_model)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]

    @property
    def pooled_width(self) -> int:
        """Width of the pooled embedding."""
        return int(self.clip.config.hidden_size)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]

    @torch.no_grad()
    def forward(self, captions: Sequence[str]) -> EncodedText:
        """Encode captions, each in a call of its own: an embedding depends on its caption alone, to the last bit."""
        embedding = self.t5.get_input_embeddings().weight  # pyright: ignore[reportCallIssue]
        tokens = [embedding.new_empty(0, self.max_tokens, self.token_width)]
        pooled = [embedding.new_empty(0, self.pooled_width)]
        for caption in captions:
            ids = _token_ids(self._t5_tokenizer, [caption], self.max_tokens)
            tokens.append(self.t5(ids.to(embedding.device)).last_hidden_state)
            ids = _token_ids(self._clip_tokenizer, [caption], self._clip_tokenizer.model_max_length)
            pooled.append(self.clip(ids.to(embedding.device)).pooler_output)
        return EncodedText(torch.cat(tokens), torch.cat(pooled))

    def text_ids(self, batch: int) -> Float[Tensor, "batch max_tokens 3"]:
        """Return the rotary positions of text tokens: all zero."""
        return torch.zeros(batch, self.max_tokens, 3, device=next(self.t5.parameters()).device)


def _token_ids(tokenizer: Any, captions: list[str], length: int) -> Tensor:
    with quiet_libraries():
        return tokenizer(
            captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids


def _tokenizer(kind: Any, folder: Path) -> Any:
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; a FLUX.1 directory has one, download it whole.")
    try:
        with quiet_libraries():
            return kind.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"{folder}: cannot be read as a tokenizer ({said}); download it again.") from error
