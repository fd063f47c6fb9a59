"""Leakage: evaluation images and captions that have a near twin in training.

Images: equal pixels, or hashes within a distance whose colours agree (dedup.py). Captions: equal after normalisation,
or token sets with Jaccard similarity >= 0.8, found by prefix filtering (Bayardo et al. 2007, "Scaling up all pairs
similarity search"): two sets so alike share one of their rarest tokens, so few pairs are compared and none is missed.
A token is a word, or a single character of a script that puts no space between words.
Procedural scenes are neighbours by hash when one object differs, and their captions come from a small grammar that
repeats itself: there equal pixels count as leakage, and captions are only told.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fluxmodel.data.color_agreement import colors_alike
from fluxmodel.data.decode import Refusal, decode
from fluxmodel.data.dedup import pairs_within
from fluxmodel.data.diversity import normalised, tokens_of
from fluxmodel.data.perceptual_hash import color_signatures, thumbnail
from fluxmodel.errors import ArtifactError

if TYPE_CHECKING:
    from fluxmodel.data.curated_dataset import CuratedDataset

DISTANCE = 4
MIN_JACCARD = 0.8
_MAX_CANDIDATES = 1_000_000  # pairs of near hashes whose images are decoded; more are counted, not looked at
_MAX_LOOKED_AT = 20_000  # token sets that one caption is compared with; more are counted, not looked at
_NUM_EXAMPLES = 10


@dataclass(frozen=True)
class Twin:
    """An evaluation image or prompt and what it is a twin of; `how` is pixels, near, caption or near caption."""

    how: str
    evaluated: str
    training: str


@dataclass(frozen=True)
class Leakage:
    """How much of the evaluation has a near twin in training.

    Attributes:
        share: of evaluated images and prompts, the larger share with a twin; of images alone on procedural data.
        unchecked: pairs or captions beyond the bound, so that the share is a lower one.
        note: what is not counted, and why.
    """

    share: float
    num_images: int
    num_training: int
    num_prompts: int
    same_pixels: int
    near_images: int
    same_captions: int
    near_captions: int
    is_procedural: bool
    unchecked: int
    note: str
    examples: tuple[Twin, ...]


def measure_leakage(
    dataset: CuratedDataset,
    prompts: Sequence[str],
    rendered: np.ndarray | None = None,
    is_standing_in: bool = False,
    learned: Iterable[str] = (),
) -> Leakage:
    """Hold the evaluation's images and prompts against the training split.

    Args:
        dataset: its test split is what is evaluated on, unless `rendered` is given.
        prompts: what the model is asked.
        rendered: procedural data: the fresh images evaluated on, uint8 [n, h, w, 3]; also says that it is procedural.
        is_standing_in: the training split stands in for a test split that is too small: everything is leaked.
        learned: what the model learned from beside the data's own captions: those written anew for training images.

    Raises:
        ArtifactError: an image of the dataset is damaged.
    """
    train = dataset.columns("train", ["id", "pixel_sha256", "phash", "captions"])
    known = {digest: name for name, digest in zip(train["id"], train["pixel_sha256"], strict=True)}
    unchecked = 0
    near: list[Twin] = []
    if rendered is not None:
        digests = [_digest(image) for image in rendered]
        same = [Twin("pixels", f"fresh render {i}", known[d]) for i, d in enumerate(digests) if d in known]
        num_images = len(digests)
    elif is_standing_in:
        num_images = len(train["id"])
        same = [Twin("pixels", name, name) for name in train["id"]]
    else:
        test = dataset.columns("test", ["id", "pixel_sha256", "phash"])
        num_images = len(test["id"])
        rows = zip(test["id"], test["pixel_sha256"], strict=True)
        same = [Twin("pixels", name, known[digest]) for name, digest in rows if digest in known]
        near, unchecked = _near_images(dataset, train, test, {each.evaluated for each in same})
    texts = [caption["text"] for captions in train["captions"] for caption in captions] + list(learned)
    equal, alike, beyond = caption_twins(list(prompts), texts)
    leaked = (len(same) + len(near)) / max(num_images, 1)
    asked = (len(equal) + len(alike)) / max(len(prompts), 1)
    is_procedural = rendered is not None
    return Leakage(
        share=leaked if is_procedural else max(leaked, asked),
        num_images=num_images,
        num_training=len(train["id"]),
        num_prompts=len(prompts),
        same_pixels=len(same),
        near_images=len(near),
        same_captions=len(equal),
        near_captions=len(alike),
        is_procedural=is_procedural,
        unchecked=unchecked + beyond,
        note=_note(is_procedural, is_standing_in),
        examples=tuple(twin for twins in (same, near, equal, alike) for twin in twins[:_NUM_EXAMPLES]),
    )


def caption_twins(asked: list[str], known: list[str]) -> tuple[list[Twin], list[Twin], int]:
    """Return of `asked` those equal to one of `known`, those nearly equal, and how many met the bound.

    An asked text counts once for each time it is asked.
    """
    texts = {normalised(text): text for text in known}
    token_sets = list({frozenset(tokens_of(text)): text for text in texts if text}.items())
    counts = Counter(token for tokens, _ in token_sets for token in tokens)
    posts: dict[str, list[int]] = defaultdict(list)
    for number, (tokens, _) in enumerate(token_sets):
        for token in _prefix(tokens, counts):
            posts[token].append(number)
    equal, alike, beyond = [], [], 0
    found: dict[str, tuple[str | None, bool]] = {}
    for text in asked:
        plain = normalised(text)
        if not plain:
            continue
        if plain in texts:
            equal.append(Twin("caption", text, texts[plain]))
            continue
        if plain not in found:
            found[plain] = _nearest(frozenset(tokens_of(plain)), token_sets, posts, counts)
        twin, is_cut = found[plain]
        beyond += is_cut
        if twin is not None:
            alike.append(Twin("near caption", text, texts[twin]))
    return equal, alike, beyond


def _prefix(tokens: Iterable[str], counts: Counter) -> list[str]:
    """The rarest tokens, one of which any set as alike as `MIN_JACCARD` shares."""
    ordered = sorted(tokens, key=lambda token: (counts[token], token))
    return ordered[: len(ordered) - math.ceil(MIN_JACCARD * len(ordered) - 1e-9) + 1]


def _nearest(
    tokens: frozenset[str],
    token_sets: list[tuple[frozenset[str], str]],
    posts: dict[str, list[int]],
    counts: Counter,
) -> tuple[str | None, bool]:
    """The first text as alike as asked, and whether some were not looked at."""
    looked_at: set[int] = set()
    for token in _prefix(tokens, counts):
        for number in posts.get(token, ()):
            if number in looked_at:
                continue
            if len(looked_at) >= _MAX_LOOKED_AT:
                return None, True
            looked_at.add(number)
            other, text = token_sets[number]
            both = len(tokens & other)
            if both >= MIN_JACCARD * (len(tokens) + len(other) - both) - 1e-9:
                return text, False
    return None, False


def _near_images(
    dataset: CuratedDataset, train: dict[str, list], test: dict[str, list], known: set[str]
) -> tuple[list[Twin], int]:
    """The first near training image of each test image that is not in `known`, and the pairs not looked at."""
    num_test = len(test["id"])
    hashes = np.array([int(value, 16) for value in [*test["phash"], *train["phash"]]], np.uint64)
    pairs: list[np.ndarray] = []
    count = 0
    for left, right in pairs_within(hashes, DISTANCE):
        low, high = np.minimum(left, right), np.maximum(left, right)
        across = (low < num_test) & (high >= num_test)
        count += int(across.sum())
        if count - int(across.sum()) < _MAX_CANDIDATES:
            pairs.append(np.stack([low[across], high[across] - num_test]))
    if not count:
        return [], 0
    tests, trains = np.concatenate(pairs, axis=1)[:, :_MAX_CANDIDATES]
    order = np.lexsort((trains, tests))
    tests, trains = tests[order], trains[order]
    of_test = _signatures(dataset, "test", {test["id"][index] for index in set(tests.tolist())})
    of_train = _signatures(dataset, "train", {train["id"][index] for index in set(trains.tolist())})
    twins: dict[str, Twin] = {}
    for start in range(0, len(tests), 1 << 14):
        here = slice(start, start + (1 << 14))
        names = [(test["id"][a], train["id"][b]) for a, b in zip(tests[here], trains[here], strict=True)]
        alike = colors_alike(
            np.stack([of_test[name] for name, _ in names]), np.stack([of_train[name] for _, name in names])
        )
        for (evaluated, training), is_alike in zip(names, alike, strict=True):
            if is_alike and evaluated not in known:
                twins.setdefault(evaluated, Twin("near", evaluated, training))
    return list(twins.values()), max(0, count - _MAX_CANDIDATES)


def _signatures(dataset: CuratedDataset, split: str, ids: set[str]) -> dict[str, np.ndarray]:
    """Decode the images of these ids and return their colours, uint8 [192] each."""
    found = {}
    for row in dataset.rows(split, ["id", "image"]):
        if row["id"] in ids:
            try:
                pixels = decode(row["image"]["bytes"], dataset.record["rules"]["max_pixels"])
            except Refusal as refusal:
                raise ArtifactError(
                    f"{dataset.directory}: image {row['id']!r} is damaged ({refusal}); curate the data again."
                ) from refusal
            found[row["id"]] = color_signatures(thumbnail(pixels)[None])[0]
    return found


def _digest(pixels: np.ndarray) -> str:
    """The `pixel_sha256` that curation gives an image."""
    height, width = pixels.shape[:2]
    return hashlib.sha256(b"%d x %d " % (width, height) + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _note(is_procedural: bool, is_standing_in: bool) -> str:
    if is_procedural:
        return (
            "Procedural scenes: captions come from a small grammar, so equal ones are expected and not counted; near "
            "hashes are not looked at, since scenes that differ in one object have them."
        )
    if is_standing_in:
        return "The test split is too small, so training images are evaluated on: all of them are leaked."
    return ""
