"""The page of curation: its counts add up, its examples are the nearest, it stays small and says the same twice."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest

from fluxmodel.data.curation_examples import duplicate_groups, kept_examples, nearest
from fluxmodel.data.curation_funnel import funnel, moved, sensitivity
from fluxmodel.data.curation_page import document
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.curation_sections import Curated
from fluxmodel.data.curation_tables import funnel_section, sensitivity_section
from fluxmodel.data.decisions import Decisions, decide
from fluxmodel.data.histogram import Line, count, draw
from fluxmodel.data.measurements import measurement_schema
from fluxmodel.data.thresholds import THRESHOLDS
from tests.fluxmodel.data.pictures import encoded, picture

RULES = CurationRules(min_side=30, min_brightness=0.2)
MIN_SIDE = next(each for each in THRESHOLDS if each.field == "min_side")


def table(n: int) -> pa.Table:
    """Measurements of n images whose sides are 20, 21, ... 59, 20, ..., every fifth a copy of the one before it."""
    rows = []
    for number in range(n):
        same = number - (number % 5 == 4)
        rng = np.random.default_rng(same)
        rows.append({
            "id": f"image-{number:06d}", "path": f"folder/image-{number:06d}.png", "source": "table",
            "num_bytes": 100 + number, "sha256": f"{number:064x}",
            "pixel_sha256": hashlib.sha256(b"%d" % same).hexdigest(),
            "phash": int(rng.integers(0, 1 << 63)), "colors": rng.integers(0, 256, 192, np.uint8).tobytes(),
            "width": 20 + same % 40, "height": 60, "sharpness": float(same), "brightness": (same % 11) / 10,
            "contrast": 0.5, "entropy": 4.0, "captions": [{"text": "a b", "kind": "given", "model": None}],
            "caption_words": [2], "caption_refusals": [None],
        })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=measurement_schema())


def decisions(passed: dict[str, list[int]], survivor: list[int] | None = None) -> Decisions:
    columns = {rule: np.array(each, np.int8) for rule, each in passed.items()}
    n = len(next(iter(columns.values())))
    kept = np.all([each == 1 for each in columns.values()], axis=0)
    values = {rule: np.arange(n, dtype=float) for rule in columns}
    return Decisions(tuple(passed), columns, values, np.array(survivor or range(n)), kept)


def record(measurements: pa.Table, decided: Decisions, rules: CurationRules = RULES) -> dict:
    steps = [vars(step) for step in funnel(decided)]
    seen, kept = measurements.num_rows, int(decided.kept.sum())
    return {
        "data": "a <table>", "seen": seen, "kept": kept, "dropped": {"too_small": seen - kept}, "splits": {},
        "refused": [{"path": f"<{n}>", "reason": "truncated", "detail": ""} for n in range(200)],
        "num_refused": 300, "rules": rules.model_dump(), "funnel": steps, "sensitivity": [],
    }  # fmt: skip


def drawn(n: int, image: bytes) -> str:
    measurements = table(n)
    decided = decide(measurements, RULES)
    curated = Curated(
        record(measurements, decided),
        measurements,
        decided,
        RULES,
        THRESHOLDS,
        lambda rows: dict.fromkeys(rows, "a b"),
    )
    return document(curated, lambda rows: ((row, image) for row in rows))


# Funnel


def test_each_image_is_removed_once_in_turn_and_by_every_rule_it_fails_alone():
    found = funnel(
        decisions({"first": [1, 0, 0, 1, 1], "second": [1, 0, 1, 0, 1], "third": [1, -1, -1, -1, 0]})
    )
    assert [(step.removed, step.alone, step.only, step.unseen, step.left) for step in found] == [
        (2, 2, 1, 0, 3),
        (1, 2, 1, 0, 2),
        (1, 1, 1, 3, 1),
    ]


def test_seen_is_kept_and_what_the_rules_removed():
    measurements = table(500)
    decided = decide(measurements, RULES)
    steps = funnel(decided)
    assert sum(step.removed for step in steps) + decided.kept.sum() == 500
    assert steps[-1].left == decided.kept.sum()


@pytest.mark.parametrize(
    ("value", "factor", "expected"),
    [(30, 0.9, 27), (4, 0.9, 3), (4, 1.1, 5), (1, 1.2, 2), (0.5, 0.8, 0.4), (20, 1.1, 22)],
)
def test_a_whole_number_moves_by_at_least_one(value, factor, expected):
    assert moved(value, factor) == pytest.approx(expected)


def test_a_moved_threshold_keeps_what_deciding_under_it_keeps():
    measurements = table(300)
    asked = []

    def again(rules: CurationRules) -> Decisions:
        asked.append(rules)
        return decide(measurements, rules)

    decided = decide(measurements, RULES)
    found = {each.field: each for each in sensitivity(measurements, decided, RULES, THRESHOLDS, again)}
    assert set(found) == {"min_side", "max_aspect", "min_brightness", "min_caption_words", "max_caption_words",
                          "near_duplicate_distance"}  # fmt: skip
    for each in found.values():
        for change in each.changes:
            if change.kept is None:
                continue
            kind = type(getattr(RULES, each.field))
            other = RULES.model_copy(update={each.field: kind(change.value)})
            assert change.kept == decide(measurements, other).kept.sum()
            assert change.difference == change.kept - decided.kept.sum()
    moves = [change.difference or 0 for change in found["min_side"].changes]
    assert moves[0] > 0 > moves[3]
    assert found["min_caption_words"].changes[0].kept is None
    assert len(asked) < 6 * 4, "a threshold that no image crosses is not decided anew"


# Examples


def test_the_nearest_are_the_last_kept_and_the_first_dropped():
    measurements = table(40)
    decided = decide(measurements, CurationRules(min_side=30, near_duplicate_distance=None))
    values = measurements["width"].to_numpy().astype(float)
    found = nearest(values, decided, MIN_SIDE, 30, most=2)
    assert [values[row] for row in found.kept] == [30, 31]
    assert [values[row] for row in found.dropped] == [28, 28]  # that of 29 is a copy of the one before
    assert decided.kept[list(found.kept)].all()
    assert not decided.kept[list(found.dropped)].any()


def test_an_image_that_another_rule_drops_is_no_last_kept():
    found = nearest(
        np.array([31.0, 32.0, 33.0]), decisions({"min_side": [1, 1, 1], "other": [0, 1, 1]}), MIN_SIDE, 30
    )
    assert found.kept == (1, 2)


def test_the_largest_group_comes_first_and_its_members_are_counted():
    survivor = [0, 0, 2, 2, 2, 2, 6, 7, 7]
    found, num = duplicate_groups(decisions({"near_duplicate": [1] * 9}, survivor), most=2, most_members=2)
    assert num == 3
    assert [(group.survivor, group.members, group.size) for group in found] == [(2, (3, 4), 4), (0, (1,), 2)]
    assert duplicate_groups(decisions({"near_duplicate": [1, 1]})) == ((), 0)


def test_kept_examples_are_spread_from_first_to_last():
    chosen = kept_examples(decisions({"any": [0, *[1] * 98, 0]}), most=3)
    assert chosen == (1, 49, 98)
    assert kept_examples(decisions({"any": [0]})) == ()


# Histograms


@pytest.mark.parametrize("scale", ["whole", "linear", "logarithmic"])
@pytest.mark.parametrize("side", ["min", "max"])
def test_no_bar_straddles_a_threshold_and_none_is_lost(scale, side):
    rng = np.random.default_rng(0)
    values = {
        "whole": rng.integers(1, 30, 1000).astype(float),
        "linear": rng.normal(5, 1, 1000),
        "logarithmic": np.exp(rng.normal(5, 3, 1000)),
    }[scale]
    values[:10] = np.nan
    limit = float(values[500])
    found = count(values, np.arange(1000) % 2 == 0, [Line(limit, side)])
    beyond = values < limit if side == "min" else values > limit
    assert found is not None
    assert (found.num, found.missing) == (990, 10)
    assert sum(found.dropped) == np.nansum(beyond)
    assert sum(found.kept) + sum(found.dropped) + sum(found.other) == 990
    for kept, dropped, other in zip(found.kept, found.dropped, found.other, strict=True):
        assert not (dropped and (kept or other))


def test_a_long_tail_does_not_squeeze_the_rest():
    values = np.concatenate([np.random.default_rng(0).normal(0, 1, 10_000), [1e6]])
    found = count(values, np.ones(len(values), bool))
    assert found is not None
    assert found.edges[-1] < 20
    assert found.gathered == (False, True)
    assert sum(found.kept) == len(values)


@pytest.mark.parametrize("values", [[], [np.nan], [3.0], [3.0, 3.0], [0.0, 1e-9], [-5.0, 1e9], [np.inf, 1.0]])
def test_any_numbers_can_be_drawn(values):
    found = count(np.array(values), np.ones(len(values), bool), [Line(2.0, "min"), Line(50.0, "max")])
    if found is not None:
        assert "nan" not in draw(
            found, [(Line(2.0, "min"), "min 2"), (Line(50.0, "max"), "max")], "a <title>"
        )


# The page


def test_the_page_of_many_images_is_as_small_as_that_of_few():
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    few, many = drawn(10, encoded(picture(0))), drawn(20_000, encoded(noise))
    assert len(few) < 100_000
    assert len(many) < 3_000_000
    assert many.count("<img") > 50
    assert drawn(300, encoded(noise)) == drawn(300, encoded(noise))


def test_names_are_escaped_and_nothing_outside_is_asked_for():
    page = drawn(50, encoded(picture(0)))
    assert "Curation of a &lt;table&gt;" in page
    assert "&lt;199&gt;" in page
    assert "http" not in page
    assert "<script" not in page


def test_a_page_without_pictures_says_so():
    assert "no picture" in drawn(60, b"torn")


def test_what_a_table_says_is_what_the_record_says():
    step = {"rule": "min_side", "removed": 1234, "alone": 2345, "only": 345, "unseen": 0, "left": 8766}
    text = funnel_section({"seen": 10_000, "kept": 8766, "funnel": [step]})
    assert all(each in text for each in ("min side", "−1,234", "2,345", ">345<", "8,766"))
    change = {"factor": 0.8, "value": 24.0, "kept": 9000, "difference": 234}
    moves = [{"field": "min_side", "value": 30.0, "unit": "pixels",
              "changes": [change, change, change, {**change, "kept": None, "difference": None}]}]  # fmt: skip
    text = sensitivity_section({"kept": 8766, "sensitivity": moves})
    assert "+234" in text
    assert "9,000 at 24" in text
    assert "not allowed" in text


def test_the_record_can_be_written_as_json():
    measurements = table(100)
    decided = decide(measurements, RULES)
    json.dumps(record(measurements, decided))
