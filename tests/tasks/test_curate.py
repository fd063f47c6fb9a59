"""What curation says of the files it refused."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.scoring_models import identify_models
from tasks.artifacts import ArtifactStore
from tasks.curate import CURATE, MAX_SAID, _curate, _say_refused, identify_source
from tasks.progress import board
from tasks.run_key import REUSED, RunBook
from tasks.stage_run import RunContext
from tests.fluxmodel.data.pictures import encoded, picture
from tests.fluxmodel.data.tiny_scorers import save_classifier
from tests.kit import ROOT


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


@pytest.fixture
def mlflow_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.tracking.client", lambda _: (_ for _ in ()).throw(ConnectionError()))


@pytest.mark.usefixtures("mlflow_is_away")
def test_what_changed_in_the_source_is_all_that_is_done_again_and_why_says_so(home, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = tmp_path / "photos"
    folder.mkdir()

    def put(seed: int, name: int) -> None:
        (folder / f"{name}.png").write_bytes(encoded(picture(seed)))
        (folder / f"{name}.txt").write_text(f"picture {name}")

    def curated() -> str:
        inputs = {"source": identify_source(str(folder)), "rules": CurationRules()}
        CURATE.cache_key({"context": RunContext(home=str(home.root)), **inputs})
        CURATE.run(RunContext(home=str(home.root)), _curate, **inputs)
        book = RunBook(home)
        return book.reason(book.history("curate")[-1])

    for name in range(5):
        put(name, name)
    assert curated() == "ran: first time (5 decoded)"
    put(50, 1)
    for name in range(10, 20):
        put(name, name)
    (folder / "2.txt").write_text("other words")
    told = "11 decoded; 10 new (10.png, 11.png, 12.png, ...), 1 replaced (1.png), 1 caption changed (2.png)"
    reason = curated()
    assert reason.startswith("re-ran because source.fingerprint changed")
    assert reason.endswith(f"({told})")
    assert curated() == REUSED


@pytest.mark.usefixtures("mlflow_is_away")
def test_a_model_that_scores_is_part_of_the_key_by_its_content_not_its_place(home, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(4):
        (folder / f"{seed}.png").write_bytes(encoded(picture(seed)))
        (folder / f"{seed}.txt").write_text(f"picture {seed}")
    first = save_classifier(tmp_path / "first", ("normal", "nsfw"))

    def curated(**given: Path) -> str:
        models = identify_models({name: str(place) for name, place in given.items()})
        inputs = {"source": identify_source(str(folder)), "rules": CurationRules(), "models": models}
        CURATE.cache_key({"context": RunContext(home=str(home.root)), **inputs})
        place = ArtifactStore(home).path(CURATE.run(RunContext(home=str(home.root)), _curate, **inputs))
        assert [*json.loads((place / "curation.json").read_text())["models"]] == [*given]
        book = RunBook(home)
        return book.reason(book.history("curate")[-1])

    assert curated().startswith("ran: first time")
    assert "models" in curated(safety=first)
    shutil.copytree(first, tmp_path / "moved")
    assert curated(safety=tmp_path / "moved") == REUSED
    other = save_classifier(tmp_path / "other", ("normal", "nsfw"), seed=1)
    assert "models" in curated(safety=other)
