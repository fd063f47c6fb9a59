"""The rules that look at one image alone, in their order; each leaves a decision."""

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fluxmodel.data.caption_checks import usable_captions
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.decode import Refusal, decode
from fluxmodel.data.perceptual_hash import thumbnail
from fluxmodel.data.records import Caption, RawSample, Reason, UnreadableFile

IMAGE_RULES = ("readable", "decodable", "min_side", "max_aspect", "caption")
DUPLICATE_RULES = ("exact_duplicate", "near_duplicate")


class Decision(NamedTuple):
    """What one rule said of one image; `passed` is None where an earlier rule left nothing to look at."""

    rule: str
    passed: bool | None
    value: float | None = None
    reason: Reason | None = None
    detail: str | None = None


@dataclass(slots=True)
class CheckedImage:
    """An image after the rules that need no other image; the pixels themselves are let go."""

    id: str
    path: str | None
    sample: RawSample | None = None
    decisions: list[Decision] = field(default_factory=list)
    captions: tuple[Caption, ...] = ()
    sha256: str = ""
    pixel_sha256: str = ""
    width: int = 0
    height: int = 0
    thumbnail: np.ndarray | None = None

    @property
    def failure(self) -> Decision | None:
        """The first decision against the image."""
        return next((decision for decision in self.decisions if decision.passed is False), None)


def check_image(item: RawSample | UnreadableFile, rules: CurationRules, known_ids: set[str]) -> CheckedImage:
    """Apply `IMAGE_RULES` to one item of a source; nothing in the item raises."""
    checked = CheckedImage(item.id, item.path)
    if isinstance(item, UnreadableFile):
        checked.decisions = [Decision("readable", False, None, item.reason, item.detail)]
    elif item.id in known_ids:
        detail = f"id {item.id!r} was given before"
        checked.decisions = [Decision("readable", False, None, Reason.DUPLICATE_ID, detail)]
    else:
        known_ids.add(item.id)
        checked.sample = item
        checked.decisions = [Decision("readable", True, float(len(item.image)))]
        _look_at_pixels(checked, item, rules)
        checked.decisions.append(_caption_decision(checked, item, rules))
    reached = {decision.rule for decision in checked.decisions}
    checked.decisions += [Decision(rule, None) for rule in IMAGE_RULES if rule not in reached]
    return checked


def _look_at_pixels(checked: CheckedImage, sample: RawSample, rules: CurationRules) -> None:
    try:
        pixels = decode(sample.image, rules.max_pixels)
    except Refusal as refusal:
        checked.decisions.append(Decision("decodable", False, None, refusal.reason, refusal.detail))
        return
    height, width = pixels.shape[:2]
    shorter, aspect = min(height, width), max(height, width) / min(height, width)
    small, long = shorter < rules.min_side, aspect > rules.max_aspect
    size = f"{width} x {height} pixels"
    checked.decisions += [
        Decision("decodable", True, float(height * width)),
        Decision("min_side", not small, float(shorter), Reason.TOO_SMALL if small else None, size),
        Decision("max_aspect", not long, aspect, Reason.TOO_ELONGATED if long else None, size),
    ]
    checked.width, checked.height = width, height
    checked.thumbnail = thumbnail(pixels)
    checked.sha256 = hashlib.sha256(sample.image).hexdigest()
    checked.pixel_sha256 = hashlib.sha256(b"%d x %d " % (width, height) + pixels.tobytes()).hexdigest()


def _caption_decision(checked: CheckedImage, sample: RawSample, rules: CurationRules) -> Decision:
    checked.captions, reason = usable_captions(sample.captions, rules)
    if reason is None:
        return Decision("caption", True, float(len(checked.captions)))
    text = sample.captions[0].text if sample.captions else ""
    return Decision("caption", False, 0.0, reason, repr(text[:80]) if text.strip() else None)
