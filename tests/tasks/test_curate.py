"""What curation says of the files it refused."""

import json
from pathlib import Path
from types import SimpleNamespace

from tasks.curate import MAX_SAID, _curate, _say_refused
from tasks.progress import board


def test_the_count_is_of_all_refused_and_the_examples_say_where_the_others_are(tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(type(board()), "say", lambda _, text: said.append(text))
    entry = {"path": "a.png", "reason": "truncated", "detail": "ends early"}
    record = {"seen": 900, "kept": 599, "refused": [entry] * 200, "num_refused": 301}
    (tmp_path / "curation.json").write_text(json.dumps(record))
    rules = SimpleNamespace(model_dump=lambda mode: {})
    given = {}

    def call(_, **arguments):
        given.update(arguments)
        Path(arguments["changes"]).write_text(json.dumps({"sentence": "2 decoded; 2 new (a, b)"}))
        return tmp_path

    run = SimpleNamespace(call=call, work=tmp_path, home=SimpleNamespace(root=tmp_path))
    outcome = _curate(run, SimpleNamespace(data="folder"), rules)  # type: ignore[arg-type]
    assert outcome.gave == "599 of 900 images kept, 301 refused; 2 decoded; 2 new (a, b)"
    assert outcome.changed == "2 decoded; 2 new (a, b)"
    assert given["cache"] == str(tmp_path / "cache")
    assert len(said) == MAX_SAID + 1
    assert said[-1].startswith(f"curate: and {301 - MAX_SAID} more; decisions.parquet")
    said.clear()
    _say_refused([entry], 1)
    assert len(said) == 1
