"""The gate on synthetic pairs, whose true difference is known."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.compare import Difference, compare_evaluations, pair_by_pair
from evaluation.gate import GateSettings, decide, pairs_needed
from evaluation.identity import Identity
from evaluation.rules import is_shown
from fluxmodel.errors import IncomparableError, InputError

IDENTITY = Identity(
    model="a", dataset="d", reference="r", feature_extractor="f", judge="j", prompts="p", seeds="s",
    solver="Euler", steps=None, guidance=None, n=400, resize="32x32", dtype="float32", code="c",
).model_dump()  # fmt: skip
ASK = GateSettings()
ALPHA = 0.025
"""One look at the usual level; the budget's is a thousand times smaller, and these theorems hold at any."""


def images(rate: float, n: int = 400, hardness: int = 0, luck: int = 0) -> np.ndarray:
    """Whether each image is all correct: mostly the prompt's hardness, which models share, and some luck."""
    hard, lucky = (np.random.default_rng(seed).normal(size=n) for seed in (hardness, 1000 + luck))
    return (3 * hard + lucky) / np.sqrt(10) < NormalDist().inv_cdf(rate)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(
        name: str,
        right: np.ndarray,
        held: np.ndarray | None = None,
        fd: tuple[float, float, float] = (10.0, 5.0, 15.0),
        steps: int = 8,
        lora: dict | None = None,
        **identity,
    ) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        held = right[:100] if held is None else held
        where = {"steps": steps, "guidance": 2.0}
        metrics = [
            {"name": key, "value": float(np.mean(values)), "ci_low": float(np.mean(values)) - 0.03,
             "ci_high": float(np.mean(values)) + 0.03, "n": len(values), "method": "", "direction": "higher",
             "identity": where}
            for key, values in (("all_correct", right), ("attr_acc", right), ("held_out/all_correct", held))
        ]  # fmt: skip
        metrics.append({"name": "fd", "value": fd[0], "ci_low": fd[1], "ci_high": fd[2], "n": 400, "method": "",
                        "direction": "lower", "identity": where})  # fmt: skip
        document = {
            "identity": IDENTITY | {"model": name} | identity,
            "headline": {"curve": "base_guided", **where},
            "metrics": metrics,
        } | ({"lora": lora} if lora else {})
        (directory / "evaluation.json").write_text(json.dumps(document))
        rows = {"curve": [], "prompt": [], "seed": [], "all_correct": [], "attr_acc": []}
        for curve, values in (("base_guided", right), ("held_out", held)):
            rows["curve"] += [curve] * len(values)
            rows["prompt"] += [f"{curve} {number}" for number in range(len(values))]
            rows["seed"] += list(range(len(values)))
            rows["all_correct"] += [bool(value) for value in values]
            rows["attr_acc"] += [0.9 + 0.1 * float(value) for value in values]
        table = pa.table(
            {**rows, "steps": [steps] * len(rows["seed"]), "guidance": [2.0] * len(rows["seed"])}
        )
        pq.write_table(table, directory / "rows.parquet")
        return directory

    return write


def paired(new: np.ndarray, old: np.ndarray, clusters: list[str] | None = None) -> Difference:
    prompts = clusters or [str(number) for number in range(len(new))]
    return pair_by_pair("all_correct", new.astype(float), old.astype(float), prompts)


# Theorems, on many synthetic pairs


@pytest.mark.parametrize("n", [12, 64, 400])
def test_without_a_difference_a_promotion_is_rare(n):
    trials = range(300)
    promoted = sum(
        is_shown(paired(images(0.85, n, t, 2 * t), images(0.85, n, t, 2 * t + 1)), ASK, 1, ALPHA)
        for t in trials
    )
    assert promoted / len(trials) <= 0.045  # 2.5 % by theory; 0.045 is its upper bound in 300 trials


def test_a_handful_of_lucky_images_is_no_evidence():
    old = np.zeros(64, bool)
    new = old.copy()
    new[:4] = True
    row = paired(new, old)
    assert row.ci_low is not None
    assert row.ci_low > 0  # the bootstrap alone would have promoted it
    assert (row.p_value, row.p_better) == (2 / 16, 1 / 16)
    assert not is_shown(row, ASK, 1, ALPHA)


def test_power_grows_with_the_effect_and_with_the_number_of_prompts():
    def power(effect: float, n: int) -> float:
        pairs = ((images(0.80 + effect, n, t, 2 * t), images(0.80, n, t, 2 * t + 1)) for t in range(60))
        return sum(is_shown(paired(*pair), ASK, 1, ALPHA) for pair in pairs) / 60

    by_effect = [power(effect, 400) for effect in (0.0, 0.03, 0.06, 0.10)]
    assert by_effect == sorted(by_effect)
    assert by_effect[-1] > 0.95
    assert power(0.03, 1600) > power(0.03, 400) > power(0.03, 100)


def test_pairing_finds_what_independent_noise_would_hide():
    new, old = images(0.84, 400, 5, 1), images(0.80, 400, 5, 2)
    order = np.random.default_rng(0).permutation(400)
    assert paired(new, old).half_width < 0.75 * paired(new, old[order]).half_width


def test_the_number_of_pairs_asked_for_settles_it():
    row = paired(images(0.82, 400, 3, 1), images(0.80, 400, 3, 2))
    assert row.ci_low is not None
    assert row.ci_low < 0 < row.difference
    wanted = pairs_needed(row, 0.005)
    narrowed = row.half_width * np.sqrt(row.n / wanted)
    assert narrowed == pytest.approx(row.difference, rel=0.01)
    assert pairs_needed(row.model_copy(update={"difference": 0.0}), 0.0) == 0
    assert pairs_needed(row, 0.005, alpha=2.5e-5) > 4 * wanted  # a year of gates asks for more


@pytest.mark.parametrize(("left", "right"), [(0.9, 0.8), (0.8, 0.9), (0.8, 0.8), (0.81, 0.8)])
def test_the_verdict_on_the_primary_is_its_own_mirror_image(left, right):
    one, other = images(left, 400, 0, 1), images(right, 400, 0, 2)
    for sign in (1, -1):
        assert is_shown(paired(one, other), ASK, sign, ALPHA) == is_shown(
            paired(other, one), ASK, -sign, ALPHA
        )


def test_images_of_one_prompt_are_one_witness():
    new, old = images(0.83, 400, 0, 1), images(0.80, 400, 0, 2)
    clusters = [str(number // 4) for number in range(1600)]
    assert paired(np.repeat(new, 4), np.repeat(old, 4), clusters).half_width == pytest.approx(
        paired(new, old).half_width, rel=0.1
    )


# Verdicts on directories


def test_a_better_model_is_promoted_and_the_mirror_image_rejected(save):
    new, old = save("new", images(0.92, luck=1)), save("old", images(0.80, luck=2))
    decision = decide(new, old, ASK)
    assert decision.verdict == "promote"
    assert decision.reasons[0].startswith("Shown better on the primary metric: all_correct ")
    assert "another training seed may move the number by more" in decision.reasons[-1]
    assert {guard.name for guard in decision.guards} == {"attr_acc", "held_out/all_correct", "fd"}
    assert all(guard.passed for guard in decision.guards)
    assert decide(old, new, ASK).verdict == "reject"
    assert decide(new, old, ASK).model_dump_json() == decision.model_dump_json()


def test_a_half_trained_model_is_rejected(save):
    assert (
        decide(save("half", images(0.60, luck=1)), save("whole", images(0.85, luck=2)), ASK).verdict
        == "reject"
    )


def test_a_difference_without_evidence_promotes_nothing_and_says_what_would(save):
    decision = decide(save("a", images(0.80, luck=1)), save("b", images(0.80, luck=2)), ASK)
    assert decision.verdict == "inconclusive"
    assert decision.reasons[0].startswith("No evidence either way: all_correct ")
    assert "would take about" in decision.reasons[1]


def test_a_real_difference_below_the_least_effect_promotes_nothing(save):
    old = images(0.80)
    new = old.copy()
    new[np.flatnonzero(~old)[:20]] = True  # twenty images of 400 better, none worse: p = 1e-6
    sides = save("new", new), save("old", old)
    assert decide(*sides, ASK).verdict == "promote"
    assert decide(*sides, GateSettings(min_effect=0.06)).verdict == "inconclusive"


def test_a_model_compared_with_itself_is_inconclusive(save):
    decision = decide(save("a", images(0.80)), save("b", images(0.80)), ASK)
    assert decision.verdict == "inconclusive"
    assert "Not one image differs" in decision.reasons[1]


@pytest.mark.parametrize(
    ("changes", "verdict", "said"),
    [
        ({"held": np.zeros(100, bool)}, "reject", "held_out/all_correct"),
        (
            {"held": images(0.92, 100, luck=1) & (np.arange(100) % 16 > 0)},
            "inconclusive",
            "held_out/all_correct",
        ),
        ({"fd": (100.0, 90.0, 110.0)}, "reject", "fd"),
        ({"fd": (17.0, 8.0, 26.0)}, "inconclusive", "fd"),
        ({"fd": (13.0, 4.0, 22.0)}, "promote", ""),
    ],
)
def test_a_guard_can_stop_a_better_model(save, changes, verdict, said):
    held = images(0.92, 100, luck=1)
    new = save("new", images(0.95, luck=1), **({"held": held} | changes))
    decision = decide(new, save("old", images(0.80, luck=2), held=held), ASK)
    assert (decision.verdict, [g.name for g in decision.guards if not g.passed]) == (
        verdict,
        [said] if said else [],
    )
    assert any(reason.startswith(said) and "margin" in reason for reason in decision.reasons)


def test_a_threshold_clearly_missed_rejects_even_a_better_model(save):
    new = images(0.90, luck=1)
    sides = save("new", new), save("old", images(0.70, luck=2))
    assert decide(*sides, GateSettings(thresholds={"all_correct": 0.99})).verdict == "reject"
    nearly = decide(*sides, GateSettings(thresholds={"all_correct": new.mean() + 0.02}))
    assert nearly.verdict == "promote"
    assert "missed by less than its interval" in nearly.reasons[-1]


def test_the_first_model_has_to_meet_the_thresholds(save):
    only = save("only", images(0.85))
    met = decide(only, None, GateSettings(thresholds={"all_correct": 0.7, "fd": 12.0, "unheard": 1.0}))
    assert (met.verdict, met.champion, met.primary) == ("promote", None, None)
    assert met.reasons == ["There is no champion yet.", "The model meets the 2 thresholds asked."]
    missed = decide(only, None, GateSettings(thresholds={"all_correct": 0.99, "fd": 9.0}))
    assert missed.verdict == "reject"
    assert len(missed.reasons) == 3
    assert decide(only, None, ASK).verdict == "promote"


def test_a_lora_is_guarded_by_its_figures(save):
    def block(adoption: float, **more) -> dict:
        metric = {"value": adoption, "n": 100, "method": "", "direction": "higher"}
        names = (
            "base/adoption/triggered_on",
            "base/adoption/triggered_off",
        )  # the second is no merit of the LoRA
        return {"metrics": [{"name": name, **metric} for name in names], **more}

    new, old = images(0.92, luck=1), images(0.80, luck=2)
    champion = save("old", old, lora=block(0.8))
    assert decide(save("good", new, lora=block(0.79)), champion, ASK).verdict == "promote"
    worse = decide(save("bad", new, lora=block(0.5)), champion, ASK)
    assert worse.verdict == "inconclusive"
    assert [g.name for g in worse.guards if not g.passed] == ["lora/base/adoption/triggered_on"]
    other = decide(save("other", new, lora=block(0.5, identity={"style": "ink"})), champion, ASK)
    assert other.verdict == "promote"  # another style: its figures say nothing about this one's


def test_each_side_stands_at_its_own_headline_point(save):
    decision = decide(save("few", images(0.92, luck=1), steps=1), save("many", images(0.80, luck=2)), ASK)
    assert decision.verdict == "promote"


# What cannot be compared, and bad files


@pytest.mark.parametrize("field", ["judge", "n", "code", "prompts"])
def test_different_identities_are_incomparable_by_name(save, field):
    sides = save("a", images(0.9)), save("b", images(0.8), **{field: 7 if field == "n" else "other"})
    with pytest.raises(IncomparableError, match=f"differ in {field}: "):
        compare_evaluations(*sides)
    decision = decide(*sides, ASK)
    assert decision.verdict == "incomparable"
    assert f"differ in {field}: " in decision.reasons[0]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda d: (d / "evaluation.json").unlink(), "evaluation.json cannot be read"),
        (lambda d: (d / "evaluation.json").write_text("{"), "evaluation.json is no evaluation"),
        (lambda d: (d / "evaluation.json").write_text("[]"), "evaluation.json is no evaluation"),
        (lambda d: (d / "evaluation.json").write_text('{"identity": {}}'), "is no evaluation"),
        (lambda d: (d / "rows.parquet").unlink(), "rows.parquet cannot be read"),
        (lambda d: (d / "rows.parquet").write_text("PAR1"), "rows.parquet is no parquet file"),
        (lambda d: pq.write_table(pa.table({"seed": [1]}), d / "rows.parquet"), "lacks the columns curve"),
        (lambda d: _cut(d, rows=slice(0, 300)), "does not hold the prompts and seeds"),
        (lambda d: _cut(d, rows=slice(400, 500)), "no images at the headline point"),
        (lambda d: _cut(d, drop="all_correct"), "lacks the column 'all_correct'"),
    ],
)
def test_a_bad_file_is_one_sentence(save, spoil, said):
    good, bad = save("good", images(0.9)), save("bad", images(0.8))
    spoil(bad)
    with pytest.raises(InputError, match=said) as refused:
        decide(good, bad, ASK)
    assert "\n" not in str(refused.value)


def _cut(directory: Path, rows: slice = slice(0, 500), drop: str = "") -> None:
    path = directory / "rows.parquet"
    table = pq.read_table(path).slice(rows.start, rows.stop - rows.start)
    pq.write_table(table.drop_columns([drop]) if drop else table, path)


def with_leakage(directory: Path, share: float | None, unchecked: int = 0) -> Path:
    document = json.loads((directory / "evaluation.json").read_text())
    if share is not None:
        document["leakage"] = {
            "share": share, "num_images": 100, "num_prompts": 100, "same_pixels": round(100 * share), "near_images": 0,
            "same_captions": 0, "near_captions": 0, "is_procedural": False, "unchecked": unchecked,
        }  # fmt: skip
    (directory / "evaluation.json").write_text(json.dumps(document))
    return directory


@pytest.mark.parametrize(
    ("share", "unchecked", "first", "against"),
    [
        (0.0, 0, "promote", "promote"),
        (0.03, 0, "reject", "reject"),
        (0.0, 7, "inconclusive", "inconclusive"),
        (None, 0, "inconclusive", "inconclusive"),
    ],
)
def test_leakage_stops_a_promotion_only_where_it_is_asked(save, share, unchecked, first, against):
    new = with_leakage(save("new", images(0.9), steps=8), share, unchecked)
    old = save("old", images(0.5))
    assert decide(new, None, ASK).verdict == decide(new, old, ASK).verdict == "promote"
    asked = GateSettings(max_leakage=0)
    alone, compared = decide(new, None, asked), decide(new, old, asked)
    assert (alone.verdict, compared.verdict) == (first, against)
    if first != "promote":
        assert any("leakage" in reason for reason in alone.reasons)
        assert any("leakage" in reason for reason in compared.reasons)
