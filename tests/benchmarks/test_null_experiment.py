"""The simulation of nightly gates says what the exact test says, prompt by prompt."""

import numpy as np
import pytest

pytest.importorskip("scipy")

from benchmarks import null_experiment
from evaluation.statistics import sign_flip_exact


@pytest.fixture
def seeds():
    rng = np.random.default_rng(0)
    ability = rng.normal(size=(1, 60, 1)) + 0.5 * rng.normal(size=(3, 60, 8))
    return (ability > 0).astype(np.int64)


def mean_sum(one, other, **more):
    rng = np.random.default_rng(1)
    return np.mean([null_experiment.sums_of(one, other, rng, **more).mean(0) for _ in range(400)], axis=0)


def test_the_challenger_gains_as_many_points_as_asked_and_the_toss_takes_away_the_rest(seeds):
    gained = mean_sum(seeds[0], seeds[1], gain=0.05) / null_experiment.LOOKS
    assert gained == pytest.approx(np.full(4, 0.05), abs=0.012)


def test_a_night_without_a_gain_differs_by_the_pool(seeds):
    found = mean_sum(seeds[0], seeds[1]) / null_experiment.LOOKS
    assert found == pytest.approx(np.full(4, seeds[1].mean() - seeds[0].mean()), abs=0.012)


def test_screened_p_values_are_the_exact_ones_wherever_they_are_small(seeds):
    rng = np.random.default_rng(2)
    sums = null_experiment.sums_of(seeds[0], seeds[2], rng, gain=0.08)
    times = rng.multinomial(60, np.full(60, 1 / 60), size=60)
    screened, exact = (null_experiment.p_values(sums, times, screened=each) for each in (True, False))
    small = null_experiment.BUDGET.gate_alpha
    assert ((screened <= small) == (exact <= small)).all()
    assert (exact <= small).any()
    assert not (exact <= small).all()


def test_the_gate_itself_decides_as_the_simulation_does(seeds):
    assert null_experiment.check_gate(seeds, nights=6) == 0


def test_years_are_counted_once():
    p = np.array([[1, 1, 1, 1e-9], [1e-9, 1, 1, 1], [1, 1e-9, 1, 1], [1, 1, 1, 0.01]])
    shares = null_experiment.SHARES[null_experiment.CHOSEN]
    assert null_experiment.years_with((np.array([3, 3, 5, 7]), p), shares) == 2
    assert null_experiment.years_with((np.array([3, 3, 5, 7]), p), (0.0, 0.0, 0.0, 1.0)) == 1


def test_the_bound_is_clopper_and_pearsons():
    row = null_experiment.bounded("x", 60, 2000)
    assert sum_binomial(60, 2000, row.ours) == pytest.approx(0.025, rel=1e-6)


def sum_binomial(most, n, share):
    from scipy import stats

    return stats.binom.cdf(most, n, share)


def test_a_night_takes_prompts_as_often_or_with_such_a_sign_as_it_says(seeds):
    sums = null_experiment.sums_of(seeds[0], seeds[1], np.random.default_rng(0))
    weights = np.array([np.tile([1, -1], 30), np.tile([2, 0], 30)])
    p = null_experiment.p_values(sums, weights, screened=False)
    assert p[0, 0] == sign_flip_exact(sums[:, 0] * weights[0])[0]
    assert p[1, 3] == sign_flip_exact(np.repeat(sums[::2, 3], 2))[0]
