"""What a child prints and measures appears while it works, thinned, and nothing of it is lost."""

import json
import time
from pathlib import Path

import pytest

from tasks.live_log import MOST_LINES, LiveLog
from tests.kit import wait_until


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "output").mkdir()
    (tmp_path / "log.txt").write_text("of an earlier life\n")
    report(tmp_path, range(1, 5))
    return tmp_path


def report(work: Path, steps: range) -> None:
    with (work / "output" / "metrics.jsonl").open("a") as spool:
        for step in steps:
            entry = {"step": step, "total": 100, "metrics": {"loss": 1 / step}, "seconds": step / 2}
            spool.write(json.dumps(entry) + "\n")


def add(path: Path, text: str) -> None:
    with path.open("a") as stream:
        stream.write(text)


def test_every_printed_line_is_passed_on_while_the_child_works_and_half_ones_when_whole(work):
    said: list[str] = []
    with LiveLog(work, said.append, every=0.02):
        add(work / "log.txt", "loading\nhalf a ")
        wait_until(lambda: "loading" in said, seconds=20)
        assert not any("half" in line for line in said)
        add(work / "log.txt", "line\n")
        wait_until(lambda: "half a line" in said, seconds=20)
        add(work / "log.txt", "the last words, without an end")
    assert said == ["loading", "half a line", "the last words, without an end"]


def test_measurements_are_thinned_and_the_last_is_told(work):
    said: list[str] = []
    with LiveLog(work, said.append, every=30.0):
        for start in range(5, 60, 5):
            report(work, range(start, start + 5))
            time.sleep(0.01)
    assert len(said) == 1
    assert said[0].startswith("59/100 (59 %), 2/s, about 20 s left, loss 0.01695")


def test_nothing_new_is_nothing_to_say(work):
    said: list[str] = []
    with LiveLog(work, said.append, every=0.02):
        time.sleep(0.2)
    assert said == []


def test_a_later_child_of_the_stage_is_followed_too(work):
    said: list[str] = []
    with LiveLog(work, said.append, every=0.02):
        (work / "pairs" / "output").mkdir(parents=True)
        add(work / "pairs" / "log.txt", "drawing pairs\n")
        wait_until(lambda: "drawing pairs" in said, seconds=20)
    assert said == ["drawing pairs"]


def test_a_flood_is_cut_and_said_to_be(work):
    said: list[str] = []
    log = LiveLog(work, said.append)
    add(work / "log.txt", "".join(f"\rprogress {n}\n" for n in range(MOST_LINES + 7)))
    with log:
        pass
    assert said[0] == "progress 0"
    assert said[-1] == f"... and 7 more lines in {work / 'log.txt'}"
    assert len(said) == MOST_LINES + 1


def test_a_log_that_cannot_be_read_stops_nobody(work):
    said: list[str] = []
    with LiveLog(work, said.append, every=0.02):
        (work / "log.txt").unlink()
        (work / "log.txt").mkdir()
        report(work, range(5, 9))
        wait_until(lambda: said, seconds=20)
    assert said[-1].startswith("8/100 (8 %)")
