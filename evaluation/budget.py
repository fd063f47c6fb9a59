"""The sequential budget: how small p must be, so that a year of gates seldom promotes a model that is no better.

    a year may err with probability         A = yearly_alpha
    one gate of the N a year may run        a = A / N
    look k of one gate (n_k noise seeds     a_k = a (n_k - n_{k-1}) / n_K,    n_0 = 0
    a prompt, the last look n_K)

A gate promotes at look k when the exact one-sided p-value of all rows so far is at most a_k. Each p-value is valid
at its look, P(p <= a_k) <= a_k under "no better", so by the union bound a gate errs with at most sum a_k = a and any
365 days in which at most N gates ran with at most A: however the looks, the nights or a shared champion depend on
each other. Only one metric spends: a promotion needs every rule, so the others can only make it rarer.
docs/evidence.md says it in words, and benchmarks/null_experiment.py simulates it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from fluxmodel.errors import InputError

YEAR_SECONDS = 365 * 24 * 3600


@dataclass(frozen=True)
class Budget:
    """What one gate may spend, look by look.

    Attributes:
        yearly_alpha: Probability that a year holds a false promotion, at most.
        gates_per_year: Gates among which it is shared; no more than these may promote in any 365 days.
        rounds: Noise seeds a prompt at each look, rising.

    Raises:
        InputError: a value is out of its range.
    """

    yearly_alpha: float = 0.05
    gates_per_year: int = 365
    rounds: tuple[int, ...] = (1, 2, 4, 8)

    def __post_init__(self) -> None:
        if not 0 < self.yearly_alpha < 1:
            raise InputError(
                f"yearly_alpha is {self.yearly_alpha}; it must lie between 0 and 1, such as 0.05"
            )
        if self.gates_per_year < 1:
            raise InputError(f"gates_per_year is {self.gates_per_year}; it must be at least 1, such as 365")
        if not self.rounds or list(self.rounds) != sorted({*self.rounds}) or self.rounds[0] < 1:
            raise InputError(
                f"rounds is {self.rounds}; it must be rising numbers from 1 up, such as (1, 2, 4, 8)"
            )

    @property
    def gate_alpha(self) -> float:
        """What one gate may spend over all its looks."""
        return self.yearly_alpha / self.gates_per_year

    def alpha(self, look: int, gates_spent: int = 0) -> float:
        """Return the largest p-value that promotes at a look.

        Args:
            look: 1 for the first, up to the number of `rounds`.
            gates_spent: Gates that already ran in the 365 days before this one.

        Returns:
            Its share of the gate's budget; 0 where the year's is spent.
        """
        if not 1 <= look <= len(self.rounds):
            raise ValueError(f"look is {look}; this budget has looks 1 to {len(self.rounds)}")
        if gates_spent >= self.gates_per_year:
            return 0.0
        before = self.rounds[look - 2] if look > 1 else 0
        return self.gate_alpha * (self.rounds[look - 1] - before) / self.rounds[-1]


def gates_in_year(times: Iterable[float], now: float) -> int:
    """Return how many of these Unix times lie in the 365 days before `now`."""
    return sum(now - YEAR_SECONDS < time <= now for time in times)
