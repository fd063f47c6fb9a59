"""Which captions are fit to train on, and the one way their white space is normalised."""

import unicodedata

from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.records import Caption, Reason

# Controls, lone surrogates, and the replacement character that a wrong decoding leaves behind.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs"})
_REPLACEMENT = "\ufffd"
# Normalising takes time with the square of a run of combining marks: 0.08 s for 10 000, minutes for 1 000 000.
MAX_CHARACTERS = 10_000


def normalise(text: str) -> str:
    """Return the text in Unicode NFC with runs of white space as one blank; one that is endless keeps its form."""
    text = " ".join(text.split())
    return text if len(text) > MAX_CHARACTERS else unicodedata.normalize("NFC", text)


def check_caption(text: str, rules: CurationRules) -> Reason | None:
    """Return why a normalised caption is unfit, or None."""
    words = text.count(" ") + 1
    if not text:
        return Reason.EMPTY_CAPTION
    if len(text) > MAX_CHARACTERS:
        return Reason.CAPTION_TOO_LONG
    if any(char == _REPLACEMENT or unicodedata.category(char) in _FORBIDDEN_CATEGORIES for char in text):
        return Reason.CONTROL_CHARACTERS
    if words < rules.min_caption_words:
        return Reason.CAPTION_TOO_SHORT
    return Reason.CAPTION_TOO_LONG if words > rules.max_caption_words else None


def usable_captions(
    captions: tuple[Caption, ...], rules: CurationRules
) -> tuple[tuple[Caption, ...], Reason | None]:
    """Return the fit captions, normalised and without repetitions, and why there are none where there are none."""
    usable: dict[tuple[str, str], Caption] = {}
    first_reason: Reason | None = None
    for caption in captions:
        text = normalise(caption.text)
        reason = check_caption(text, rules)
        first_reason = first_reason or reason
        if reason is None:
            usable.setdefault((text, caption.kind), Caption(text, caption.kind, caption.model))
    if usable:
        return tuple(usable.values()), None
    return (), first_reason or Reason.MISSING_CAPTION
