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


def test_a_tossed_prompt_is_as_likely_for_as_against(seeds):
    cells = null_experiment.cells_of(seeds[0], seeds[1], seed=0, tossed=True)
    share = {tuple(sums): each for sums, each in zip(cells.sums, cells.share, strict=True)}
    assert sum(share.values()) == pytest.approx(1)
    assert all(share[tuple(-np.array(sums))] == each for sums, each in share.items())


def test_the_challenger_gains_as_many_points_as_asked(seeds):
    cells = null_experiment.cells_of(seeds[0], seeds[1], seed=0, tossed=True, gain=0.03)
    assert cells.share @ cells.sums[:, -1] / 8 == pytest.approx(0.03, abs=0.01)


def test_a_night_without_tosses_differs_by_the_pool(seeds):
    cells = null_experiment.cells_of(seeds[0], seeds[1], seed=0, tossed=False)
    assert cells.share @ cells.sums[:, -1] / 8 == pytest.approx(seeds[1].mean() - seeds[0].mean())


def test_screened_p_values_are_the_exact_ones_wherever_they_are_small(seeds):
    cells = null_experiment.cells_of(seeds[0], seeds[2], seed=1, tossed=True, gain=0.08)
    screened, exact = (
        null_experiment.p_values(cells, 60, 60, np.random.default_rng(2), screened=each)
        for each in (True, False)
    )
    small = null_experiment.BUDGET.gate_alpha
    assert ((screened <= small) == (exact <= small)).all()
    assert (exact <= small).any()
    assert not (exact <= small).all()


def test_the_gate_itself_decides_as_the_simulation_does(seeds):
    assert null_experiment.check_gate(seeds, nights=6) == 0


def test_years_are_counted_once():
    p = np.array([[1, 1, 1, 1e-9], [1e-9, 1, 1, 1], [1, 1e-9, 1, 1], [1, 1, 1, 0.01]])
    shares = null_experiment.SHARES[null_experiment.CHOSEN]
    assert null_experiment.years_with((np.array([3, 3, 5, 7]), p), shares, 10) == 2
    assert null_experiment.years_with((np.array([3, 3, 5, 7]), p), (0.0, 0.0, 0.0, 1.0), 10) == 1


def test_the_bound_is_clopper_and_pearsons():
    row = null_experiment.bounded("x", 60, 2000)
    assert sum_binomial(60, 2000, row.ours) == pytest.approx(0.025, rel=1e-6)


def sum_binomial(most, n, share):
    from scipy import stats

    return stats.binom.cdf(most, n, share)


def test_sums_of_a_night_are_tested_as_sums(seeds):
    difference = (seeds[1] - seeds[0]).sum(1)
    cells = null_experiment.Cells(difference[:, None].repeat(4, 1), np.full(60, 1 / 60))
    p = null_experiment.p_values(cells, 1, 60, np.random.default_rng(0), screened=False)
    counts = np.random.default_rng(0).multinomial(60, cells.share)
    assert p[0, 0] == pytest.approx(sign_flip_exact(np.repeat(difference, counts))[0])
