"""A word-level tokenizer as a transformers directory, for networks that learn their own word embeddings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from fluxmodel.encoders.text import words

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<start>", "<end>"
SPECIAL = (PAD, UNKNOWN, START, END)


def build_tokenizer(captions: Iterable[str], max_tokens: int, max_words: int = 8000) -> Any:
    """Return a `PreTrainedTokenizerFast` over the words of captions, the most frequent first.

    Args:
        captions: where the vocabulary comes from.
        max_tokens: length after truncation and padding, with start and end.
        max_words: size of the vocabulary at most; rarer words become "<unk>".
    """
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import WordLevel
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    counts = Counter(word for caption in captions for word in words(caption))
    ranked = sorted(counts, key=lambda w: (-counts[w], w))[:max_words]
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *ranked))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("_", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(_separators(), behavior="removed")
    tokenizer.post_processor = TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(t, vocabulary[t]) for t in (START, END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        model_max_length=max_tokens,
    )


def _separators() -> Any:
    from tokenizers import Regex

    return Regex("[^a-z0-9]+")
