"""Rows of what a captioner wrote: flagged where it has to be, and a short caption made of the detailed one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fluxmodel.data.caption_flags import (
    AGREES_LESS,
    EMPTY,
    LOOP,
    LOW_SCORE,
    REFUSAL,
    TRUNCATED,
    UNPARSABLE,
    TokenCounts,
    is_loop,
    is_refusal,
    is_truncated,
)
from fluxmodel.data.caption_rows import CaptionRow
from fluxmodel.data.caption_scores import shortened
from fluxmodel.data.procedural import Level, parse_caption
from fluxmodel.encoders.captioner import Written
from fluxmodel.errors import InputError

if TYPE_CHECKING:
    from fluxmodel.data.captioning import CaptionSettings

DERIVED = "derived"


class Labels:
    """Makes rows of what a captioner wrote."""

    def __init__(self, identity: dict[str, Any], level: Level | None, settings: CaptionSettings):
        self.level = level
        self.limit = settings.low_score if settings.low_score is not None else (-0.05 if level else -2.0)
        self.tokens = TokenCounts.of(settings.clip_tokenizer, settings.t5_tokenizer)
        self.provenance: dict[str, Any] = {**identity, "low_score": self.limit}

    def rows(
        self, own: str, split: str, written: Written, before: float | None, after: float | None
    ) -> Iterator[CaptionRow]:
        """Yield the detailed caption, flagged where it has to be, and the short one made of it."""
        flags = tuple(self._flags(written, before, after))
        name, revision, prompt = (str(self.provenance[k]) for k in ("captioner", "revision", "prompt_hash"))
        score = None if written.score is None else round(written.score, 4)
        agreement = None if after is None else round(after, 4)
        yield CaptionRow(
            own, split, written.text, "detailed", name, revision, prompt, written.num_tokens, score, flags, agreement
        )  # fmt: skip
        short = shortened(written.text, self.level) if self.level else None
        if short is not None:
            words = len(short.split())
            yield CaptionRow(
                own, split, short, "short", f"{name}+{DERIVED}", revision, prompt, words, score, flags
            )

    def _flags(self, written: Written, before: float | None, after: float | None) -> Iterator[str]:
        if not written.text:
            yield EMPTY
        elif self.level and not _parses(written.text, self.level):
            yield UNPARSABLE
        if written.finish == "refused" or is_refusal(written.text):
            yield REFUSAL
        if is_loop(written.text):
            yield LOOP
        if is_truncated(written):
            yield TRUNCATED
        yield from self.tokens.flags(written.text)
        if before is not None and after is not None and after < before:
            yield AGREES_LESS
        if written.score is not None and written.score < self.limit:
            yield LOW_SCORE


def _parses(text: str, level: Level) -> bool:
    try:
        parse_caption(text, level)
    except InputError:
        return False
    return True
