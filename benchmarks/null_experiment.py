"""A year of nightly gates, simulated: how often it promotes a model that is no better, how often one that is.

Every night a challenger meets the champion on 1000 prompts, with 1, 2, 4 and 8 noise seeds a prompt as long as
nothing is decided; rows are those of eight networks that differ by their training seed (benchmarks/trained_seeds.py).

sharp null   two trained seeds, which of the two is the challenger tossed prompt by prompt: no difference at all
pool null    every night one of the eight, prompts drawn with replacement; the champion moves when one is promoted; a
             promotion is false if over all its images the challenger is not better than the champion was. The
             gate judges models, not recipes: a seed that is truly better is rightly promoted.
power        as in the sharp null, but as many of the challenger's wrong images set right as make +3 points

`TOGETHER` nights share one order of noise (and tossed ones one resampling of prompts), and go to different years.
With z a night's sum over the root of its summed squares, p <= exp(-z^2 / 2) (Hoeffding 1963), which settles the
nights beyond `CLEAR`; between `SCREEN` and `CLEAR` the exact test is computed; that no p-value below `SCREEN` is
small enough is checked on nights around it.
Run: python -m benchmarks.null_experiment [--years 2000] --json
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
from scipy import stats

from benchmarks.measure import Row, publish, show
from benchmarks.trained_seeds import Pool, file_of, read_pool
from evaluation.budget import Budget
from evaluation.compare import pair_by_pair
from evaluation.gate_settings import GateSettings
from evaluation.rules import primary_rule
from evaluation.statistics import sign_flip_exact

NIGHTS, POINTS, SCREEN, CLEAR = 365, 0.03, 3.2, 4.8
TOGETHER, BLOCK, POWER_NIGHTS, CHECKED = 64, 250, 1120, 280
BUDGET = Budget()
LOOKS = np.array(BUDGET.rounds)
SHARES = {
    "equal shares": (0.25, 0.25, 0.25, 0.25),
    "shares by information": tuple(BUDGET.alpha(look) / BUDGET.gate_alpha for look in (1, 2, 3, 4)),
    "all at the last look": (0.0, 0.0, 0.0, 1.0),
}
"""Ways to share one gate's alpha among its looks; the second is evaluation/budget.py's."""
CHOSEN = "shares by information"


def main() -> int:
    """Simulate and publish."""
    parser = argparse.ArgumentParser(description="False promotions in simulated years, and power.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--years", type=int, default=2000, help="simulated years")
    parser.add_argument("--workers", type=int, default=1, help="processes; they change no figure")
    arguments = parser.parse_args()
    kinds = [kind for kind in ("base", "rectified") if file_of(kind).exists()]
    if not kinds:
        print(
            "No verdicts to resample: `make demo`, then `python -m benchmarks.trained_seeds`.",
            file=sys.stderr,
        )
        return 0
    rows, figures = [], {}
    for kind in kinds:
        found, what = simulate(read_pool(kind), arguments.years, arguments.workers)
        rows += [replace(row, name=f"{kind}: {row.name}") for row in found]
        figures |= {f"{kind}: {name}": value for name, value in what.items()}
    show(publish("null_experiment", rows, ("numpy", "scipy"), figures), arguments.json)
    return 0


def simulate(pool: Pool, years: int, workers: int) -> tuple[list[Row], dict[str, float]]:
    """Return the rows and figures of one pool of trained seeds; power of the primary comes last."""
    correct, top = pool.all_correct.astype(np.int64), int(np.lcm.reduce(pool.asked.astype(int)))
    attributes = pool.right * (top // pool.asked[:, None].astype(np.int64))
    primaries = {"attr_acc": (attributes, top), "all_correct": (correct, 1)}
    blocks = [(block, min(BLOCK, years - start)) for block, start in enumerate(range(0, years, BLOCK))]
    with ProcessPoolExecutor(workers) as executor:
        sharp = [executor.submit(sharp_null, correct, *block) for block in blocks]
        pools = [executor.submit(pool_null, correct, *block) for block in blocks]
        nights = {name: executor.submit(power_nights, *each) for name, each in primaries.items()}
        checks = executor.submit(check_screen, correct), executor.submit(check_gate, correct)
    figures = about(pool)
    false = {
        rule: sum(years_with(each.result(), shares) for each in sharp) for rule, shares in SHARES.items()
    }
    for rule, num in false.items():
        figures[f"sharp null, {rule}: years with a false promotion"] = float(num)
    wrong, right = (sum(each.result()[side] for each in pools) for side in (0, 1))
    figures["pool null: years with a false promotion"] = float(wrong)
    figures["pool null: true promotions a year"] = right / years
    rows = [bounded("sharp null", false[CHOSEN], years), bounded("pool null", wrong, years)]
    for name, each in primaries.items():
        for rule, shares in SHARES.items():
            found = power_of(nights[name].result(), shares)
            figures |= {f"{name}, {rule}: {what}": value for what, value in found.items()}
        figures |= {f"{name}: {what}": value for what, value in forecast(*each).items()}
        power = figures[f"{name}, {CHOSEN}: power at +3 points"]
        rows.append(Row(f"power at +3 points of {name}", power, 0.9, power / 0.9, "share of nights"))
    figures["nights where screening and exact test disagree"] = float(checks[0].result())
    figures["looks where the gate's own primary rule disagrees"] = float(checks[1].result())
    return rows, figures


def about(pool: Pool) -> dict[str, float]:
    """Return what the eight seeds are like."""
    means = pool.all_correct.mean((1, 2))
    apart = [
        np.mean(pool.all_correct[a] != pool.all_correct[b])
        for a, b in itertools.combinations(range(len(means)), 2)
    ]
    return {
        "all_correct of the worst seed": float(means.min()),
        "all_correct of the best seed": float(means.max()),
        "attr_acc, mean of the seeds": float((pool.right / pool.asked[:, None]).mean()),
        "images on which two seeds disagree, mean share": float(np.mean(apart)),
    }


def sums_of(
    old: np.ndarray,
    new: np.ndarray,
    rng: np.random.Generator,
    gain: float = 0.0,
    top: int = 1,
    resampled: bool = True,
) -> np.ndarray:
    """Resample prompts and shuffle their noise; return each prompt's sum, new less old, at the looks [prompts, looks].

    Args:
        old: scores [prompts, noises], integers up to `top`.
        new: the same of the other seed.
        rng: draws everything.
        gain: by how much the challenger is better, as a share of `top`, its wrong ones being set right at random.
            With a gain each prompt first tosses a coin for which seed is the challenger.
        top: the best score.
        resampled: whether prompts are drawn with replacement, or taken once each.
    """
    prompts = rng.integers(len(old), size=len(old)) if resampled else np.arange(len(old))
    order = rng.random((len(old), old.shape[1])).argsort(1)
    old, new = (np.take_along_axis(each[prompts], order, 1) for each in (old, new))
    if gain:
        swap = rng.random((len(old), 1)) < 0.5
        old, new = np.where(swap, new, old), np.where(swap, old, new)
        new = new + rng.binomial(top - new, min(1.0, gain * top / (top - new).mean()))
    return (new - old).cumsum(1)[:, LOOKS - 1]


def p_values(sums: np.ndarray, weights: np.ndarray, screened: bool = True) -> np.ndarray:
    """Return one-sided p-values [nights, looks]; 1 where the screen says that they are large.

    Args:
        sums: of each prompt at the looks, [prompts, looks].
        weights: how each night takes each prompt, [nights, prompts]: how often, or with which sign.
        screened: whether the exact test is spared where it is not needed.
    """
    floats, factors = sums.astype(np.float32), weights.astype(np.float32)
    score = (factors @ floats) / np.sqrt(np.maximum(1, np.abs(factors) @ floats**2))
    p = np.where(score > CLEAR, np.exp(-(score.astype(float) ** 2) / 2), 1.0)
    asked = (score > SCREEN) & (score <= CLEAR) if screened else score > -np.inf
    for night, look in np.argwhere(asked):
        times = weights[night]
        p[night, look] = sign_flip_exact(np.repeat(np.sign(times) * sums[:, look], np.abs(times)))[0]
    return p


def sharp_null(scores: np.ndarray, block: int, years: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the year [n] and the p-values [n, looks] of every night that came near a promotion in a block of years."""
    rng, pairs = np.random.default_rng([1, block]), list(itertools.combinations(scores, 2))
    year, found = [], []
    for start in range(0, years * NIGHTS, TOGETHER):
        sums = sums_of(*pairs[rng.integers(len(pairs))], rng)
        p = p_values(sums, 2 * rng.integers(2, size=(TOGETHER, len(sums)), dtype=np.int8) - 1)
        near = np.flatnonzero(p.min(1) < 1)
        year.append((start + near) % years)
        found.append(p[near])
    year, found = np.concatenate(year), np.concatenate(found)
    return year, found


def is_promoted(p: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    """Return at which looks [nights, looks] the p-values are within a budget shared like this."""
    return p <= BUDGET.gate_alpha * np.array(shares)


def years_with(nights: tuple[np.ndarray, np.ndarray], shares: tuple[float, ...]) -> int:
    """Return in how many years one night or more promoted."""
    year, p = nights
    return len(np.unique(year[is_promoted(p, shares).any(1)]))


def pool_null(scores: np.ndarray, block: int, years: int) -> tuple[int, int]:
    """Return the number of years with a false promotion in a block of years, and of true promotions."""
    rng, truth = np.random.default_rng([2, block]), scores.mean((1, 2))
    outcomes = {
        pair: promotions(scores[pair[0]], scores[pair[1]], rng)
        for pair in itertools.permutations(range(len(scores)), 2)
    }
    champion, erred, right = rng.integers(len(scores), size=years), np.zeros(years, bool), 0
    for _ in range(NIGHTS):
        challenger = rng.integers(len(scores), size=years)
        for year in np.flatnonzero(challenger != champion):
            pair = int(champion[year]), int(challenger[year])
            if next(outcomes[pair]):
                is_better = truth[pair[1]] > truth[pair[0]]
                right, erred[year] = right + is_better, erred[year] or not is_better
                champion[year] = pair[1]
    return int(erred.sum()), int(right)


def promotions(old: np.ndarray, new: np.ndarray, rng: np.random.Generator) -> Iterator[bool]:
    """Yield, night after night without end, whether one seed is promoted over another."""
    num = len(old)
    every = num * np.arange(TOGETHER)[:, None]
    while True:
        sums = sums_of(old, new, rng, resampled=False)
        drawn = rng.integers(num, size=(TOGETHER, num)) + every
        times = np.bincount(drawn.ravel(), minlength=TOGETHER * num).reshape(TOGETHER, num)
        yield from (bool(each.any()) for each in is_promoted(p_values(sums, times), SHARES[CHOSEN]))


def power_nights(scores: np.ndarray, top: int) -> np.ndarray:
    """Return p-values [nights, looks] of challengers that are +3 points better and differ like two seeds."""
    rng, pairs = np.random.default_rng(3), itertools.cycle(itertools.permutations(scores, 2))
    once = np.ones((1, scores.shape[1]), np.int64)
    nights = (sums_of(*next(pairs), rng, POINTS, top) for _ in range(POWER_NIGHTS))
    return np.concatenate([p_values(sums, once) for sums in nights])


def power_of(p: np.ndarray, shares: tuple[float, ...]) -> dict[str, float]:
    """Return how often such challengers are promoted, and how many noise seeds a prompt that takes."""
    promoted = is_promoted(p, shares)
    reached = promoted.any(1)
    drawn = np.where(reached, LOOKS[promoted.argmax(1)], LOOKS[-1])
    return {
        "power at +3 points": float(reached.mean()),
        "noise seeds a prompt drawn at +3 points": float(drawn.mean()),
    }


def forecast(scores: np.ndarray, top: int) -> dict[str, float]:
    """Return the power at +3 points that a normal approximation expects of other numbers of prompts and noises."""
    spreads = []
    for number, (old, new) in enumerate(itertools.combinations(scores, 2)):
        rng = np.random.default_rng([4, number])
        gained = new + rng.binomial(top - new, min(1.0, POINTS * top / (top - new).mean()))
        swap = rng.random((len(old), 1)) < 0.5
        difference = np.where(swap, old - new, gained - old) / top
        within = difference.var(1, ddof=1).mean()
        spreads.append((max(0.0, difference.mean(1).var() - within / old.shape[1]), within))
    between, within = np.mean(spreads, axis=0)
    least = stats.norm.isf(BUDGET.alpha(len(LOOKS)))
    return {
        f"power forecast, {prompts} prompts x {noises} noise seeds": float(
            stats.norm.cdf(POINTS / np.sqrt((between + within / noises) / prompts) - least)
        )
        for prompts, noises in ((1000, 8), (1000, 16), (1000, 32), (2000, 8), (2000, 16))
    }


def check_screen(scores: np.ndarray) -> int:
    """Return on how many nights near the screen it hid or changed a decision at some look."""
    rng, pairs = np.random.default_rng(5), itertools.cycle(itertools.combinations(scores, 2))
    once, disagree = np.ones((1, scores.shape[1]), np.int64), 0
    for _ in range(CHECKED):
        sums = sums_of(*next(pairs), rng, POINTS / 2)
        exact, screened = (
            is_promoted(p_values(sums, once, screened=each), SHARES[CHOSEN]) for each in (False, True)
        )
        disagree += bool((exact != screened).any())
    return disagree


def check_gate(scores: np.ndarray, nights: int = 56) -> int:
    """Return at how many looks the gate's own rule, given rows image by image, says other than p <= alpha does."""
    rng, settings, disagree = np.random.default_rng(6), GateSettings(), 0
    for old, new in itertools.islice(itertools.cycle(itertools.permutations(scores, 2)), nights):
        gain = POINTS * (1 + rng.random()) / (1 - new).mean()
        drawn = rng.integers(len(old), size=len(old))
        better = np.maximum(new, rng.random(new.shape) < gain)[drawn]
        for look, num in enumerate(settings.budget.rounds, 1):
            champion, challenger = old[drawn][:, :num], better[:, :num]
            prompts = [str(prompt) for prompt in range(len(drawn)) for _ in range(num)]
            row = pair_by_pair("all_correct", challenger.ravel(), champion.ravel(), prompts)
            rule = primary_rule(row, settings, look, gates_spent=0)
            p = sign_flip_exact((challenger - champion).sum(1))[0]
            disagree += (rule.verdict == "kept") != (p <= BUDGET.alpha(look))
    return disagree


def bounded(name: str, num: int, years: int) -> Row:
    """Return the row of a null: upper end of the Clopper-Pearson 95 % interval of years with a false promotion."""
    bound = float(stats.beta.ppf(0.975, num + 1, years - num)) if num < years else 1.0
    return Row(f"years with a false promotion, {name}", bound, 0.05, 0.05 / bound, "upper 95 % bound")


if __name__ == "__main__":
    sys.exit(main())
