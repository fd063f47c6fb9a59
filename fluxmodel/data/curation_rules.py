"""The rules of curation: one class for the command's flags, the run form and the record in the artifact."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fluxmodel.errors import InputError


class CurationRules(BaseModel):
    """What an image and its captions must satisfy, and how the kept ones are split."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    image_size: int = Field(
        default=32, ge=8, le=4096, description="Side of the square training image, pixels."
    )
    min_side: int = Field(default=16, ge=1, description="Smallest accepted shorter side, pixels.")
    max_aspect: float = Field(
        default=3.0, ge=1, description="Largest accepted longer side / shorter side, ratio."
    )
    max_pixels: int = Field(
        default=64_000_000, ge=1, description="Largest accepted area as the header declares it, pixels."
    )
    max_file_bytes: int = Field(default=256_000_000, ge=1, description="Largest accepted file, bytes.")
    min_sharpness: float | None = Field(
        default=None,
        ge=0,
        description="Least variance of the Laplacian, levels squared (longer side 256); null turns it off.",
    )
    min_brightness: float | None = Field(
        default=None, ge=0, le=1, description="Least mean luminance, of 1; null turns it off."
    )
    max_brightness: float | None = Field(
        default=None, ge=0, le=1, description="Largest mean luminance, of 1; null turns it off."
    )
    min_contrast: float | None = Field(
        default=None, ge=0, le=1, description="Least deviation of the luminance, of 1; null turns it off."
    )
    min_entropy: float | None = Field(
        default=None, ge=0, le=8, description="Least entropy of the luminance, bits; null turns it off."
    )
    min_caption_words: int = Field(default=1, ge=1, description="Fewest words of a usable caption, words.")
    max_caption_words: int = Field(default=77, ge=1, description="Most words of a usable caption, words.")
    min_agreement: float | None = Field(
        default=None, ge=-1, le=1, description="Least cosine of image and first caption; null turns it off."
    )
    min_aesthetic: float | None = Field(
        default=None, ge=0, le=1, description="Least aesthetic score, probability; null turns it off."
    )
    min_safety: float | None = Field(
        default=None, ge=0, le=1, description="Least probability of being safe; null turns it off."
    )
    max_watermark: float | None = Field(
        default=None, ge=0, le=1, description="Largest probability of a watermark; null turns it off."
    )
    near_duplicate_distance: int | None = Field(
        default=4,
        ge=0,
        le=8,
        description="Perceptual hashes this close or closer are near duplicates, bits of 64; null turns it off "
        "(always off for procedural scenes: two that differ in one object are neighbours by hash).",
    )
    max_similarity: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Images whose embeddings agree more than this are duplicates, cosine; null turns it off.",
    )
    max_images_a_word: int | None = Field(
        default=None,
        ge=1,
        description="Of images whose every caption word is commoner than this, about so many stay for each rarest "
        "word, images; null turns it off.",
    )
    test_fraction: float = Field(
        default=0.05, ge=0, le=0.5, description="Share held out for evaluation, fraction."
    )
    seed: int = Field(default=0, ge=0, description="Key of the split, no unit.")


# Starting points, not findings: look at the histograms of the report before trusting one on data of your own.
RULE_PRESETS: dict[str, dict[str, float]] = {
    "procedural": {},  # drawn scenes are what they were asked to be
    "photos": {
        "min_side": 256,
        "min_sharpness": 20.0,
        "min_brightness": 0.05,
        "max_brightness": 0.97,
        "min_contrast": 0.04,
        "min_entropy": 3.0,
    },
    "web": {
        "min_side": 128,
        "max_aspect": 2.5,
        "min_sharpness": 10.0,
        "min_brightness": 0.03,
        "max_brightness": 0.98,
        "min_contrast": 0.03,
        "min_entropy": 2.0,
        "min_caption_words": 3,
    },
}
OFF = -1
"""What a person gives for a rule that may be switched off: a command line has no null."""


def choose_rules(base: Mapping[str, Any], preset: str, changed: Mapping[str, float]) -> CurationRules:
    """Return rules: `base`, over it a preset of rules (may be empty), over it single values by name.

    Raises:
        InputError: there is no such preset or rule, or a value makes no sense; the cure is said.
    """
    if preset and preset not in RULE_PRESETS:
        raise InputError(f"rules-preset is {preset!r}; choose one of {', '.join(RULE_PRESETS)}.")
    values = {**base, **RULE_PRESETS.get(preset, {})}
    for given, value in changed.items():
        name = given.replace("-", "_")
        field = CurationRules.model_fields.get(name)
        if field is None or name == "image_size":
            known = ", ".join(sorted(CurationRules.model_fields.keys() - {"image_size"}))
            raise InputError(f"rules.{given} is no rule that may be set; there are {known}.")
        may_be_off = field.get_default() is None or name == "near_duplicate_distance"
        values[name] = None if may_be_off and value == OFF else value
    try:
        rules = CurationRules.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        wanted = str(first["msg"]).removeprefix("Input should be ")
        wanted = wanted if wanted.startswith("a ") else f"a number {wanted}"
        raise InputError(f"rules.{first['loc'][0]} is {first['input']}; give {wanted}.") from None
    if (rules.min_brightness or 0) > (1 if rules.max_brightness is None else rules.max_brightness):
        raise InputError(
            f"rules.min_brightness is {rules.min_brightness} and rules.max_brightness {rules.max_brightness}; "
            "no image is both, so lower the first or raise the second."
        )
    if rules.min_caption_words > rules.max_caption_words:
        raise InputError(
            f"rules.min_caption_words is {rules.min_caption_words} and rules.max_caption_words "
            f"{rules.max_caption_words}; no caption is both, so lower the first or raise the second."
        )
    return rules
