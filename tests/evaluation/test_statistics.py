import itertools

import numpy as np
import pytest
from scipy import stats

from evaluation.statistics import (
    Z95,
    blocks_of,
    clustered_bootstrap,
    holm,
    jackknife,
    mcnemar_exact,
    mean_share,
    on_grid,
    proportion,
    sign_flip_exact,
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


def flip_all(sums):
    """P-values by counting all 2^n flips, one by one."""
    totals = [np.dot(signs, np.abs(sums)) for signs in itertools.product((-1, 1), repeat=len(sums))]
    observed = sum(sums)
    return np.mean(np.array(totals) >= observed), np.mean(np.abs(totals) >= abs(observed))


@pytest.mark.parametrize("seed", range(8))
def test_the_sign_flip_test_counts_every_flip(seed):
    sums = np.random.default_rng(seed).integers(-4, 7, size=1 + seed)
    assert sign_flip_exact(sums) == pytest.approx(flip_all(sums), rel=1e-12)


@pytest.mark.parametrize("sums", [[4, 4, -4], [2, 0, 0, -6, 2], [0, 0], []])
def test_prompts_without_a_difference_and_common_factors_change_no_p_value(sums):
    assert sign_flip_exact(sums) == pytest.approx(flip_all(np.array(sums)), rel=1e-12)


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (5, 0), (0, 5), (12, 3), (40, 60), (300, 200)])
def test_one_image_a_prompt_is_mcnemars_exact_test(won, lost):
    if won + lost:
        expected = [
            stats.binomtest(won, won + lost, alternative=side).pvalue for side in ("greater", "two-sided")
        ]
    else:
        expected = [1.0, 1.0]
    assert mcnemar_exact(won, lost) == pytest.approx(expected, rel=1e-9)


def test_p_values_below_any_number_of_drawn_flips_are_right():
    greater, both = sign_flip_exact(np.ones(200, int))
    assert greater == pytest.approx(2.0**-200)
    assert both == pytest.approx(2.0**-199)


@pytest.mark.parametrize("sizes", [[1] * 9, [1, 1, 2, 3, 3, 5], [8, 1, 1, 1, 1], [2, 4, 6]])
def test_under_no_difference_small_p_values_are_as_rare_as_they_say(sizes):
    found = [
        sign_flip_exact(np.array(signs) * sizes) for signs in itertools.product((-1, 1), repeat=len(sizes))
    ]
    for side in (0, 1):
        values = np.array([each[side] for each in found])
        for p in np.unique(values):
            assert np.mean(values <= p * (1 + 1e-12)) == pytest.approx(p)


def test_real_sums_go_on_a_grid_that_keeps_signs_and_order():
    sums = np.array([0.25, -0.25, 1.0, 0.0, -0.5])
    assert on_grid(sums, 4).tolist() == [1, -1, 4, 0, -2]
    assert (on_grid(-sums, 7) == -on_grid(sums, 7)).all()
    assert on_grid([0.0, 0.0]).tolist() == [0, 0]
    with pytest.raises(ValueError, match="on_grid"):
        sign_flip_exact(sums)


def holm_step_by_step(p_values, alpha):
    """Reject the smallest while it is at most alpha over the number left."""
    left, rejected = sorted(range(len(p_values)), key=lambda i: p_values[i]), set()
    while left and p_values[left[0]] * len(left) <= alpha:
        rejected.add(left.pop(0))
    return rejected


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
def test_holm_rejects_what_the_step_down_procedure_rejects(seed, alpha):
    p_values = [*np.random.default_rng(seed).beta(0.2, 2, size=7), 0.0, 1.0]
    assert {i for i, p in enumerate(holm(p_values)) if p <= alpha} == holm_step_by_step(p_values, alpha)
    assert holm([]) == []
