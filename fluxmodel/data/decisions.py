"""From measurements to decisions: a pure function of a table and the rules; nothing is decoded.

Each rule that needs no other image is asked of every image alone; the search for duplicates is among those that
pass all of them. An image is dropped for the first rule it fails, in the order of `Decisions.rules`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.dedup import exact_groups, near_groups, similar_groups, survivors
from fluxmodel.data.measurements import (
    EMBEDDING,
    MODEL_COLUMNS,
    SIGNATURE_BYTES,
    WORDS,
    caption_facts,
    in_one_piece,
    numbers,
)
from fluxmodel.data.records import Reason
from fluxmodel.data.thresholds import THRESHOLDS, Threshold

if TYPE_CHECKING:
    import pyarrow as pa

_PROCEDURAL_SKIP = "procedural scenes that differ in one object are neighbours by perceptual hash"
_PARTLY = "{} of {} images are drawn scenes, which it is not asked of: " + _PROCEDURAL_SKIP.removeprefix(
    "procedural "
)
_COMPARED = {each.rule: each for each in THRESHOLDS if each.rule != "caption"}
_BEFORE_CAPTIONS = [rule for rule, each in _COMPARED.items() if each.column not in MODEL_COLUMNS]
_AFTER_CAPTIONS = [rule for rule, each in _COMPARED.items() if each.column in MODEL_COLUMNS]
IMAGE_RULES = ("readable", "decodable", *_BEFORE_CAPTIONS, "caption", *_AFTER_CAPTIONS)
DUPLICATE_RULES = ("exact_duplicate", "near_duplicate", "embedding_duplicate")
BALANCE = "balance"
_DUPLICATE_REASONS = {
    "exact_duplicate": Reason.EXACT_DUPLICATE,
    "near_duplicate": Reason.NEAR_DUPLICATE,
    "embedding_duplicate": Reason.EMBEDDING_DUPLICATE,
}
_DIGESTS_AT_ONCE = 4096


@dataclass(frozen=True)
class Decisions:
    """What each rule said of each of n images.

    Attributes:
        rules: those applied, in their order.
        passed: rule -> int8 [n]: 1 passed, 0 failed, -1 nothing to look at.
        values: rule -> float64 [n], what was compared; nan where there is no number.
        survivor: int64 [n], index of the image that stands for a duplicate, else its own; balance may drop it.
        kept: bool [n].
    """

    rules: tuple[str, ...]
    passed: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    survivor: np.ndarray
    kept: np.ndarray

    def first_failed(self) -> np.ndarray:
        """Return the place in `rules` of the first rule each image failed, -1 where it is kept; int16 [n]."""
        first = np.full(len(self.kept), -1, np.int16)
        for place in reversed(range(len(self.rules))):
            first[self.passed[self.rules[place]] == 0] = place
        return first


def skipped_rules(rules: CurationRules, is_procedural: bool, models: Collection[str] = ()) -> dict[str, str]:
    """Return the rules that are not applied, each with the reason.

    Args:
        rules: thresholds.
        is_procedural: whether every image is a drawn scene, as `all_drawn` says.
        models: those of `MODEL_COLUMNS` that a model has measured.
    """
    skipped = {}
    for rule, each in _COMPARED.items():
        if getattr(rules, each.field) is None:
            skipped[rule] = f"switched off by the rule {each.field}"
        elif each.column in MODEL_COLUMNS and each.column not in models:
            skipped[rule] = f"there is no model that measures {each.column}"
    if rules.near_duplicate_distance is None:
        skipped["near_duplicate"] = "switched off by the rule near_duplicate_distance"
    elif is_procedural:
        skipped["near_duplicate"] = _PROCEDURAL_SKIP
    if rules.max_similarity is None:
        skipped["embedding_duplicate"] = "switched off by the rule max_similarity"
    elif EMBEDDING not in models:
        skipped["embedding_duplicate"] = "there is no model that gives an embedding"
    elif is_procedural:
        skipped["embedding_duplicate"] = _PROCEDURAL_SKIP.replace("perceptual hash", "embedding")
    if rules.max_images_a_word is None:
        skipped[BALANCE] = "switched off by the rule max_images_a_word"
    return skipped


def all_drawn(measurements: pa.Table) -> bool:
    """Return whether every image with pixels is a drawn scene, wherever it was read from."""
    has_pixels = measurements["refusal"].is_null().to_numpy()
    return bool(has_pixels.any() and _drawn(measurements)[has_pixels].all())


def partly_applied(measurements: pa.Table, skipped: Collection[str]) -> dict[str, str]:
    """Return the rules that some images were not asked, each with how many and the reason."""
    num = int(_drawn(measurements).sum())
    if not num or "near_duplicate" in skipped:
        return {}
    return {"near_duplicate": _PARTLY.format(num, measurements.num_rows)}


def decide(measurements: pa.Table, rules: CurationRules, skip: Collection[str] = ()) -> Decisions:
    """Return what the rules say of measured images.

    Args:
        measurements: at least the `DECIDING_COLUMNS`, and the words where max_images_a_word is on.
        rules: thresholds; one that is null switches its rule off.
        skip: names of rules that are not to be applied.
    """
    passed, values = _alone(measurements, rules, skip)
    candidates = np.all([each != 0 for each in passed.values()], axis=0)
    exact = _exact_survivors(measurements, candidates)
    passed["exact_duplicate"] = _verdict(exact, candidates)
    values["exact_duplicate"] = np.full(len(exact), np.nan)
    survivor = exact
    if "near_duplicate" not in skip and rules.near_duplicate_distance is not None:
        unique = candidates & (exact == np.arange(len(exact))) & ~_drawn(measurements)
        near, bits = _near_survivors(measurements, unique, rules.near_duplicate_distance)
        passed["near_duplicate"], values["near_duplicate"] = _verdict(near, unique), bits
        survivor = near[exact]
    if "embedding_duplicate" not in skip and rules.max_similarity is not None:
        unique = candidates & (survivor == np.arange(len(survivor))) & ~_drawn(measurements)
        similar, cosine = _similar_survivors(measurements, unique, rules.max_similarity)
        unique &= measurements[EMBEDDING].is_valid().to_numpy()
        passed["embedding_duplicate"], values["embedding_duplicate"] = _verdict(similar, unique), cosine
        survivor = similar[survivor]
    kept = candidates & np.all([passed[rule] != 0 for rule in DUPLICATE_RULES if rule in passed], axis=0)
    if BALANCE not in skip and rules.max_images_a_word is not None:
        passed[BALANCE], values[BALANCE] = _balanced(measurements, kept, rules)
        kept = passed[BALANCE] == 1
    return Decisions(tuple(passed), passed, values, survivor, kept)


def reasons_of(measurements: pa.Table, decisions: Decisions, rules: CurationRules, rule: str) -> list[str]:
    """Return why each image that failed `rule` did, in their order."""
    failed = np.flatnonzero(decisions.passed[rule] == 0)
    if rule in ("readable", "decodable"):
        return measurements["refusal"].take(failed).to_pylist()
    if rule == "caption":
        return [str(_CAPTION_REASONS[code]) for code in _caption_codes(measurements, rules)[failed]]
    if rule in _COMPARED:
        reason, value = _COMPARED[rule].reason, decisions.values[rule][failed]
        return [str(Reason.NOT_SCORED if is_unseen else reason) for is_unseen in np.isnan(value)]
    reason = Reason.OVER_REPRESENTED if rule == BALANCE else _DUPLICATE_REASONS[rule]
    return [str(reason)] * len(failed)


def usable_captions(measurements: pa.Table, rules: CurationRules) -> np.ndarray:
    """Return of all captions, one after another, which are fit to train on: bool [m]."""
    return _code_each_caption(measurements, rules)[1] == 0


def _alone(measurements: pa.Table, rules: CurationRules, skip: Collection[str]):
    """Ask the rules that need no other image; return their `passed` and `values`."""
    is_refused = measurements["refusal"].is_valid().to_numpy()
    has_bytes = _has_bytes(measurements)
    area = numbers(measurements, "width") * numbers(measurements, "height")
    usable = _caption_codes(measurements, rules) == 0
    passed = {
        "readable": (has_bytes | ~is_refused).astype(np.int8),
        "decodable": np.where(has_bytes, ~is_refused, -1).astype(np.int8),
    }
    num_bytes = numbers(measurements, "num_bytes")
    values = {"readable": np.where(has_bytes, num_bytes, np.nan), "decodable": area}
    for rule in IMAGE_RULES[2:]:
        if rule in skip:
            continue
        if rule == "caption":
            passed[rule] = np.where(has_bytes, usable, -1).astype(np.int8)
            values[rule] = np.where(has_bytes, _num_usable(measurements, rules), np.nan)
        elif getattr(rules, _COMPARED[rule].field) is not None:
            passed[rule], values[rule] = _compare(measurements, rules, _COMPARED[rule])
    return passed, values


def _has_bytes(measurements: pa.Table) -> np.ndarray:
    """Return of which images bytes were looked at, bool [n]: those of an id that was given before are not."""
    pc = _compute()
    is_repeated = pc.fill_null(pc.equal(measurements["refusal"], str(Reason.DUPLICATE_ID)), False)
    return measurements["num_bytes"].is_valid().to_numpy() & ~is_repeated.to_numpy()


def _compare(measurements: pa.Table, rules: CurationRules, threshold: Threshold):
    """Return `passed` and `values` of one threshold."""
    value, limit = numbers(measurements, threshold.column), getattr(rules, threshold.field)
    with np.errstate(invalid="ignore"):
        fits = value >= limit if threshold.side == "min" else value <= limit
    unseen = np.where(_not_scored(measurements, threshold, value), 0, -1)
    return np.where(np.isnan(value), unseen, fits).astype(np.int8), value


def _not_scored(measurements: pa.Table, threshold: Threshold, value: np.ndarray) -> np.ndarray:
    """Return which images a model could not score though it should have: what nobody vouches for is not kept."""
    if threshold.column not in MODEL_COLUMNS:
        return np.zeros(len(value), bool)
    could = measurements["refusal"].is_null().to_numpy()
    if threshold.column == "agreement":  # without a caption there is nothing to agree with
        could &= ~np.isnan(numbers(measurements, "caption_words"))
    return np.isnan(value) & could


_CAPTION_REASONS = (None, Reason.MISSING_CAPTION, Reason.CAPTION_TOO_SHORT, Reason.CAPTION_TOO_LONG, *Reason)


def _code_each_caption(measurements: pa.Table, rules: CurationRules) -> tuple[np.ndarray, np.ndarray]:
    """Return of each caption its image's row and its place in `_CAPTION_REASONS`, 0 where it is usable."""
    rows, words, refusals = caption_facts(measurements)
    codes = np.zeros(len(rows), np.int16)
    codes[words < rules.min_caption_words] = 2
    codes[words > rules.max_caption_words] = 3
    for place in np.flatnonzero(refusals != np.array(None)):
        codes[place] = _CAPTION_REASONS.index(Reason(refusals[place]), 4)
    return rows, codes


def _caption_codes(measurements: pa.Table, rules: CurationRules) -> np.ndarray:
    """Return of each image why it has no usable caption: that of its first, 0 where it has one; int16 [n]."""
    rows, codes = _code_each_caption(measurements, rules)
    found = np.ones(measurements.num_rows, np.int16)
    found[rows[::-1]] = codes[::-1]
    found[rows[codes == 0]] = 0
    return found


def _num_usable(measurements: pa.Table, rules: CurationRules) -> np.ndarray:
    rows, codes = _code_each_caption(measurements, rules)
    return np.bincount(rows[codes == 0], minlength=measurements.num_rows)


def _verdict(survivor: np.ndarray, among: np.ndarray) -> np.ndarray:
    return np.where(among, survivor == np.arange(len(survivor)), -1).astype(np.int8)


def _exact_survivors(measurements: pa.Table, candidates: np.ndarray) -> np.ndarray:
    chosen = np.flatnonzero(candidates)
    survivor = np.arange(len(candidates))
    groups = exact_groups(_digests(measurements, chosen))
    survivor[chosen] = chosen[survivors(groups, _areas(measurements, chosen), _ids(measurements, chosen))]
    return survivor


def _near_survivors(measurements: pa.Table, unique: np.ndarray, distance: int):
    """Return the survivor of each image, int64 [n], and its distance to it in bits where it is another."""
    chosen = np.flatnonzero(unique)
    survivor, bits = np.arange(len(unique)), np.full(len(unique), np.nan)
    hashes = measurements["phash"].take(chosen).to_numpy().astype(np.uint64)
    groups = near_groups(hashes, _signatures(measurements, chosen), distance)
    own = survivors(groups, _areas(measurements, chosen), _ids(measurements, chosen))
    survivor[chosen] = chosen[own]
    differing = np.bitwise_count(hashes ^ hashes[own]).astype(np.float64)
    bits[chosen] = np.where(own == np.arange(len(own)), np.nan, differing)
    return survivor, bits


def _balanced(
    measurements: pa.Table, among: np.ndarray, rules: CurationRules
) -> tuple[np.ndarray, np.ndarray]:
    """Draw from images with common words alone; return `passed`, and how many images have each one's rarest word.

    An image stays with probability min(1, most / count), count that of its rarest word: all stay for a rare word, and
    for a common one about `most` or, by rarer words beside it, more (Xu et al. 2023, arXiv:2309.16671, balance captions
    so). The draw is a function of pixels and seed: another image added or removed leaves it as it is.
    """
    most, column = rules.max_images_a_word, in_one_piece(measurements[WORDS])
    rows = np.repeat(np.arange(len(column)), column.value_lengths().fill_null(0).to_numpy())
    counted = among[rows]
    rows, words = rows[counted], column.flatten().to_numpy()[counted]
    _, place, counts = np.unique(words, return_inverse=True, return_counts=True)
    rarest = np.full(len(among), np.inf)
    np.minimum.at(rarest, rows, counts[place])
    stays = among.copy()
    common = np.flatnonzero(among & np.isfinite(rarest) & (rarest > most))
    drawn = draws(measurements["pixel_sha256"].take(common), f"balance {rules.seed} ")
    stays[common] = drawn < most / rarest[common]
    return np.where(among, stays, -1).astype(np.int8), np.where(among & np.isfinite(rarest), rarest, np.nan)


def draws(digests: pa.ChunkedArray, key: str) -> np.ndarray:
    """Return a number in [0, 1) for each digest of pixels, float64 [n]: a function of it and the key."""
    hashed = (hashlib.sha256(key.encode() + bytes.fromhex(each.as_py())).digest() for each in digests)
    return np.fromiter((int.from_bytes(each[:8], "big") / 2**64 for each in hashed), np.float64, len(digests))


def _similar_survivors(measurements: pa.Table, unique: np.ndarray, cosine: float):
    """Return the survivor of each image, int64 [n], and its cosine with it where it is another."""
    column = measurements[EMBEDDING]
    chosen = np.flatnonzero(unique & column.is_valid().to_numpy())
    survivor, found = np.arange(len(unique)), np.full(len(unique), np.nan)
    if not len(chosen):
        return survivor, found
    vectors = np.frombuffer(b"".join(column.take(chosen).to_pylist()), np.float16).reshape(len(chosen), -1)
    own = survivors(similar_groups(vectors, cosine), _areas(measurements, chosen), _ids(measurements, chosen))
    survivor[chosen] = chosen[own]
    others = np.flatnonzero(own != np.arange(len(own)))
    found[chosen[others]] = [
        float(a.astype(np.float32) @ b.astype(np.float32))
        for a, b in zip(vectors[others], vectors[own[others]], strict=True)
    ]
    return survivor, found


def _drawn(measurements: pa.Table) -> np.ndarray:
    """Return which images are drawn scenes, bool [n]; tables of earlier versions do not say."""
    if "has_scene" not in measurements.column_names:
        return np.zeros(measurements.num_rows, bool)
    return measurements["has_scene"].fill_null(False).to_numpy()


def _areas(measurements: pa.Table, chosen: np.ndarray) -> np.ndarray:
    width, height = (measurements[name].take(chosen).to_numpy() for name in ("width", "height"))
    return width.astype(np.int64) * height.astype(np.int64)


def _ids(measurements: pa.Table, chosen: np.ndarray) -> np.ndarray:
    """Return the place of each id among all in their order, int64 [n]: compares as the ids do."""
    order = _compute().sort_indices(in_one_piece(measurements["id"])).to_numpy()
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks[chosen]


def _digests(measurements: pa.Table, chosen: np.ndarray) -> np.ndarray:
    """Return the first 128 bits of the digests of the pixels, as 32 hexadecimal digits [n]."""
    found = np.empty(len(chosen), "S32")
    for start in range(0, len(chosen), _DIGESTS_AT_ONCE):
        here = slice(start, start + _DIGESTS_AT_ONCE)
        found[here] = measurements["pixel_sha256"].take(chosen[here]).to_numpy().astype("S32")
    return found


@dataclass(frozen=True)
class _Chosen:
    """Some rows of a matrix, copied only when they are asked for."""

    matrix: np.ndarray
    chosen: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.matrix[self.chosen[rows]]


def _signatures(measurements: pa.Table, chosen: np.ndarray) -> _Chosen:
    """Return the colour signatures, uint8 [n, 192]."""
    column = in_one_piece(measurements["colors"])
    start = column.offset * SIGNATURE_BYTES
    rows = np.frombuffer(column.buffers()[1], np.uint8)[start : start + len(column) * SIGNATURE_BYTES]
    return _Chosen(rows.reshape(-1, SIGNATURE_BYTES), chosen)


def _compute() -> Any:
    from pyarrow import compute

    return compute  # its functions are made at import, which no type checker sees
