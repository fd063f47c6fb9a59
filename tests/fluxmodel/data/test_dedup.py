"""Duplicates: the bands find every pair, copies hash alike, groups are the connected parts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fluxmodel.data import dedup
from fluxmodel.data.color_agreement import colors_alike
from fluxmodel.data.decode import decode
from fluxmodel.data.dedup import exact_groups, near_groups, pairs_within, similar_groups, survivors
from fluxmodel.data.perceptual_hash import color_signatures, perceptual_hashes, thumbnail
from tests.fluxmodel.data.pictures import encoded, picture

hashes_near_each_other = st.lists(
    st.tuples(st.sampled_from([0, 2**64 - 1, 0x0123456789ABCDEF]), st.lists(st.integers(0, 63), max_size=6)),
    max_size=40,
).map(lambda items: np.array([base ^ sum({1 << bit for bit in bits}) for base, bits in items], np.uint64))


def test_each_pair_comes_once():
    hashes = np.array([0, 0, 1, 3, 1 << 63], np.uint64)
    assert sum(len(left) for left, _ in pairs_within(hashes, 4)) == 10


def found_pairs(hashes: np.ndarray, distance: int) -> set[tuple[int, int]]:
    return {
        (min(pair), max(pair))
        for left, right in pairs_within(hashes, distance)
        for pair in zip(left.tolist(), right.tolist(), strict=True)
    }


def hashed(images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    thumbnails = np.stack([thumbnail(image) for image in images])
    return perceptual_hashes(thumbnails), color_signatures(thumbnails)


@settings(max_examples=100, deadline=None)
@given(hashes_near_each_other, st.integers(0, 8))
def test_bands_find_exactly_the_pairs_within_the_distance(hashes, distance):
    brute = {
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= distance
    }
    assert found_pairs(hashes, distance) == brute


def test_pairs_are_all_found_when_one_band_overflows_a_block():
    hashes = np.repeat(np.array([7, 7 << 40], np.uint64), 800)
    assert len(found_pairs(hashes, 0)) == 2 * 800 * 799 // 2


COPIES = {
    "JPEG 90": lambda image: decode(encoded(image, "JPEG", quality=90)),
    "JPEG 50": lambda image: decode(encoded(image, "JPEG", quality=50)),
    "WebP 60": lambda image: decode(encoded(image, "WEBP", quality=60)),
    "half the size": lambda image: resized(image, 0.5),
    "three quarters": lambda image: resized(image, 0.75),
    "half as large again": lambda image: resized(image, 1.5),
}


def resized(image: np.ndarray, factor: float) -> np.ndarray:
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES.keys())
def test_a_copy_joins_its_original_and_nothing_else(copy):
    originals = [picture(seed, 96, 80) for seed in range(100)]
    groups = near_groups(*hashed(originals + [copy(image) for image in originals]), 4)
    assert np.array_equal(groups[:100], np.arange(100))
    assert (groups[100:] == groups[:100]).mean() >= 0.97


def test_the_same_shapes_in_other_colours_are_no_duplicates():
    image = picture(0)
    recolored = 255 - image[..., ::-1]
    same_luminance = np.clip(image.astype(int) + np.array([60, -30, 0]), 0, 255).astype(np.uint8)
    assert near_groups(*hashed([image, recolored, same_luminance]), 8).tolist() == [0, 1, 2]


def test_rounding_noise_decides_no_bit_of_a_flat_image():
    random = np.random.default_rng(0)
    flat = [np.full((40, 40, 3), level, np.uint8) for level in (0, 77, 128, 255)]
    noisy = [image ^ random.integers(0, 2, image.shape, np.uint8) for image in flat]
    hashes, _ = hashed(flat + noisy)
    assert len(set(hashes[:4].tolist())) == 1
    assert np.bitwise_count(hashes[4:] ^ hashes[:4]).max() <= 4


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_groups_are_the_connected_parts(steps):
    """Hash i has its lowest bits set up to a running total: neighbours in the total are near."""
    totals = np.cumsum(steps) % 64
    hashes = np.array([(1 << int(total)) - 1 for total in totals], np.uint64)
    groups = near_groups(hashes, np.zeros((len(hashes), 192), np.uint8), 4)
    order = np.argsort(totals, kind="stable")
    expected = np.empty(len(totals), int)
    expected[order] = np.cumsum(np.r_[0, np.diff(totals[order]) > 4])
    for part in set(expected.tolist()):
        members = np.flatnonzero(expected == part)
        assert set(groups[members].tolist()) == {members.min()}


def test_the_survivor_is_the_largest_then_the_first_by_id():
    groups = np.array([0, 0, 2, 0, 2])
    areas = np.array([10, 30, 5, 30, 5])
    assert survivors(groups, areas, ids=np.array([4, 3, 2, 1, 0])).tolist() == [3, 3, 4, 3, 4]


def test_exact_groups_name_the_first():
    assert exact_groups(np.array([b"x", b"y", b"x", b"y", b"z"])).tolist() == [0, 1, 0, 1, 4]


def test_nothing_is_found_among_nothing():
    assert found_pairs(np.empty(0, np.uint64), 4) == set()
    assert near_groups(np.empty(0, np.uint64), np.empty((0, 192), np.uint8), 4).tolist() == []
    assert exact_groups(np.empty(0, "S32")).tolist() == []
    assert survivors(*[np.empty(0, int)] * 3).tolist() == []


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 4), st.sampled_from([1, 2, 3]), st.integers(8, 60))
def test_bands_find_every_pair_of_clumped_hashes_however_often_they_are_cut(seed, distance, num_clumps, run):
    """Clumps around few centres, with the threshold of a long run far below their size."""
    random = np.random.default_rng(seed)
    centres = random.integers(0, 2**63, num_clumps, dtype=np.uint64)
    hashes = centres[random.integers(0, num_clumps, 150)]
    for _ in range(4):
        hashes = hashes ^ (np.uint64(1) << random.integers(0, 20, 150, dtype=np.uint64))
    near = np.bitwise_count(hashes[:, None] ^ hashes) <= distance
    brute = {
        pair for pair in zip(*(each.tolist() for each in np.nonzero(near)), strict=True) if pair[0] < pair[1]
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup, "_LONG_RUN", run)
        found = list(pairs_within(hashes, distance))
    assert sum(len(left) for left, _ in found) == len(brute)
    assert found_pairs(hashes, distance) == brute


def connected_parts(linked: np.ndarray) -> list[int]:
    """The smallest index of each node's connected part, by walking the graph [n, n]."""
    part = [-1] * len(linked)
    for start in range(len(linked)):
        waiting = [start] if part[start] < 0 else []
        while waiting:
            node = waiting.pop()
            if part[node] < 0:
                part[node] = start
                waiting += np.flatnonzero(linked[node]).tolist()
    return part


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_groups_are_the_connected_parts_of_the_graph_of_all_pairs(seed):
    random = np.random.default_rng(seed)
    hashes = random.choice(np.array([0, 1, 7, 63, 2**40 - 1, 2**45 - 1], np.uint64), 60)
    shades = random.integers(0, 256, (60, 3), np.uint8)
    signatures = np.tile(shades, 64) // 8 * 8
    left, right = np.divmod(np.arange(60 * 60), 60)
    linked = (np.bitwise_count(hashes[left] ^ hashes[right]) <= 4) & colors_alike(
        signatures[left], signatures[right]
    )
    assert near_groups(hashes, signatures, 4).tolist() == connected_parts(linked.reshape(60, 60))


def test_a_crowd_of_one_hash_is_no_quadratic_affair(monkeypatch):
    """Half of the images have come before; each of the others with each would be 1.1e6 comparisons."""
    compared = []

    def counted(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        compared.append(len(first))
        return colors_alike(first, second)

    monkeypatch.setattr(dedup, "colors_alike", counted)
    different = np.random.default_rng(0).integers(0, 256, (1500, 192), np.uint8)
    groups = near_groups(np.zeros(3000, np.uint64), np.concatenate([different, different]), 4)
    assert np.array_equal(groups, np.tile(np.arange(1500), 2))
    assert sum(compared) <= 1500 * 65


@pytest.mark.parametrize("gain", [0.7, 0.8, 0.9, 1.1])
def test_a_darker_or_brighter_copy_joins_its_original_and_nothing_else(gain):
    originals = [picture(seed, 96, 80) for seed in range(100)]
    copies = [np.clip(image * gain, 0, 255).round().astype(np.uint8) for image in originals]
    groups = near_groups(*hashed(originals + copies), 4)
    assert np.array_equal(groups[:100], np.arange(100))
    assert (groups[100:] == groups[:100]).mean() >= 0.95


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_colours_agree_in_either_order(seed):
    random = np.random.default_rng(seed)
    first = random.integers(0, 256, (20, 192), np.uint8)
    second = np.clip(first * random.uniform(0.5, 2, (20, 1)) + random.integers(-30, 31, (20, 192)), 0, 255)
    second = second.astype(np.uint8)
    assert np.array_equal(colors_alike(first, second), colors_alike(second, first))
    assert colors_alike(first, first).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_colours_agree_exactly_where_the_definition_says_so(seed, spread):
    """Pair by pair, with nothing left out beforehand."""
    random = np.random.default_rng(seed)
    first = np.clip(random.integers(0, 256, (60, 1)) + random.normal(0, spread, (60, 192)), 0, 255).astype(
        np.uint8
    )
    gains = random.choice([1, 1.05, 1.3, 1.6, 1.65], (60, 1))
    second = np.clip(first * gains + random.integers(-spread, spread + 1, (60, 192)), 0, 255).astype(np.uint8)
    assert colors_alike(first, second).tolist() == [defined(a, b) for a, b in zip(first, second, strict=True)]


def defined(one: np.ndarray, other: np.ndarray) -> bool:
    darker, brighter = sorted((one.astype(np.float32), other.astype(np.float32)), key=lambda each: each.sum())
    counted = np.where(brighter < 230, darker, 0)
    gain = (counted * brighter).sum() / max((counted * counted).sum(), 1)
    gain = 1 if darker.sum() == brighter.sum() else np.clip(gain, 1, 1.6)
    after = np.abs(np.minimum(darker * gain, 255) - brighter).max()
    return bool(np.abs(darker - brighter).max() <= 24 or after <= 28)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 80), st.floats(0.5, 0.999))
def test_similar_groups_are_the_connected_parts_of_the_graph_of_all_pairs_of_vectors(seed, n, d, cosine):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(max(n // 4, 1), d))
    vectors = centres[random.integers(0, len(centres), n)] + random.normal(0, 0.2, (n, d))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    pairs = (vectors[:, None] * vectors[None]).sum(2) > cosine
    parent = list(range(n))
    for _ in range(n):
        parent = [min([parent[i], *(parent[j] for j in np.flatnonzero(pairs[i]))]) for i in range(n)]
    assert similar_groups(vectors, cosine).tolist() == parent


def test_more_vectors_than_a_block_are_all_compared():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(1500, 48))
    vectors[1000:] = vectors[:500] + random.normal(0, 0.01, (500, 48))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    groups = similar_groups(vectors, 0.95)
    assert np.array_equal(groups, np.r_[np.arange(1000), np.arange(500)])
