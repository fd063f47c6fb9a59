"""The vigil over a champion: what raises the alarm, what does not, and how often luck does in a year of nights."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.compare import pair_by_pair
from evaluation.drift import FILE, ROWS, DriftSettings, is_drifted, judge_night
from fluxmodel.errors import InputError
from tests.kit import write_evaluation

SETTINGS = DriftSettings()
N = 200


def write_night(directory: Path, night: int, same, fresh, differing=(), **identity) -> Path:
    """Write what a night leaves; `same` is None where tonight is measured otherwise than at promotion."""
    directory.mkdir(parents=True)
    known = json.loads((directory.parent / "promotion" / "evaluation.json").read_text())["identity"]
    told = {"night": night, "identity": known | identity, "differing": list(differing)}
    (directory / FILE).write_text(json.dumps(told))
    for name, right in (("same", same), ("fresh", fresh)):
        if right is not None:
            seeds = np.arange(N) + (0 if name == "same" else 1000 * (night + 1))
            columns = {"curve": ["base_guided"] * N, "steps": [8] * N, "guidance": [2.0] * N,
                       "prompt": [f"p{i}" for i in range(N)], "seed": seeds, "all_correct": right}  # fmt: skip
            pq.write_table(pa.table(columns), directory / ROWS[name])
    return directory


def drawn(share: float, seed: int) -> np.ndarray:
    """Which of the images of one night are right, where each is with probability `share`."""
    return np.random.default_rng(seed).random(N) < share


@pytest.fixture
def promoted() -> np.ndarray:
    return drawn(0.8, 0)


@pytest.fixture
def promotion(tmp_path: Path, promoted: np.ndarray) -> Path:
    return write_evaluation(tmp_path / "promotion", promoted)


def test_the_first_night_is_what_later_ones_are_compared_with(tmp_path, promotion, promoted):
    first = write_night(tmp_path / "first", 0, promoted, drawn(0.8, 1))
    night = judge_night(promotion, first, None, SETTINGS)
    assert (night.verdict, [look.name for look in night.looks]) == ("first", ["same"])
    assert (night.looks[0].row.difference, night.looks[0].row.p_worse) == (0.0, 1.0)  # nothing changed at all
    assert "Later nights are compared with this one." in night.said
    again = judge_night(promotion, first, first, SETTINGS)  # looked at twice in a day: no second test
    assert (again.verdict, [look.name for look in again.looks]) == ("steady", ["same"])
    later = write_night(tmp_path / "later", 1, promoted, drawn(0.8, 2))
    steady = judge_night(promotion, later, first, SETTINGS)
    assert (steady.verdict, [look.name for look in steady.looks]) == ("steady", ["same", "fresh"])
    assert f"all_correct is {drawn(0.8, 2).mean():.4g} [" in steady.said


def test_a_machine_that_draws_worse_is_found_by_the_same_noise_in_the_first_night(
    tmp_path, promotion, promoted
):
    """16 of 160 right images come out wrong: paired, p = 2^-16; two draws of other noise differ by as much often."""
    worse = promoted.copy()
    worse[np.flatnonzero(promoted)[:16]] = False
    night = judge_night(promotion, write_night(tmp_path / "first", 0, worse, drawn(0.8, 1)), None, SETTINGS)
    assert night.verdict == "drifted"
    assert night.looks[0].row.p_worse == pytest.approx(2.0**-16)
    assert "on the same noise (exact p = 1.5e-05), below its interval" in night.said
    few = promoted.copy()
    few[np.flatnonzero(promoted)[:8]] = False  # p = 2^-8: a year of nights would see that by luck
    night = judge_night(promotion, write_night(tmp_path / "few", 0, few, drawn(0.8, 1)), None, SETTINGS)
    assert night.verdict == "first"


def test_a_model_that_got_worse_is_found_by_other_noise(tmp_path, promotion, promoted):
    first = write_night(tmp_path / "first", 0, promoted, drawn(0.8, 1))
    night = write_night(tmp_path / "later", 5, None, drawn(0.55, 2), differing=["code"])
    found = judge_night(promotion, night, first, SETTINGS)
    assert found.verdict == "drifted"
    assert [(look.name, look.drifted) for look in found.looks] == [("fresh", True)]
    assert found.differing == ["code"]
    assert judge_night(promotion, night, first, DriftSettings(min_effect=0.5)).verdict == "steady"


def test_a_better_night_is_no_alarm(tmp_path, promotion, promoted):
    first = write_night(tmp_path / "first", 0, promoted, drawn(0.5, 1))
    better = write_night(tmp_path / "later", 1, np.ones(N, bool), np.ones(N, bool))
    assert judge_night(promotion, better, first, SETTINGS).verdict == "steady"


def test_a_loss_that_stays_within_the_interval_of_the_promotion_is_no_alarm(promoted):
    row = pair_by_pair(
        "all_correct", np.zeros(N) + (np.arange(N) < 150), np.ones(N), [str(i) for i in range(N)]
    )
    assert is_drifted(row, 0.76, SETTINGS)
    assert not is_drifted(row, 0.74, SETTINGS)


def test_nights_measured_otherwise_are_not_compared(tmp_path, promotion, promoted):
    first = write_night(tmp_path / "first", 0, promoted, drawn(0.8, 1))
    other = write_night(tmp_path / "later", 1, None, drawn(0.1, 2), differing=["judge"], judge="another")
    found = judge_night(promotion, other, first, SETTINGS)
    assert (found.verdict, found.looks) == ("incomparable", [])
    assert "measured otherwise than the first night (judge)" in found.said


@pytest.mark.parametrize("ruin", ["missing", "cut off", "no column"])
def test_a_ruined_night_is_one_sentence(tmp_path, promotion, promoted, ruin):
    place = write_night(tmp_path / "first", 0, promoted, drawn(0.8, 1))
    if ruin == "missing":
        (place / FILE).unlink()
    elif ruin == "cut off":
        (place / FILE).write_text("{")
    else:
        table = pq.read_table(place / ROWS["fresh"]).drop_columns(["all_correct"])
        pq.write_table(table, place / ROWS["fresh"])
    with pytest.raises(InputError, match="keep the vigil again") as raised:
        judge_night(promotion, place, None, SETTINGS)
    assert "\n" not in str(raised.value)


# A year of nights


def test_a_year_of_nights_on_an_unchanged_champion_seldom_raises_an_alarm():
    """At most 5 % of years, although all nights share one first night, and the promotion was the luckiest of 20.

    What it is held against fails: nights compared with the promotion itself, or with its interval alone.
    """
    years = simulated_years(num_years=400, num_nights=365, luckiest_of=20)
    allowed = SETTINGS.yearly_alpha
    assert years["ours"] <= allowed
    assert years["promotion"] > 2 * allowed
    assert years["interval"] > 0.9


def test_a_champion_that_lost_two_fifths_is_found_within_two_nights():
    assert simulated_years(num_years=200, num_nights=2, loss=0.4)["ours"] > 0.9


def simulated_years(num_years: int, num_nights: int, luckiest_of: int = 1, loss: float = 0.0) -> dict:
    """Share of years with an alarm: by the rule, by the same test against the promotion, and by its interval alone."""
    generator = np.random.default_rng(0)
    table = tail_table(N)
    found: dict[str, int] = dict.fromkeys(("ours", "promotion", "interval"), 0)
    for _ in range(num_years):
        chance = generator.beta(2.0, 1.0, N).astype(np.float32)  # some prompts are hard
        candidates = generator.random((luckiest_of, N), dtype=np.float32) < chance
        promoted = candidates[candidates.sum(1).argmax()]
        first = generator.random(N, dtype=np.float32) < chance
        nights = generator.random((num_nights, N), dtype=np.float32) < chance * (1 - loss)
        low = promoted.mean() - 1.96 * math.sqrt(promoted.mean() * (1 - promoted.mean()) / N)
        beyond = nights.mean(1) < low
        for name, against in (("ours", first), ("promotion", promoted)):
            lost, won = (against & ~nights).sum(1), (~against & nights).sum(1)
            shown = table[lost + won, lost] <= SETTINGS.look_alpha
            found[name] += bool((shown & beyond & (lost - won >= SETTINGS.min_effect * N)).any())
        found["interval"] += bool(beyond.any())
    return {name: count / num_years for name, count in found.items()}


def tail_table(n: int) -> np.ndarray:
    """P(at least k of m fair coins) as [m, k]: what the exact test gives where each prompt has one image."""
    table = np.ones((n + 1, n + 2))
    for m in range(1, n + 1):
        share = np.array([math.comb(m, k) / 2**m for k in range(m + 1)])
        table[m, : m + 1] = share[::-1].cumsum()[::-1]
        table[m, m + 1 :] = 0.0
    return table


def test_the_simulation_tests_as_the_vigil_does():
    one, other = drawn(0.7, 3).astype(float), drawn(0.8, 4).astype(float)
    row = pair_by_pair("all_correct", one, other, [str(i) for i in range(N)])
    lost, won = int(((other == 1) & (one == 0)).sum()), int(((other == 0) & (one == 1)).sum())
    assert tail_table(N)[lost + won, lost] == pytest.approx(row.p_worse, rel=1e-9)
