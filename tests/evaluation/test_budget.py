import numpy as np
import pytest

from evaluation.budget import YEAR_SECONDS, Budget, gates_in_year
from evaluation.statistics import sign_flip_exact
from fluxmodel.errors import InputError


@pytest.mark.parametrize("rounds", [(1,), (1, 2, 4, 8), (2, 3), (1, 2, 4, 8, 16)])
@pytest.mark.parametrize("gates", [1, 52, 365])
def test_a_year_of_gates_spends_its_alpha_and_no_more(rounds, gates):
    budget = Budget(0.05, gates, rounds)
    spent = sum(budget.alpha(look) for look in range(1, len(rounds) + 1))
    assert spent * gates == pytest.approx(0.05)


def test_later_looks_may_spend_more():
    budget = Budget()
    parts = [budget.alpha(look) / budget.gate_alpha for look in (1, 2, 3, 4)]
    assert parts == pytest.approx([1 / 8, 1 / 8, 1 / 4, 1 / 2])


def test_a_spent_year_promotes_nothing():
    budget = Budget(gates_per_year=10)
    assert budget.alpha(1, gates_spent=9) == budget.alpha(1) > 0
    assert [budget.alpha(look, gates_spent=10) for look in (1, 2, 3, 4)] == [0, 0, 0, 0]
    assert sign_flip_exact(np.ones(1000, int))[0] > 0, "no p-value is small enough for a budget of 0"


def test_gates_older_than_a_year_are_forgotten():
    now = 2e9
    assert gates_in_year([now - YEAR_SECONDS, now - YEAR_SECONDS + 1, now - 5, now], now) == 3


def test_a_gate_that_looks_again_and_again_errs_as_seldom_as_it_says():
    budget, rng = Budget(yearly_alpha=0.2, gates_per_year=1), np.random.default_rng(0)
    trials, promoted = 1500, 0
    for _ in range(trials):
        differences = rng.choice([-1, 0, 0, 1], size=(40, 8))
        promoted += any(
            sign_flip_exact(differences[:, :seeds].sum(1))[0] <= budget.alpha(look)
            for look, seeds in enumerate(budget.rounds, 1)
        )
    assert 0.05 < promoted / trials < 0.2


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"yearly_alpha": 0.0}, "yearly_alpha is 0.0"),
        ({"yearly_alpha": 1.0}, "yearly_alpha is 1.0"),
        ({"gates_per_year": 0}, "gates_per_year is 0"),
        ({"rounds": ()}, "rounds is"),
        ({"rounds": (2, 1)}, "rounds is"),
        ({"rounds": (0, 1)}, "rounds is"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused_by_name(fields, named):
    with pytest.raises(InputError, match=named):
        Budget(**fields)


@pytest.mark.parametrize("look", [0, 5])
def test_there_are_only_the_looks_asked_for(look):
    with pytest.raises(ValueError, match="looks 1 to 4"):
        Budget().alpha(look)
