"""The Vendi score counts what is different; balancing keeps some images of a common word, all of a rare one."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.data.curation import CurationReport, curate_source
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.decisions import decide, skipped_rules
from fluxmodel.data.diversity import ALIKE, effective_number, vendi_score, words_of
from fluxmodel.data.measurements import read_measurements
from fluxmodel.data.records import Caption, RawSample
from tests.fluxmodel.data.pictures import encoded, picture

seeds = st.integers(0, 2**32)
NUM_COMMON, MOST = 400, 60


@pytest.mark.parametrize("shape", [(5, 5), (5, 40), (30, 30)])
def test_rows_far_apart_all_count_and_equal_ones_are_one(shape):
    assert vendi_score(100 * np.eye(*shape)) == pytest.approx(shape[0])
    assert vendi_score(np.ones(shape)) == pytest.approx(1)
    assert vendi_score(np.zeros(shape)) == pytest.approx(1)


def test_half_black_and_half_white_are_two_looks():
    assert vendi_score(np.repeat([[0.0] * 192, [1.0] * 192], 50, axis=0)) == pytest.approx(2)


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 40), st.integers(1, 40))
def test_it_is_that_of_the_kernel_matrix(seed, n, d):
    rows = np.random.default_rng(seed).normal(0, ALIKE, size=(n, d))
    kernel = [[np.exp(-np.mean((a - b) ** 2) / (2 * ALIKE**2)) for a in rows] for b in rows]
    eigenvalues = np.clip(np.linalg.eigvalsh(np.array(kernel) / n), 1e-300, None)
    expected = np.exp(-(eigenvalues * np.log(eigenvalues)).sum())
    assert vendi_score(rows) == pytest.approx(expected, rel=1e-6)
    assert 1 - 1e-9 <= vendi_score(rows) <= n + 1e-6


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_order_place_rotation_and_repetition_change_nothing(seed):
    random = np.random.default_rng(seed)
    rows = random.normal(0, ALIKE, size=(12, 6))
    turn = np.linalg.qr(random.normal(size=(6, 6)))[0]
    for same in (random.permutation(rows), rows + 3, rows @ turn, np.repeat(rows, 3, axis=0)):
        assert vendi_score(same) == pytest.approx(vendi_score(rows))


@pytest.mark.parametrize("features", [np.empty((0, 3)), np.array([[1.0, np.nan]])])
def test_nothing_and_what_is_no_number_are_refused(features):
    with pytest.raises(ValueError, match="finite"):
        vendi_score(features)


def test_equal_amounts_count_in_full():
    assert effective_number([3, 3, 3]) == pytest.approx(3)
    assert effective_number([9, 0]) == pytest.approx(1)


def test_words_are_counted_once_without_case_punctuation_and_numbers():
    assert words_of("A dog, a DOG! and IMG_0042 at 7 pm") == ["a", "dog", "and", "img", "at", "pm"]


class Listed:
    """Small flat pictures with captions: many of a dog, some of both, three of a zebra."""

    spec = name = "listed"
    is_procedural = False

    def __init__(self, captions: list[str]):
        self.captions = captions

    def __len__(self) -> int:
        return len(self.captions)

    def __iter__(self):
        for number, text in enumerate(self.captions):
            image = encoded(picture(number, height=24, width=24))
            yield RawSample(f"{number:04}", image, "listed", None, (Caption(text, "given"),), f"{number:04}")

    def fingerprint(self) -> str:
        return "listed"


CAPTIONS = ["a dog"] * NUM_COMMON + ["a dog and a cat"] * 30 + ["a zebra"] * 3


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory) -> tuple[CurationReport, Path]:
    output = tmp_path_factory.mktemp("balanced")
    rules = CurationRules(max_images_a_word=MOST, near_duplicate_distance=None)
    return curate_source(Listed(CAPTIONS), rules, output), output


def kept_captions(directory: Path) -> Counter[str]:
    dataset = CuratedDataset(directory)
    return Counter(each[0].text for split in ("train", "test") for each in dataset.captions(split))


def test_a_rare_word_keeps_every_image_and_a_common_one_about_so_many(balanced):
    report, output = balanced
    kept = kept_captions(output)
    assert (kept["a zebra"], kept["a dog and a cat"]) == (3, 30)
    share = MOST / (NUM_COMMON + 30)  # the rarest word of "a dog" is dog, which has 430 images
    expected, deviation = NUM_COMMON * share, np.sqrt(NUM_COMMON * share * (1 - share))
    assert abs(kept["a dog"] - expected) < 4 * deviation
    assert report.dropped == {"over_represented": NUM_COMMON - kept["a dog"]}
    assert report.seen == report.kept + sum(report.dropped.values())


def test_the_report_says_what_balancing_did(balanced):
    report, output = balanced
    record = json.loads((output / "curation.json").read_text())
    [step] = [each for each in record["funnel"] if each["rule"] == "balance"]
    assert step["removed"] == report.dropped["over_represented"]
    [moves] = [each for each in record["sensitivity"] if each["field"] == "max_images_a_word"]
    assert [change["kept"] for change in moves["changes"]] == sorted(c["kept"] for c in moves["changes"])
    found = record["diversity"]
    assert found["readable"]["num_words"] == found["kept"]["num_words"] == 5
    assert found["kept"]["effective_words"] > found["readable"]["effective_words"]
    assert found["common_words"][1] == ["dog", NUM_COMMON + 30, kept_captions(output)["a dog"] + 30]
    assert 1 < found["kept"]["vendi"] <= found["kept"]["num_looked_at"] == report.kept
    assert "commonest words" in (output / "report.html").read_text()
    assert any("430 images with its rarest word" in each.detail for each in report.refused)


def test_the_draw_is_of_the_pixels_alone(balanced, tmp_path):
    """The same images in another order, and fewer of them: who stays, stays."""
    rules = CurationRules(max_images_a_word=MOST, near_duplicate_distance=None)
    _, output = balanced
    table = read_measurements(output)
    kept = decide(table, rules, skipped_rules(rules, False)).kept
    turned = decide(table.take(np.arange(table.num_rows)[::-1]), rules, skipped_rules(rules, False)).kept
    assert (turned[::-1] == kept).all()
    fewer = decide(table.slice(100), rules, skipped_rules(rules, False)).kept
    assert fewer[kept[100:]].all()
    other = rules.model_copy(update={"seed": 1})
    assert (decide(table, other, skipped_rules(other, False)).kept != kept).any()


def test_switched_off_it_is_said_to_be(tmp_path):
    report = curate_source(Listed(CAPTIONS[:5]), CurationRules(near_duplicate_distance=None), tmp_path)
    assert report.skipped_rules["balance"] == "switched off by the rule max_images_a_word"
    assert report.kept == 5
