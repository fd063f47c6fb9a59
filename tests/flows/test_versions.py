"""The verbs promote, rollback and gate, as a user types them, over a real MLflow registry (SQLite)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from evaluation.identity import Identity
from flows.cli import run_command
from fluxmodel.presets import PRESETS
from tasks import registry, tracking
from tasks.generate import find_model
from tasks.home import Home
from tests.kit import write_evaluation

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and SQLAlchemy warn of their own deprecations
NAME = "shapes"


@pytest.fixture(scope="module")
def three_versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with three versions: the third is the challenger, and the gate rejected it."""
    home = Home(tmp_path_factory.mktemp("registry")).make()
    client = tracking.client(home)
    client.create_registered_model(NAME)
    for number in range(1, 4):
        client.create_model_version(NAME, "file:///nowhere", tags={"artifact_digest": str(number)})
    registry.set_tags(
        home,
        registry.find_version(home, NAME, "3"),
        {"gate.verdict": "reject", "gate.reasons": "Shown worse."},
    )
    client.set_registered_model_alias(NAME, "challenger", "3")
    client.set_registered_model_alias(NAME, "champion", "1")
    return home.root


@pytest.fixture
def home(three_versions: Path, fluxline_home: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    shutil.copytree(three_versions, fluxline_home)
    for name in (
        "PREFECT_API_URL",
        "MLFLOW_TRACKING_URI",
    ):  # what the verbs find running must not outlive a test
        monkeypatch.delenv(name, raising=False)
    return Home(fluxline_home)


def test_promote_and_rollback_say_what_moved(home, capfd):
    assert run_command(["promote", NAME, "--version", "2", "--reason", "nicer circles"]) == 0
    assert capfd.readouterr().out == "The champion of shapes is version 2 now, before it version 1.\n"
    assert registry.find_version(home, NAME).tags["promotion.reason"] == "nicer circles"
    assert run_command(["rollback", "--json"]) == 0
    moved = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (moved["champion"], moved["previous"], moved["moved"]) == ("1", "2", True)


def test_what_the_gate_rejected_needs_force(home, capfd):
    assert run_command(["promote"]) == 2
    said = capfd.readouterr().err
    assert said.startswith("fluxline: The gate rejected shapes version 3 (Shown worse); ")
    assert said.count("\n") == 1
    assert registry.aliases(home, NAME)["champion"] == "1"
    assert run_command(["promote", "--force"]) == 0
    assert registry.aliases(home, NAME) == {"champion": "3", "previous": "1", "challenger": "3"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["promote", "nobody"], "there is no such model"),
        (
            ["promote", "--version", "9"],
            "'shapes' has no version '9'; it has 1, 2, 3 and the aliases champion (1)",
        ),
        (["rollback"], "has no champion before version 1, so there is nothing to go back to."),
        (["rollback", "nobody"], "There is no registered model 'nobody'"),
    ],
)
def test_bad_usage_is_one_sentence(home, capfd, arguments, said):
    assert run_command(arguments) == 2
    printed = capfd.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1


def test_generate_takes_the_champion_or_what_is_named(home, monkeypatch):
    monkeypatch.setattr(registry, "model_directory", lambda _, version: Path(version.version))
    assert find_model(home, "") == find_model(home, NAME) == Path("1")
    assert find_model(home, f"{NAME}@2") == Path("2")
    assert find_model(home, f"{NAME}@challenger") == find_model(home, "@3") == Path("3")


# What the gate would say


@pytest.fixture
def sides(tmp_path):
    return tuple(
        str(write_evaluation(tmp_path / name, np.arange(200) < num)) for name, num in (("a", 180), ("b", 120))
    )


def test_the_gate_is_tried_on_stored_evaluations_and_moves_nothing(home, sides, capfd):
    before = registry.aliases(home, NAME)
    assert run_command(["gate", *sides, "--dry-run"]) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "The gate would say: promote" in said
    assert "coverage at least 0.5 of the" in said
    assert run_command(["gate", *reversed(sides), "--dry-run", "--json"]) == 0
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (found["verdict"], found["primary"]["difference"]) == ("reject", pytest.approx(-0.3))
    assert registry.aliases(home, NAME) == before


def test_thresholds_are_taken_from_the_command_line_and_from_a_preset(home, sides, capfd):
    ask = ["gate", *sides, "--dry-run", "--json"]
    for more, verdict in (
        (["--thresholds.all_correct", "0.99"], "reject"),
        (["--min-effect", "0.4", "--max-rounds", "4", "--no-reevaluate"], "inconclusive"),
        (["--preset", "demo"], "promote"),
    ):
        assert run_command([*ask, *more]) == 0
        found = json.loads(capfd.readouterr().out.splitlines()[-1])
        assert found["verdict"] == verdict, more
    asked = PRESETS["demo"].evaluation["thresholds"]
    assert found["settings"]["thresholds"] == asked


@pytest.mark.parametrize("verb", [["gate", "--dry-run"], ["compare", "--out", "page"]])
@pytest.mark.parametrize(
    "field", [name for name in Identity.model_fields if name not in ("model", "steps", "guidance")]
)
def test_any_field_that_differs_is_refused_with_exit_code_3_and_named(
    home, tmp_path, capfd, monkeypatch, verb, field
):
    monkeypatch.chdir(tmp_path)
    right = np.arange(200) < 120
    value = 7 if field == "n" else "another"
    a, b = write_evaluation(tmp_path / "a", right), write_evaluation(tmp_path / "b", right, **{field: value})
    assert run_command([*verb, str(a), str(b)]) == 3
    said = capfd.readouterr().err
    assert f"differ in {field}: " in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "to try it on stored evaluations, add --dry-run"),
        (["--dry-run", "--preset", "huge"], "--preset is 'huge'; choose one of"),
        (["--dry-run", "--min-effect", "-1"], "--min-effect is -1"),
        (["--dry-run", "--max-rounds", "0"], "--max-rounds is 0; give a number greater than or equal to 1"),
    ],
)
def test_bad_usage_of_the_gate_is_one_sentence(home, sides, capfd, more, said):
    assert run_command(["gate", *sides, *more]) == 2
    printed = capfd.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1


def test_what_waits_for_approval_is_what_promote_takes(home, capfd):
    client = tracking.client(home)
    client.set_model_version_tag(NAME, "2", "approval", "pending")
    assert run_command(["promote", "--reason", "I looked at its circles"]) == 0
    assert "version 2 now" in capfd.readouterr().out
    tags = registry.find_version(home, NAME, "2").tags
    assert "approval" not in tags
    assert tags["approval.reason"] == "I looked at its circles"
