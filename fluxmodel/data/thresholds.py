"""The rules that compare one measured number with one field of the curation rules, as a table."""

from dataclasses import dataclass
from typing import Literal

from fluxmodel.data.records import Reason


@dataclass(frozen=True)
class Threshold:
    """One comparison: `column` of the measurements on the right `side` of `field` of the rules, or `reason`.

    The caption rule looks at every caption of an image; its two thresholds say what a usable one is.
    """

    rule: str
    column: str
    field: str
    side: Literal["min", "max"]
    reason: Reason
    unit: str


THRESHOLDS: tuple[Threshold, ...] = (
    Threshold("min_side", "shorter_side", "min_side", "min", Reason.TOO_SMALL, "pixels"),
    Threshold("max_aspect", "aspect", "max_aspect", "max", Reason.TOO_ELONGATED, "ratio"),
    Threshold("min_sharpness", "sharpness", "min_sharpness", "min", Reason.BLURRED, "levels squared"),
    Threshold("min_brightness", "brightness", "min_brightness", "min", Reason.TOO_DARK, "of 1"),
    Threshold("max_brightness", "brightness", "max_brightness", "max", Reason.TOO_BRIGHT, "of 1"),
    Threshold("min_contrast", "contrast", "min_contrast", "min", Reason.LOW_CONTRAST, "of 1"),
    Threshold("min_entropy", "entropy", "min_entropy", "min", Reason.LOW_INFORMATION, "bits"),
    Threshold("caption", "caption_words", "min_caption_words", "min", Reason.CAPTION_TOO_SHORT, "words"),
    Threshold("caption", "caption_words", "max_caption_words", "max", Reason.CAPTION_TOO_LONG, "words"),
    Threshold("min_agreement", "agreement", "min_agreement", "min", Reason.LOW_AGREEMENT, "cosine"),
    Threshold("min_aesthetic", "aesthetic", "min_aesthetic", "min", Reason.LOW_AESTHETIC, "probability"),
    Threshold("min_safety", "safety", "min_safety", "min", Reason.UNSAFE, "probability"),
    Threshold("max_watermark", "watermark", "max_watermark", "max", Reason.WATERMARK, "probability"),
)
