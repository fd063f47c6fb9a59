"""The verb compare, as a user types it, over a real MLflow registry (SQLite)."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from flows.cli import run_command
from flows.compare import compare
from fluxmodel.errors import IncomparableError
from tasks import registry, tracking
from tasks.artifacts import ArtifactStore
from tasks.compare import find_side
from tasks.home import Home
from tasks.run_key import RunBook, RunRecord, StageIdentity
from tests.kit import write_evaluation

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and SQLAlchemy warn of their own deprecations
NAME = "shapes"
RIGHT = np.arange(200)


def register(home: Home, evaluation: Path | None, steps: int) -> None:
    """Make the next version: its evaluation in the store, its training in the run book."""
    tags = {}
    if evaluation is not None:
        ref = ArtifactStore(home).put(evaluation, "evaluation")
        identity = StageIdentity(
            stage="train",
            parameters={"job": {"steps": steps}},
            upstream={},
            seed=steps,
            code={"fluxmodel.a": str(steps)},
        )
        record = RunRecord(
            run_key=identity.run_key, identity=identity, artifact=ref, seconds=1.0, environment={"torch": "2"}
        )
        RunBook(home).write(record)
        tags = {"evaluate.digest": ref.digest, "evaluate.uri": ref.uri, "train.run_key": identity.run_key}
    tracking.client(home).create_model_version(NAME, "file:///nowhere", tags=tags)


@pytest.fixture(scope="module")
def registered(tmp_path_factory) -> Path:
    """Versions 1 (90 % right), 2 (60 %), 3 (another judge's), 4 (no evaluation); 1 is the champion."""
    home, made = Home(tmp_path_factory.mktemp("registry")).make(), tmp_path_factory.mktemp("made")
    tracking.client(home).create_registered_model(NAME)
    register(home, write_evaluation(made / "1", RIGHT < 180), 40)
    register(home, write_evaluation(made / "2", RIGHT < 120), 60)
    register(home, write_evaluation(made / "3", RIGHT < 120, judge="another"), 60)
    register(home, None, 0)
    tracking.client(home).set_registered_model_alias(NAME, "champion", "1")
    return home.root


@pytest.fixture
def home(registered: Path, fluxline_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    shutil.copytree(registered, fluxline_home)
    for name in (
        "PREFECT_API_URL",
        "MLFLOW_TRACKING_URI",
    ):  # what the verbs find running must not outlive a test
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return Home(fluxline_home)


def compared(capfd, *arguments: str) -> dict:
    assert run_command(["compare", *arguments, "--json"]) == 0
    return json.loads(capfd.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(
    "what", ["1", "v1", "champion", "@champion", "@v1", "shapes@1", "shapes@v1", "shapes@champion"]
)
def test_a_version_is_named_in_every_way_there_is(home, what):
    account = find_side(home, what).account
    assert (account.name, account.version, account.label) == (NAME, "1", "version 1")
    assert account.aliases == ["champion"]


def test_the_later_version_is_the_challenger_in_whichever_order(home, capfd):
    first, again = (compared(capfd, *names, "--name", NAME) for names in (("v1", "v2"), ("2", "champion")))
    assert (first["a"], first["b"], first["verdict"]) == ("2", "1", "reject")
    assert first["primary"]["difference"] == pytest.approx(-0.3)
    assert first["files"]["html"] == "comparisons/shapes-1-2/comparison.html"
    assert again == first
    assert first["mlflow_run_id"]


def test_what_changed_is_in_the_object_and_files_lie_where_asked(home, tmp_path, capfd):
    found = compared(capfd, "1", "2", "--out", str(tmp_path / "here"))
    assert {path.name for path in (tmp_path / "here").iterdir()} == {
        "comparison.html",
        "comparison.png",
        "comparison.json",
    }
    assert found["changes"]["settings"] == [
        {"stages": ["train"], "name": "job.steps", "old": 40, "new": 60},
        {"stages": ["train"], "name": "seed", "old": 40, "new": 60},
    ]
    assert found["changes"]["code"] == [{"stage": "train", "modules": ["fluxmodel.a"]}]
    assert found["changes"]["environment"] == []
    assert found["data"] is None


def test_the_comparison_is_a_run_that_both_versions_link_to(home, capfd):
    found = compared(capfd, "1", "2")
    run = tracking.client(home).get_run(found["mlflow_run_id"])
    assert (run.info.run_name, run.info.status) == ("compare shapes 1 with 2", "FINISHED")
    assert run.data.metrics["difference.all_correct"] == pytest.approx(-0.3)
    logged = {each.path for each in tracking.client(home).list_artifacts(found["mlflow_run_id"])}
    assert {"comparison.html", "comparison.png"} <= logged
    for one, other in (("1", "2"), ("2", "1")):
        page = f"runs/{found['mlflow_run_id']}/artifacts/comparison.html?workflowType=machine_learning"
        assert registry.find_version(home, NAME, one).tags[f"comparison.{other}"].endswith(page)
        told = tracking.client(home).get_model_version(NAME, one).description
        assert re.fullmatch(
            rf"\n\n## Compared\n\n- \[with version {other}\]\(#/experiments/\d+/{re.escape(page)}\): reject",
            told,
        )
    compared(capfd, "1", "2")
    told = tracking.client(home).get_model_version(NAME, "1").description
    assert told.count("with version 2") == 1


def test_what_is_incomparable_leaves_with_three_and_names_the_field(home, capfd):
    assert run_command(["compare", "2", "3"]) == 3
    said = capfd.readouterr()
    assert "differ in judge: 'another' against ''" in said.err
    assert "What changed is told in comparisons/shapes-2-3/comparison.html." in said.err
    assert said.err.count("\n") == 1
    assert "all correct" not in said.out


def test_a_champion_that_the_gate_evaluated_again_is_compared_on_those_terms(home, tmp_path, capfd):
    again = ArtifactStore(home).put(
        write_evaluation(tmp_path / "again", RIGHT < 100, judge="another"), "evaluation"
    )
    (tmp_path / "made").mkdir()
    decision = {"champion": {"name": NAME, "version": "2"}, "reevaluated": again.digest}
    (tmp_path / "made" / "decision.json").write_text(json.dumps(decision))
    ref = ArtifactStore(home).put(tmp_path / "made", "decision")
    version = registry.find_version(home, NAME, "3")
    registry.set_tags(home, version, {"gate.digest": ref.digest, "gate.run_key": "unknown"})
    found = compared(capfd, "2", "3")
    assert (found["primary"]["champion"], found["primary"]["challenger"]) == (0.5, 0.6)
    page = Path(found["files"]["html"]).read_text()
    assert "Version 2 was evaluated again on the terms of version 3 by its gate (judge)." in page
    assert run_command(["compare", "1", "3"]) == 3  # of that one there is no other evaluation


def test_directories_are_compared_the_first_as_challenger(home, tmp_path, capfd):
    a, b = (write_evaluation(tmp_path / name, n > RIGHT) for name, n in (("a", 180), ("b", 120)))
    assert run_command(["compare", str(a), str(b)]) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "images all correct 60.0 % 90.0 % +30.0, +2" in said
    assert "against b, a would be: promote" in said
    found = compared(capfd, str(b), str(a))
    assert (found["verdict"], found["a"], found["mlflow_run_id"]) == ("reject", "b", "")
    assert Path("comparisons/b-a/comparison.html").is_file()
    page = Path("comparisons/b-a/comparison.html").read_text()
    assert "is not known" in page


def test_the_flow_shows_verdict_numbers_and_the_way_to_the_page(home, monkeypatch):
    shown = {}
    for kind in ("markdown", "table", "link"):
        monkeypatch.setattr(
            f"prefect.artifacts.create_{kind}_artifact",
            lambda content, key, **_: shown.update({key: content}),
        )
    found = compare.fn("v1", "2")
    assert found["verdict"] == "reject"
    assert shown["comparison"].startswith("**shapes: version 2 against version 1: reject**")
    assert str(home.root / "comparisons" / "shapes-1-2" / "comparison.html") in shown["comparison"]
    [row] = shown["comparison-numbers"]
    assert (row["number"], row["version 1"], row["version 2"]) == ("images all correct", "90.0 %", "60.0 %")
    with pytest.raises(IncomparableError, match="judge"):
        compare.fn("2", "3")
    assert "incomparable" in shown["comparison"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["1"], 2, "b is missing"),
        (["no/where", "1"], 2, "no/where is no directory"),
        (["shapes@", "1"], 2, "shapes@ is no directory"),
        (["shapes@7", "1"], 2, "'shapes' has no version '7'"),
        (["v7", "v1"], 2, "'shapes' has no version '7'; it has 1, 2, 3, 4 and the aliases champion (1)"),
        (["1", "2", "--name", "nobody"], 2, "there is no such model"),
        ([".", "."], 2, "evaluation.json cannot be read"),
        (["1", "4"], 1, "The evaluation of shapes version 4 is neither in the store"),
    ],
)
def test_bad_usage_is_one_sentence(home, capfd, arguments, code, said):
    assert run_command(["compare", *arguments]) == code
    printed = capfd.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
