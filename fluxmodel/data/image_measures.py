"""What is measured of one image's bytes, in one decode; a pure function of them, so it can be kept by content.

Sharpness, brightness, contrast and entropy are of the luminance at a canonical scale: the longer side shrunk to
256 pixels, never enlarged. Sharpness is the variance of the Laplacian (Pech-Pacheco et al. 2000, "Diatom
autofocusing in brightfield microscopy").
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fluxmodel.data.decode import Refusal, decode
from fluxmodel.data.perceptual_hash import color_signatures, perceptual_hashes, thumbnail
from fluxmodel.data.records import Reason

if TYPE_CHECKING:
    from fluxmodel.data.content_cache import ContentCache

_CANONICAL_SIDE = 256


@dataclass(frozen=True, slots=True)
class ImageMeasures:
    """What was found in an image's bytes; without pixels there is a refusal and nothing else."""

    sha256: str
    refusal: str | None = None
    detail: str = ""
    pixel_sha256: str | None = None
    phash: int | None = None
    colors: bytes | None = None
    width: int | None = None
    height: int | None = None
    sharpness: float | None = None
    brightness: float | None = None
    contrast: float | None = None
    entropy: float | None = None

    def to_bytes(self, max_pixels: int) -> bytes:
        """Return what `from_bytes` reads; `max_pixels` is the limit they were measured under."""
        values = asdict(self) | {"max_pixels": max_pixels}
        values["colors"] = None if self.colors is None else base64.b85encode(self.colors).decode()
        return json.dumps(values).encode()

    @classmethod
    def from_bytes(cls, data: bytes, max_pixels: int) -> ImageMeasures | None:
        """Return what `to_bytes` wrote, None for anything else and where this limit of pixels may say otherwise.

        A refused image has no size here: under a lower limit its header is asked again, before its pixels.
        """
        try:
            values = json.loads(data)
            area = values["max_pixels"] if values["width"] is None else values["width"] * values["height"]
            if area > max_pixels:
                return None
            values["colors"] = None if values["colors"] is None else base64.b85decode(values["colors"])
            return cls(**{field.name: values[field.name] for field in fields(cls)})
        except (ValueError, KeyError, TypeError):
            return None


def measure(data: bytes, sha256: str, max_pixels: int) -> ImageMeasures:
    """Decode an image once and return its measures; a refusal is one of them, nothing is raised."""
    try:
        return _measured(decode(data, max_pixels), sha256)
    except Refusal as refusal:
        return ImageMeasures(sha256, str(refusal.reason), refusal.detail)
    except MemoryError:
        return ImageMeasures(sha256, str(Reason.OUT_OF_MEMORY), "there was no memory to measure it")


def _measured(pixels: np.ndarray, sha256: str) -> ImageMeasures:
    height, width = pixels.shape[:2]
    small = thumbnail(pixels)[None]
    found = luminance_measures(pixels)
    return ImageMeasures(
        sha256=sha256,
        pixel_sha256=hashlib.sha256(b"%d x %d " % (width, height) + pixels.tobytes()).hexdigest(),
        phash=int(perceptual_hashes(small)[0]),
        colors=color_signatures(small)[0].tobytes(),
        width=width,
        height=height,
        sharpness=found["sharpness"],
        brightness=found["brightness"],
        contrast=found["contrast"],
        entropy=found["entropy"],
    )


def recall(cache: ContentCache, sha256: str, max_pixels: int) -> ImageMeasures | None:
    """Return the measures a cache has of the bytes with this digest, None where they must be looked at.

    Larger images than now pass are looked at again: their header says so, they cost no decode.
    """
    kept = cache.get(sha256)
    found = None if kept is None else ImageMeasures.from_bytes(kept, max_pixels)
    return found if found is not None and found.sha256 == sha256 else None


def remember(cache: ContentCache, measures: ImageMeasures, max_pixels: int) -> None:
    """Keep measures in a cache, but for what another rule or more memory would change."""
    if measures.refusal not in (Reason.TOO_LARGE, Reason.OUT_OF_MEMORY):
        cache.put(measures.sha256, measures.to_bytes(max_pixels))


@functools.cache
def recipe() -> dict[str, object]:
    """Return what the measures depend on beside the bytes: the code that makes them, and what it decodes with."""
    from importlib.metadata import version

    code = hashlib.sha256(json.dumps(sources(), sort_keys=True).encode()).hexdigest()
    return {"name": "measurements", "code": code, "pillow": version("pillow"), "numpy": np.__version__}


def sources() -> dict[str, str]:
    """Return the source of this module and of all beside it that it imports, however far away."""
    found: dict[str, str] = {}
    waiting = [Path(__file__).stem]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
            waiting += re.findall(r"^\s*from fluxmodel\.data\.(\w+) import", found[name], re.MULTILINE)
    return found


def luminance_measures(pixels: np.ndarray) -> dict[str, float]:
    """Return `sharpness`, `brightness`, `contrast` and `entropy` of uint8 RGB [h, w, 3], as float32 holds them."""
    grey = _canonical(pixels)
    levels = grey.astype(np.float32)
    counts = np.bincount(grey.ravel(), minlength=256)
    shares = counts[counts > 0] / grey.size
    found = {
        "sharpness": _laplacian_variance(levels),
        "brightness": levels.mean(dtype=np.float64) / 255,
        "contrast": levels.std(dtype=np.float64) / 255,
        "entropy": max(0.0, -float((shares * np.log2(shares)).sum())),
    }
    return {name: float(np.float32(value)) for name, value in found.items()}


def _canonical(pixels: np.ndarray) -> np.ndarray:
    """Return the luminance at the canonical scale, uint8 [h, w]."""
    from PIL import Image

    image = Image.fromarray(pixels)
    longer = max(image.size)
    if longer > _CANONICAL_SIDE:
        width, height = (max(1, round(side * _CANONICAL_SIDE / longer)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.HAMMING, reducing_gap=2.0)
    return np.asarray(image.convert("L"))


def _laplacian_variance(levels: np.ndarray) -> float:
    """Return the variance of the 4-neighbour Laplacian over the inner pixels, 0 where there are none."""
    if min(levels.shape) < 3:
        return 0.0
    inner = levels[1:-1, 1:-1]
    around = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    return float((around - 4 * inner).var(dtype=np.float64))
