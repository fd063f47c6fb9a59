"""How long yet, told from a spool: over resumptions, stalls and half-written lines."""

import json

import pytest

from tasks.pace import Pace, pace_of, pace_said, read_pace, seconds_per_step, seconds_said
from tasks.spool import SpoolLine


def line(step: int, seconds: float, total: int = 1000, **other) -> SpoolLine:
    return SpoolLine(step=step, total=total, metrics={}, seconds=seconds, **other)


def steady(first: int, last: int, start: float, each: float = 0.1) -> list[SpoolLine]:
    return [line(step, start + each * (step - first)) for step in range(first, last, 10)]


def test_a_steady_child_is_told_exactly():
    pace = pace_of(steady(10, 510, 20.0), written=100.0, now=101.0)
    assert pace is not None
    assert (pace.step, pace.total) == (500, 1000)
    assert pace.per_second == pytest.approx(10)
    assert pace.left_seconds == pytest.approx(50 - 1)


def test_one_stall_does_not_move_the_estimate():
    lines = [*steady(10, 310, 5.0), *steady(310, 610, 5.0 + 3600)]  # the machine slept for an hour
    assert seconds_per_step(lines) == pytest.approx(0.1, rel=0.01)


def test_a_resumption_falls_back_and_does_not_move_the_estimate():
    lines = [
        *steady(10, 410, 5.0),
        *steady(300, 410, 75.0),
    ]  # killed at 400, went on from 290, 25 s of start-up
    assert seconds_per_step(lines) == pytest.approx(0.1, rel=0.01)


def test_what_recurs_is_part_of_the_pace():
    lines, seconds = [], 0.0
    for step in range(10, 650, 10):
        seconds += 1.0 + (4.0 if step % 40 == 0 else 0.0)  # sample images after each 40 steps
        lines.append(line(step, seconds))
    assert seconds_per_step(lines) == pytest.approx(0.2, rel=0.05)


def test_the_recent_pace_counts():
    lines = [*steady(10, 1010, 0.0, each=1.0), *steady(1010, 2010, 1000.0, each=0.01)]
    assert seconds_per_step(lines) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(
    "lines", [[line(10, 8.0)], [line(10, 8.0), line(10, 9.0)], [line(10, 8.0), line(5, 9.0)]]
)
def test_too_little_is_not_guessed_from(lines):
    pace = pace_of(lines, written=0.0, now=1.0)
    assert pace is not None
    assert pace.left_seconds is None


def test_silence_is_said_and_the_time_left_is_not():
    pace = pace_of(steady(10, 510, 20.0), written=100.0, now=100.0 + 240)
    assert pace is not None
    assert pace.is_silent
    said = pace_said(pace)
    assert "no news for 4 min" in said
    assert "left" not in said


def test_a_child_that_reports_every_ten_minutes_is_not_silent_after_five():
    lines = [line(number, 600.0 * number) for number in range(1, 6)]
    pace = pace_of(lines, written=0.0, now=300.0)
    assert pace is not None
    assert not pace.is_silent
    assert "10 min each" in pace_said(pace)


def test_the_newest_of_several_children_is_read_and_its_torn_end_passed_over(tmp_path):
    assert read_pace(tmp_path) is None
    early, late = tmp_path / "pairs" / "output", tmp_path / "output"
    for folder, first in ((early, 1), (late, 100)):
        folder.mkdir(parents=True)
        lines = [
            json.dumps({"step": first + n, "total": 200, "seconds": n, "metrics": {"loss": 2.0}})
            for n in range(9)
        ]
        (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 150, "tot']))
    import os

    os.utime(early / "metrics.jsonl", (1, 1))
    pace = read_pace(tmp_path)
    assert pace is not None
    assert pace.step == 108 - 1 + 1
    assert pace.metrics == {"loss": 2.0}
    assert pace.per_second == pytest.approx(1)


def test_a_large_spool_is_read_at_its_end_alone(tmp_path):
    (tmp_path / "output").mkdir()
    with (tmp_path / "output" / "metrics.jsonl").open("w") as spool:
        for step in range(20_000):
            spool.write(
                json.dumps({"step": step, "total": 40_000, "seconds": step / 4, "metrics": {}}) + "\n"
            )
    pace = read_pace(tmp_path)
    assert pace is not None
    assert (pace.step, pace.per_second) == (19_999, pytest.approx(4))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (3, "3 s"),
        (59.7, "1 min"),
        (200, "3 min 20 s"),
        (605, "10 min"),
        (3700, "1 h 1 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_time_spans_in_words(seconds, said):
    assert seconds_said(seconds) == said


def test_a_pace_in_words():
    pace = Pace(620, 1500, "", 12.34, 71.0, 1.0, False, {"loss": 0.41234})
    assert pace_said(pace) == "620/1500 (41 %), 12.3/s, about 1 min 11 s left, loss 0.4123"
