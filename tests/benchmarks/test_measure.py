import json

import pytest

from benchmarks import measure


def test_contestants_take_turns_and_the_first_round_does_not_count():
    calls: list[str] = []
    seconds = measure.median_seconds(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3
    )
    assert calls == ["a", "b"] * 4
    assert set(seconds) == {"a", "b"}


@pytest.mark.parametrize(("ours", "peer", "ratio"), [(1.0, 2.0, 2.0), (2.0, 1.0, 0.5)])
def test_the_ratio_is_above_one_where_ours_is_faster(ours, peer, ratio):
    assert measure.faster("x", ours, peer).ratio == ratio


def test_a_result_says_where_it_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    result = measure.publish("x", [measure.faster("row", 1.0, 2.0)], ("numpy",), bare=0.1)
    assert json.loads((tmp_path / "results" / "x.json").read_text()) == result
    assert result["rows"] == [{"name": "row", "ours": 1.0, "peer": 2.0, "ratio": 2.0, "unit": "seconds"}]
    assert result["versions"]["numpy"]
    assert result["limits"] == {"bare": 0.1}
    assert {"processor", "cores", "system"} == set(result["device"])


def test_a_result_is_one_line_of_json_on_request(capsys):
    measure.show({"rows": [], "limits": {}}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"rows": [], "limits": {}}
