"""Each rule of the gate on evaluations whose truth is known: kept, open, broken, or not measured."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from evaluation.compare import compare_evaluations, pair_by_pair
from evaluation.feature_file import write_features
from evaluation.gate import GateDecision, GateSettings, decide, needs_more_noise, needs_timing
from evaluation.identity import Identity
from evaluation.rules import Rule, p_beyond
from evaluation.statistics import holm
from tests.kit import write_evaluation

N = 400
ASK = GateSettings()
PROMOTED = np.arange(N) < 380
OLD = np.arange(N) < 300


def judged(
    directory: Path, right: np.ndarray, columns: dict | None = None, metrics: dict | None = None, **identity
) -> Path:
    """An evaluation with further metrics, each (value, half of its interval, direction), and columns."""
    write_evaluation(directory, right, **identity)
    document = json.loads((directory / "evaluation.json").read_text())
    for name, (value, half, direction) in (metrics or {}).items():
        entry = {"name": name, "value": value, "n": len(right), "method": "", "direction": direction}
        entry |= {} if half is None else {"ci_low": value - half, "ci_high": value + half}
        document["metrics"].append(entry)
    (directory / "evaluation.json").write_text(json.dumps(document))
    table = pq.read_table(directory / "rows.parquet")
    for name, values in (columns or {}).items():
        table = table.append_column(name, pa.array(values, from_pandas=True))
    pq.write_table(table, directory / "rows.parquet")
    return directory


@pytest.fixture
def verdicts(tmp_path):
    """Return the verdict and that of one rule, for a challenger better on the primary."""

    def call(rule: str, new: dict[str, Any], old: dict[str, Any], settings: GateSettings = ASK, **more):
        sides = judged(tmp_path / "new", PROMOTED, **new), judged(tmp_path / "old", OLD, **old)
        decision = decide(*sides, settings, **more)
        found = {each.name: each for each in decision.rules}
        return decision.verdict, found[rule].verdict, decision

    return call


@pytest.mark.parametrize(
    ("new", "half", "verdict", "finding"),
    [
        (0.80, 0.05, "promote", "kept"),
        (0.40, 0.05, "promote", "kept"),
        (0.38, 0.05, "inconclusive", "open"),
        (0.10, 0.05, "reject", "broken"),
        (0.10, None, "inconclusive", "open"),
    ],
)
def test_coverage_is_at_least_half_the_champions(verdicts, new, half, verdict, finding):
    sides = ({"metrics": {"coverage": (value, h, "higher")}} for value, h in ((new, half), (0.8, 0.05)))
    said, found, decision = verdicts("coverage", *sides)
    assert (said, found) == (verdict, finding)
    if finding == "broken":
        assert "coverage: 80.0 % -> 10.0 %; asked: at least 0.5 of the champion's" in decision.reasons[0]


def test_what_was_not_measured_is_listed_and_stops_nothing(verdicts):
    verdict, finding, decision = verdicts("coverage", {}, {})
    assert (verdict, finding) == ("promote", "unmeasured")
    names = {rule.name for rule in decision.rules if rule.verdict == "unmeasured"}
    assert names == {
        "coverage", "groups", "latency", "attr_acc", "held_out/all_correct", "clip", "fd", "memorised",
        "contrast",
    }  # fmt: skip


def shares(*losses: float) -> dict[str, dict[str, np.ndarray]]:
    """Rows of groups of 100 images each, of which the challenger loses a share; both get the rest right."""
    columns: dict[str, dict[str, np.ndarray]] = {"new": {}, "old": {}}
    for number, loss in enumerate(losses):
        asked = np.full(N, np.nan)
        asked[number * 100 : number * 100 + 100] = 1.0
        worse = asked.copy()
        worse[number * 100 : number * 100 + round(100 * loss)] = 0.0
        columns["old"][f"group_color_{number}"] = asked
        columns["new"][f"group_color_{number}"] = worse
    return columns


@pytest.mark.parametrize(
    ("losses", "verdict", "finding"),
    [
        ((0.0, 0.0, 0.0), "promote", "kept"),
        ((0.04, 0.0, 0.02), "promote", "kept"),
        ((0.08, 0.0, 0.0), "inconclusive", "open"),
        ((0.5, 0.0, 0.0), "reject", "broken"),
    ],
)
def test_no_group_pays_for_the_rest(verdicts, losses, verdict, finding):
    columns = shares(*losses)
    said, found, decision = verdicts("groups", {"columns": columns["new"]}, {"columns": columns["old"]})
    assert (said, found) == (verdict, finding)
    if finding == "broken":
        assert decision.reasons[0].startswith("groups: color 0 -50.0 points [")


def test_a_group_of_a_handful_is_never_shown_worse(verdicts):
    old, new = np.full(N, np.nan), np.full(N, np.nan)
    old[:4], new[:4] = 1.0, 0.0  # all four lost: the bootstrap's interval is [-1, -1], p = 1/16
    columns = ({"columns": {"group_objects_9": each}} for each in (new, old))
    said, found, decision = verdicts("groups", *columns)
    assert (said, found) == ("inconclusive", "open")
    assert decision.primary is not None


def test_holm_keeps_many_groups_at_the_margin_from_rejecting_by_luck():
    rng = np.random.default_rng(0)
    prompts = [str(number) for number in range(100)]
    rejected = 0
    for _ in range(60):  # eighteen groups that truly lose five points
        pairs = ((rng.random(100) < 0.65, rng.random(100) < 0.70) for _ in range(18))
        rows = [pair_by_pair("group/color_red", a.astype(float), b.astype(float), prompts) for a, b in pairs]
        rejected += min(holm([p_beyond(row, 0.05) for row in rows])) <= 0.05
    assert rejected <= 6  # 3 by theory


@pytest.mark.parametrize(
    ("new", "verdict", "finding"),
    [(0, "promote", "kept"), (14, "inconclusive", "open"), (60, "reject", "broken")],
)
def test_a_model_that_memorised_is_not_promoted(verdicts, new, verdict, finding):
    sides = (
        {"columns": {"memorised": np.arange(N) < count}, "metrics": {"memorised": (count / N, 0.01, "lower")}}
        for count in (new, 4)
    )
    assert verdicts("memorised", *sides)[:2] == (verdict, finding)


@pytest.mark.parametrize(
    ("new", "timed", "verdict", "finding"),
    [
        (10.5, None, "promote", "kept"),
        (40.0, None, "promote", "unmeasured"),  # other hours: it counts against nobody
        (40.0, (1.0, 0.9, 1.1), "promote", "kept"),
        (10.5, (1.3, 1.2, 1.4), "reject", "broken"),
        (10.5, (1.15, 1.05, 1.25), "inconclusive", "open"),
    ],
)
def test_latency_counts_against_a_model_only_where_both_were_timed_in_turn(
    verdicts, tmp_path, new, timed, verdict, finding
):
    drawn = None
    if timed:
        drawn = tmp_path / "duel"
        drawn.mkdir()
        ratio, low, high = timed
        latency = {
            "champion_ms": 10.0,
            "challenger_ms": 10 * ratio,
            "ratio": ratio,
            "ci_low": low,
            "ci_high": high,
        }
        (drawn / "duel.json").write_text(json.dumps({"latency": latency}))
    sides = ({"metrics": {"latency_ms": (value, None, "lower")}} for value in (new, 10.0))
    said, found, decision = verdicts("latency", *sides, further=drawn)
    assert (said, found) == (verdict, finding)
    if timed is None:
        assert needs_timing(decision, tmp_path / "new", tmp_path / "old")  # before it is promoted


@pytest.mark.parametrize(
    ("fading", "verdict", "finding"),
    [
        (0.0, "promote", "kept"),
        (0.015, "promote", "kept"),
        (0.022, "inconclusive", "open"),
        (0.04, "reject", "broken"),
        (-0.1, "promote", "kept"),
    ],
)
def test_contrast_may_fade_by_a_fiftieth_of_the_champions(verdicts, fading, verdict, finding):
    rng = np.random.default_rng(0)
    old = rng.normal(20, 4, N)
    new = old * (1 - fading) + rng.normal(0, 1, N)
    sides = (
        {"columns": {"contrast": each}, "metrics": {"contrast": (each.mean(), 0.4, "higher")}}
        for each in (new, old)
    )
    said, found, _ = verdicts("contrast", *sides)
    assert (said, found) == (verdict, finding)


def paired_features(directory: Path, shift: float, noise: int) -> None:
    """Features of N images of 8 numbers, mostly the prompt's own; the model shifts them."""
    content, own, reference = (
        torch.randn(N, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 100 + noise, 2)
    )
    write_features(directory, content + 0.2 * own + shift, reference, "made up")


@pytest.mark.parametrize(
    ("shift", "verdict", "finding"),
    [
        (0.0, "promote", "kept"),
        (0.1, "promote", "kept"),  # its interval reaches beyond the margin, its value does not
        (0.16, "inconclusive", "open"),
        (0.5, "reject", "broken"),
    ],
)
def test_the_frechet_distance_is_paired_by_its_features_and_judged_by_its_value(
    tmp_path, shift, verdict, finding
):
    alike = {"fd": (1.0, 0.6, "lower")}
    new, old = (
        judged(tmp_path / name, right, metrics=alike) for name, right in (("new", PROMOTED), ("old", OLD))
    )
    apart = compare_evaluations(new, old)["fd"]
    paired_features(new, shift, 1)
    paired_features(old, 0.0, 2)
    row = compare_evaluations(new, old)["fd"]
    assert row.paired
    assert not apart.paired
    assert row.half_width < apart.half_width
    decision = decide(new, old, GateSettings(fd_margin=0.06))
    assert (decision.verdict, decision.guards[-1].name) == (verdict, "fd")
    assert next(rule for rule in decision.rules if rule.name == "fd").verdict == finding


def test_features_are_paired_by_prompt_and_seed_in_whatever_order_they_lie(tmp_path):
    metrics = {"fd": (1.0, 0.6, "lower")}
    new, old = (judged(tmp_path / name, OLD, metrics=metrics) for name in ("new", "old"))
    features = torch.randn(N, 8, generator=torch.Generator().manual_seed(0))
    reference = torch.randn(N, 8, generator=torch.Generator().manual_seed(1))
    write_features(new, features, reference, "")
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    write_features(old, features[order], reference, "")
    table = pq.read_table(old / "rows.parquet").take(order.tolist())
    pq.write_table(table, old / "rows.parquet")
    row = compare_evaluations(new, old)["fd"]
    assert (row.difference, row.ci_low, row.ci_high) == pytest.approx((0, 0, 0), abs=1e-9)


# The budget


def test_a_spent_budget_promotes_nothing_but_still_rejects(verdicts, tmp_path):
    settings = GateSettings(gates_per_year=12)
    verdict, finding, decision = verdicts("budget", {}, {}, settings, gates_spent=12)
    assert (verdict, finding) == ("inconclusive", "open")
    assert "budget: 12 before this one; asked: at most 12 gates of a model in 365 days" in decision.reasons[1]
    assert not needs_more_noise(decision)
    assert decide(tmp_path / "new", tmp_path / "old", settings, gates_spent=11).verdict == "promote"
    assert decide(tmp_path / "old", tmp_path / "new", settings, gates_spent=12).verdict == "reject"


def test_a_look_needs_a_p_value_below_its_part_of_the_budget(tmp_path):
    old = np.arange(N) < 300
    for won, verdict in (
        (15, "inconclusive"),
        (16, "promote"),
    ):  # p = 2^-won against 0.05 / 365 / 8 = 2^-15.8
        new = np.arange(N) < 300 + won
        sides = judged(tmp_path / f"new{won}", new), judged(tmp_path / f"old{won}", old)
        decision = decide(*sides, ASK)
        assert decision.verdict == verdict
        assert needs_more_noise(decision) == (verdict == "inconclusive")
        assert decide(sides[1], sides[0], ASK).verdict == {"promote": "reject"}.get(verdict, verdict)
        alone = decide(*sides, GateSettings(max_rounds=1))  # one look has the whole gate's budget
        assert (alone.verdict, needs_more_noise(alone)) == ("promote", False)


@pytest.mark.parametrize(
    ("open_rule", "is_settled_by_noise"),
    [("primary", True), ("attr_acc", True), ("groups", True), ("fd", False), ("held_out/all_correct", False)],
)
def test_noise_is_drawn_for_whatever_it_can_settle(open_rule, is_settled_by_noise):
    names = ("primary", "attr_acc", "groups", "fd", "held_out/all_correct")
    rules = [
        Rule(name=name, asked="", found="", verdict="open" if name == open_rule else "kept") for name in names
    ]
    asked = {"verdict": "inconclusive", "reasons": [], "rules": rules, "settings": GateSettings()}
    assert needs_more_noise(GateDecision.model_validate(asked)) == is_settled_by_noise
    assert not needs_more_noise(GateDecision.model_validate(asked | {"verdict": "reject"}))


@pytest.mark.parametrize(
    ("most", "rounds"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (8, (1, 2, 4, 8)), (9, (1, 2, 4, 8, 9))]
)
def test_looks_double_up_to_the_most_seeds_allowed(most, rounds):
    assert GateSettings(max_rounds=most).budget.rounds == rounds


# Thresholds without a champion


def test_a_first_model_that_misses_a_threshold_unclearly_is_inconclusive(tmp_path):
    only = judged(tmp_path / "only", OLD)  # 0.75 +- 0.05
    for asked, verdict in ((0.70, "promote"), (0.78, "inconclusive"), (0.85, "reject")):
        decision = decide(only, None, GateSettings(thresholds={"all_correct": asked}))
        assert decision.verdict == verdict
        assert [rule.name for rule in decision.rules] == ["threshold all_correct"]
    both = decide(only, None, GateSettings(thresholds={"all_correct": 0.78, "fd": 1.0}))
    assert both.verdict == "inconclusive"
    assert [rule.verdict for rule in both.rules] == ["open", "unmeasured"]
    assert "missed by less than its interval" in both.reasons[1]


# Identity


@pytest.mark.parametrize(
    "field", [name for name in Identity.model_fields if name not in ("model", "steps", "guidance")]
)
def test_a_difference_in_any_field_is_incomparable_and_named(tmp_path, field):
    other: dict[str, Any] = {field: 7 if field == "n" else "other"}
    sides = write_evaluation(tmp_path / "a", PROMOTED), write_evaluation(tmp_path / "b", OLD, **other)
    decision = decide(*sides, ASK)
    assert (decision.verdict, decision.differing) == ("incomparable", [field])
    assert f"differ in {field}: " in decision.reasons[0]
