"""What passes from a source to curation: a sample, or the reason why there is none.

Image bytes stay undecoded here; `fluxmodel.data.decode` is the one place that turns them into pixels.
"""

from dataclasses import dataclass
from enum import StrEnum

CAPTION_KINDS = ("detailed", "short", "alt", "given")


class Reason(StrEnum):
    """Why an image, a caption or a row of metadata was refused; `EXPLANATIONS` says it in words."""

    UNREADABLE = "unreadable"
    NOT_A_FILE = "not_a_file"
    FILE_TOO_LARGE = "file_too_large"
    UNSAFE_PATH = "unsafe_path"
    DAMAGED_SHARD = "damaged_shard"
    MISSING_END = "missing_end"
    NOTHING_THERE = "nothing_there"
    EMPTY_FILE = "empty_file"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_LARGE = "too_large"
    OUT_OF_MEMORY = "out_of_memory"
    UNSUPPORTED_MODE = "unsupported_mode"
    UNKNOWN_RANGE = "unknown_range"
    DUPLICATE_ID = "duplicate_id"
    TOO_SMALL = "too_small"
    TOO_ELONGATED = "too_elongated"
    BLURRED = "blurred"
    TOO_DARK = "too_dark"
    TOO_BRIGHT = "too_bright"
    LOW_CONTRAST = "low_contrast"
    LOW_INFORMATION = "low_information"
    MISSING_CAPTION = "missing_caption"
    EMPTY_CAPTION = "empty_caption"
    CONTROL_CHARACTERS = "control_characters"
    CAPTION_TOO_SHORT = "caption_too_short"
    CAPTION_TOO_LONG = "caption_too_long"
    LOW_AGREEMENT = "low_agreement"
    LOW_AESTHETIC = "low_aesthetic"
    UNSAFE = "unsafe"
    NOT_SCORED = "not_scored"
    WATERMARK = "watermark"
    EXACT_DUPLICATE = "exact_duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    EMBEDDING_DUPLICATE = "embedding_duplicate"
    OVER_REPRESENTED = "over_represented"
    BAD_CAPTION_FILE = "bad_caption_file"
    BAD_METADATA_ROW = "bad_metadata_row"
    MISSING_FILE = "missing_file"
    UNREADABLE_FOLDER = "unreadable_folder"


EXPLANATIONS: dict[Reason, str] = {
    Reason.UNREADABLE: "The file could not be read; check its permissions and the disk.",
    Reason.NOT_A_FILE: "The name is no regular file (a broken link, a pipe); replace it by the image.",
    Reason.FILE_TOO_LARGE: "The file exceeds the rule max_file_bytes; shrink it or raise the rule.",
    Reason.UNSAFE_PATH: "The path leads out of its folder or archive (absolute, or with ..); name it from within.",
    Reason.DAMAGED_SHARD: "The parquet, arrow or tar file is damaged or ends early here; copy it again.",
    Reason.MISSING_END: "The tar ends after a whole member, without its end mark; all was read, unless it was cut off.",
    Reason.NOTHING_THERE: "The row holds neither image bytes nor a path; fill it or take it out.",
    Reason.EMPTY_FILE: "The file holds no bytes; copy it again.",
    Reason.NOT_AN_IMAGE: "The bytes are no image format that is read here, whatever the name says.",
    Reason.TRUNCATED: "The image ends before its last row; copy or download it again.",
    Reason.CORRUPT: "The bytes are damaged; copy or download the image again.",
    Reason.TOO_LARGE: "The header declares more pixels than the rule max_pixels; shrink it or raise the rule.",
    Reason.OUT_OF_MEMORY: "The memory was full when the image was decoded; curate again, or lower max_pixels.",
    Reason.UNSUPPORTED_MODE: "The colour model is not supported; save the image as RGB.",
    Reason.UNKNOWN_RANGE: "The values have no known range; save the image with 8 or 16 bits a channel.",
    Reason.DUPLICATE_ID: "An earlier sample has the same id; rename one of the two.",
    Reason.TOO_SMALL: "The shorter side is below the rule min_side.",
    Reason.TOO_ELONGATED: "The longer side exceeds the rule max_aspect times the shorter.",
    Reason.BLURRED: "Edges are weaker than the rule min_sharpness asks.",
    Reason.TOO_DARK: "The mean luminance is below the rule min_brightness.",
    Reason.TOO_BRIGHT: "The mean luminance is above the rule max_brightness.",
    Reason.LOW_CONTRAST: "The luminance varies less than the rule min_contrast asks.",
    Reason.LOW_INFORMATION: "The luminance holds fewer bits than the rule min_entropy asks: nearly one colour.",
    Reason.MISSING_CAPTION: "Nothing describes the image; add NAME.txt beside it or a row of metadata.",
    Reason.EMPTY_CAPTION: "The caption holds no text; write one.",
    Reason.CONTROL_CHARACTERS: "The caption holds control characters; it is probably no text.",
    Reason.CAPTION_TOO_SHORT: "The caption has fewer words than the rule min_caption_words.",
    Reason.CAPTION_TOO_LONG: "The caption has more words than the rule max_caption_words.",
    Reason.LOW_AGREEMENT: "Image and caption agree less than the rule min_agreement asks.",
    Reason.LOW_AESTHETIC: "The aesthetic score is below the rule min_aesthetic.",
    Reason.UNSAFE: "The probability of being safe is below the rule min_safety.",
    Reason.NOT_SCORED: "A model whose score a rule asks for could not look at the image; curation.json says why.",
    Reason.WATERMARK: "The probability of a watermark is above the rule max_watermark.",
    Reason.EMBEDDING_DUPLICATE: "Another kept image shows the same, by the embeddings of a model.",
    Reason.OVER_REPRESENTED: "Its caption has common words alone; by the rule max_images_a_word others stand for them.",
    Reason.EXACT_DUPLICATE: "Another kept image has the same pixels.",
    Reason.NEAR_DUPLICATE: "Another kept image looks the same (a resized or recompressed copy).",
    Reason.BAD_CAPTION_FILE: "The caption file is no UTF-8 text; save it as UTF-8.",
    Reason.BAD_METADATA_ROW: "The row of metadata could not be understood; the other rows were.",
    Reason.MISSING_FILE: "The row of metadata names an image that is not in the folder.",
    Reason.UNREADABLE_FOLDER: "The folder could not be listed; check its permissions.",
}


@dataclass(frozen=True, slots=True)
class Caption:
    """One text for an image; `kind` is one of `CAPTION_KINDS`, `model` names the captioner if one wrote it."""

    text: str
    kind: str
    model: str | None = None


@dataclass(frozen=True, slots=True)
class RawSample:
    """One image as its source gives it, undecoded; `scene` is the ground truth as JSON where there is one."""

    id: str
    image: bytes
    source: str
    licence: str | None = None
    captions: tuple[Caption, ...] = ()
    scene: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class UnreadableFile:
    """Something a source could not deliver; `is_image` is false for captions, metadata rows and folders."""

    id: str
    path: str
    reason: Reason
    detail: str = ""
    is_image: bool = True
