"""What may be wrong with a written caption, each a flag: it refuses, runs in a loop, is cut off, is too long.

A flag is a suspicion by plain rules on the text and on how its writer came to its end; `UNFIT` names those that are
never learned from where an image has another caption.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fluxmodel.encoders.captioner import Written
from fluxmodel.errors import InputError

EMPTY, REFUSAL, LOOP, TRUNCATED = "empty", "refusal", "loop", "truncated"
UNPARSABLE, LOW_SCORE, AGREES_LESS = "unparsable", "low_score", "agrees_less"
LONG_FOR = {"clip": "long_for_clip", "t5": "long_for_t5"}
LIMITS = {"clip": 77, "t5": 512}
"""Tokens that FLUX's encoders read, special ones among them; what follows is never seen."""
UNFIT = frozenset({EMPTY, REFUSAL, LOOP, UNPARSABLE})
TOKENS_PER_WORD = 1.35
"""English captions by CLIP's vocabulary take 1.2 to 1.4 tokens a word; used where no tokenizer is given."""
_SPECIAL = {"clip": 2, "t5": 1}
_LOOKED_AT = 20_000
"""Characters of a caption that are looked at; regular expressions stay fast on whatever a server sends."""

_REFUSING = re.compile(
    r"""^\W*(?:
        (?:i(?:['’]m|\ am)|we(?:['’]re|\ are))\ (?:(?:very|really|so|truly)\ )?(?:sorry|afraid|unable|not\ able)\b
      | (?:i|we)\ (?:cannot|can\ ?not|can['’]t|could\ not|couldn['’]t|won['’]t|will\ not|do\ not|don['’]t)\b
        (?!\ (?:see|find|notice|detect|spot|make\ out)\ (?!(?:(?:an?|any|the|your|this|that|such)\ )?(?:[\w-]+\ )?
           (?:images?|pictures?|photos?|photographs?|attachments?|files?)\b))
      | (?:i|we)\ (?:must\ |have\ to\ |need\ to\ )?(?:apologi[sz]e|decline|refuse)\b
      | (?:my\ )?apologies\b
      | sorry,?\ (?:but\b|i\b|this\b|the\b)
      | unfortunately,?\ (?:i|we)\b
      | as\ an?\ (?:ai|artificial|language|large|text-based)\b
      | (?:no|there\ is\ no)\ image\ (?:was|is|has|provided|attached|to\ (?:describe|see|caption))\b
      | (?:it\ (?:seems|looks|appears)\ (?:that\ |like\ )?)?(?:you|there)\ (?:haven['’]t|didn['’]t|have\ not|did\ not)
        \ (?:provided?|attach|upload|include|share)
      | unable\ to\ (?:view|see|process|describe|assist|caption|analy[sz]e)\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_CHARACTER_LOOP = re.compile(r"([^\W\d_]\S{0,15}?)\1{9,}")
"""Of letters: a ruled line or a round number is none."""
_MOST_WORDS_OF_A_LOOP = 12
_SENTENCE_END = re.compile(r"""[.!?…。！？][)"'”’»\]]*$""")


def is_refusal(text: str) -> bool:
    """Return whether a text begins as a model's excuse for not describing the image does."""
    return bool(_REFUSING.match(text[:300]))


def is_loop(text: str) -> bool:
    """Return whether a text repeats itself.

    So are a word four times in a row, 2 to 12 words three times in a row, a piece of a word ten times, and, from 40
    words on, a text of whose four-word phrases less than half differ (compare Rae et al. 2021, arXiv:2112.11446).
    """
    text = text[:_LOOKED_AT].lower()
    words = re.findall(r"\w+", text)
    if _CHARACTER_LOOP.search(text):
        return True
    for size in range(1, _MOST_WORDS_OF_A_LOOP + 1):
        run = 0  # words in a row that equal the word `size` before them
        wanted = size * (3 if size == 1 else 2)
        for before, word in zip(words, words[size:], strict=False):
            run = run + 1 if before == word else 0
            if run >= wanted:
                return True
    phrases = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    return len(words) >= 40 and len(phrases) < phrases.total() / 2


def is_truncated(written: Written) -> bool:
    """Return whether a caption was cut off: by its writer's word, else where it ends in no sentence's end."""
    if written.finish == "unknown":
        return bool(written.text) and not _SENTENCE_END.search(written.text[-20:])
    return written.finish == "length"


@dataclass
class TokenCounts:
    """Lengths of captions in tokens of CLIP and of T5: by their tokenizers, else estimated from words.

    Attributes:
        counters: by encoder; None where no tokenizer is given.
        longest: the most tokens seen.
        over: captions beyond the encoder's limit.
    """

    counters: dict[str, Callable[[str], int] | None]
    longest: Counter[str] = field(default_factory=Counter)
    over: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, clip: str | Path | None = None, t5: str | Path | None = None) -> TokenCounts:
        """Read the tokenizers of two directories.

        Raises:
            InputError: one of them holds none.
        """
        return cls({name: _counter(place) for name, place in (("clip", clip), ("t5", t5))})

    def flags(self, text: str) -> Iterator[str]:
        """Yield what a caption is too long for."""
        for name, counter in self.counters.items():
            count = counter(text) if counter else _estimate(text, name)
            self.longest[name] = max(self.longest[name], count)
            if count > LIMITS[name]:
                self.over[name] += 1
                yield LONG_FOR[name]

    def told(self) -> dict[str, dict[str, Any]]:
        """Return the lengths as JSON, and how they were counted."""
        estimated = f"estimated: {TOKENS_PER_WORD} tokens a word, for no tokenizer was given"
        return {
            name: {
                "limit": LIMITS[name],
                "longest": self.longest[name],
                "over": self.over[name],
                "counted": "by its tokenizer" if counter else estimated,
            }
            for name, counter in self.counters.items()
        }


def _estimate(text: str, name: str) -> int:
    return round(len(text.split()) * TOKENS_PER_WORD) + _SPECIAL[name]


def _counter(directory: str | Path | None) -> Callable[[str], int] | None:
    if directory is None:
        return None
    from transformers import AutoTokenizer

    from fluxmodel.pretrained_folder import quiet_libraries

    try:
        with quiet_libraries():
            tokenizer = AutoTokenizer.from_pretrained(
                str(directory), local_files_only=True, trust_remote_code=False
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        said = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{directory}: no tokenizer can be read there ({said}); name a tokenizer's directory."
        ) from error

    def count(text: str) -> int:
        with quiet_libraries():
            return len(tokenizer(text[:_LOOKED_AT], truncation=False)["input_ids"])

    return count
