"""What earlier lives of a job took is read from the end of its spool."""

import json

import pytest

from fluxmodel.progress import seconds_spooled


def line(seconds: float) -> str:
    return json.dumps({"step": 1, "total": 9, "metrics": {}, "seconds": seconds}) + "\n"


def test_a_job_that_never_ran_took_nothing(tmp_path):
    assert seconds_spooled(tmp_path / "metrics.jsonl") == 0
    (tmp_path / "metrics.jsonl").touch()
    assert seconds_spooled(tmp_path / "metrics.jsonl") == 0


@pytest.mark.parametrize("end", ["", '{"step": 3, "sec', '{"step": 3, "sec\n', "7\n"])
def test_the_last_whole_line_counts(end, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(line(1.5) + line(4.0) + end)
    assert seconds_spooled(tmp_path / "metrics.jsonl") == 4.0


def test_of_a_long_spool_the_end_is_enough(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(line(1.0) * 5000 + line(9.0))
    assert seconds_spooled(tmp_path / "metrics.jsonl") == 9.0
