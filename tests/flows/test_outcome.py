"""What is told at the end of a run, whichever stages it had."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.outcome import PipelineOutcome, _write_report
from flows.summary import print_summary
from tasks.gate import WAITING


def outcome(**more):
    made = {"stages": [], "model_name": "m", "model_version": "3", "evaluation": "report.html", "figures": {"a": "1"},
            "mlflow_url": "", "mlflow_run_id": "r", "prefect_url": "", "seconds": 1.0}  # fmt: skip
    return PipelineOutcome(**{**made, **more})


@pytest.mark.parametrize(
    ("more", "shown", "hidden"),
    [
        (
            {
                "verdict": "promote",
                "reasons": ["Shown better.", "Second."],
                "aliases": ["challenger", "champion"],
            },
            ["verdict  promote: Shown better.", "m version 3, aliases challenger and champion"],
            ["Second."],
        ),
        (
            {"verdict": "promote", "reasons": ["Shown better.", f"{WAITING}`fluxline promote m`."]},
            ["approval It waits for a person's approval: `fluxline promote m`."],
            [],
        ),
        ({"aliases": ["challenger"]}, ["m version 3, alias challenger"], ["verdict"]),
        ({}, ["m version 3"], ["alias", "verdict"]),
    ],
)
def test_the_summary_closes_with_verdict_and_aliases(capsys, more, shown, hidden):
    nobody: Any = None
    print_summary(nobody, outcome(**more).model_dump())
    text = capsys.readouterr().err
    assert all(each in text for each in shown)
    assert not any(each in text for each in hidden)


@pytest.mark.parametrize("stages", [(), ("caption", "finetune", "gate")])
def test_the_report_is_given_what_the_stages_left(tmp_path, monkeypatch, stages):
    given = {}
    monkeypatch.setattr(
        "evaluation.report.write_report",
        lambda directory, path, **more: given.update(more, evaluation=directory) or path,
    )
    places = {name: tmp_path / name for name in ("curate", "evaluate", "register", *stages)}
    run: Any = SimpleNamespace(home=SimpleNamespace(root=tmp_path))
    book: Any = None
    path = _write_report(run, outcome(), places, book)
    assert path == Path(tmp_path / "reports" / "m-version-3.html")
    assert given["evaluation"] == tmp_path / "evaluate"
    expected = {"captions": "caption", "decision": "gate", "lora": "finetune"}
    assert {name: given[name] for name in expected} == {n: places.get(s) for n, s in expected.items()}
