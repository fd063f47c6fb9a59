import numpy as np
import pytest
from scipy import stats

from evaluation.statistics import (
    Z95,
    blocks_of,
    clustered_bootstrap,
    jackknife,
    mean_share,
    proportion,
    student_95,
    wilson,
)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (3, 10), (10, 10), (497, 500), (1, 1000)])
def test_wilson_equals_scipy(right, n):
    expected = stats.binomtest(right, n).proportion_ci(method="wilson")
    ours = wilson(right, n)
    assert (ours.ci_low, ours.ci_high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing_is_no_number():
    assert np.isnan(wilson(0, 0).value)


def test_the_bootstrap_finds_the_standard_error_of_a_mean():
    values = np.random.default_rng(0).normal(size=400)
    interval = clustered_bootstrap(values, [str(i) for i in range(400)])
    expected = 2 * Z95 * values.std() / np.sqrt(400)
    assert interval.ci_high - interval.ci_low == pytest.approx(expected, rel=0.1)


def test_repeated_prompts_widen_the_interval():
    values = np.repeat(np.random.default_rng(0).normal(size=100), 4)
    alone = clustered_bootstrap(values, [str(i) for i in range(400)])
    together = clustered_bootstrap(values, [str(i // 4) for i in range(400)])
    ratio = (together.ci_high - together.ci_low) / (alone.ci_high - alone.ci_low)
    assert ratio == pytest.approx(2, rel=0.15)


def test_the_bootstrap_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        prompts = rng.normal(size=60)
        values = np.repeat(prompts, 3) + rng.normal(size=180)
        interval = clustered_bootstrap(values, [str(i // 3) for i in range(180)], seed=trial, num_draws=400)
        covered += interval.ci_low <= 0 <= interval.ci_high
    assert 0.88 <= covered / 200 <= 0.985


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).random(50)
    names = [str(i % 20) for i in range(50)]
    assert clustered_bootstrap(values, names, 3) == clustered_bootstrap(values, names, 3)
    assert clustered_bootstrap(values, names, 3) != clustered_bootstrap(values, names, 4)


def test_a_perfect_score_still_has_an_interval():
    interval = mean_share(np.ones(100), [str(i) for i in range(100)])
    assert interval.value == 1
    assert interval.ci_low == pytest.approx(0.963, abs=1e-3)


def test_a_share_over_repeated_prompts_is_bootstrapped_and_over_single_ones_not():
    right = [True, False] * 10
    assert "Wilson" in proportion(right, [str(i) for i in range(20)]).method
    assert "bootstrap" in proportion(right, [str(i // 2) for i in range(20)]).method


def test_the_jackknife_of_a_mean_is_the_standard_error():
    values = np.random.default_rng(0).normal(size=500)
    block = blocks_of(500)
    left_out = np.array([values[block != number].mean() for number in range(25)])
    means = np.array([values[block == number].mean() for number in range(25)])
    interval = jackknife(values.mean(), left_out, 500)
    expected = student_95(24) * means.std(ddof=1) / 5
    assert interval.ci_high - interval.value == pytest.approx(expected, rel=1e-9)


def test_an_interval_does_not_cross_its_floor():
    assert jackknife(0.1, np.array([0.0, 0.2, 0.4]), 3, floor=0.0).ci_low == 0


@pytest.mark.parametrize("degrees", [1, 5, 24, 29, 99])
def test_student_quantiles_are_scipys(degrees):
    assert student_95(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-3)
