"""The rules of curation: one class for the command's flags, the run form and the record in the artifact."""

from pydantic import BaseModel, ConfigDict, Field


class CurationRules(BaseModel):
    """What an image and its captions must satisfy, and how the kept ones are split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    test_fraction: float = Field(
        default=0.05, ge=0, le=0.5, description="Share held out for evaluation, fraction."
    )
    seed: int = Field(default=0, ge=0, description="Key of the split, no unit.")
