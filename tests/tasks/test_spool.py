import json

from tasks.spool import SpoolReader, parse_line


def line(step: int) -> str:
    return json.dumps({"step": step, "total": 9, "metrics": {"loss": 1.5}, "seconds": 0.5}) + "\n"


def test_only_whole_lines_are_read_and_none_twice(tmp_path):
    spool = tmp_path / "metrics.jsonl"
    reader = SpoolReader(spool)
    assert reader.read() == []
    spool.write_text(line(1) + line(2)[:10])
    assert [entry.step for entry in reader.read()] == [1]
    spool.write_text(line(1) + line(2) + line(3))
    assert [entry.step for entry in reader.read()] == [2, 3]
    assert reader.read() == []
    assert [entry.step for entry in SpoolReader(spool, len(line(1))).read()] == [2, 3]


def test_a_line_a_killed_writer_left_unfinished_costs_no_other():
    entry = parse_line('{"step": 7, "tot' + line(4))
    assert entry is not None
    assert entry.step == 4
    assert parse_line('{"step": 7, "tot') is None
    assert parse_line("") is None


def test_missing_measurements_are_left_out():
    entry = parse_line('{"step": 3, "total": 5, "metrics": {"a": null, "b": 2}, "seconds": 1}')
    assert entry is not None
    assert entry.metrics == {"b": 2.0}
