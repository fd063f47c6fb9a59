import shutil
from pathlib import Path
from typing import Any

import pytest

from evaluation.identity import (
    Identity,
    Measurement,
    code_digest,
    differing_fields,
    digest_of_directory,
    improvement,
    require_comparable,
)
from fluxmodel.errors import ArtifactError, IncomparableError

BASE = Identity(
    model="a",
    dataset="d",
    reference="r",
    feature_extractor="f",
    judge="j",
    prompts="p",
    seeds="s",
    solver="Euler",
    steps=None,
    guidance=None,
    n=1000,
    resize="32x32",
    dtype="float32",
    code="c",
)


def measurement(value: float | None = 0.9, name="attr_acc", direction: Any = "higher", **identity):
    return Measurement(name=name, value=value, n=1000, method="", direction=direction, identity=identity)


def test_two_models_measured_alike_compare():
    other = BASE.model_copy(update={"model": "b"})
    require_comparable(BASE, other)
    assert differing_fields(BASE, other) == ["model"]


@pytest.mark.parametrize("field", [name for name in Identity.model_fields if name != "model"])
def test_every_other_difference_is_refused_by_name(field):
    other = BASE.model_copy(update={field: 7})
    with pytest.raises(IncomparableError, match=f"differ in {field}: ") as refused:
        require_comparable(BASE, other)
    assert refused.value.exit_code == 3


def test_all_differing_fields_are_named():
    other = BASE.model_copy(update={"n": 500, "judge": None})
    assert differing_fields(BASE, other) == ["judge", "n"]


def test_what_is_compared_may_differ():
    other = BASE.model_copy(update={"model": "b", "steps": 4})
    require_comparable(BASE, other, may_differ=("model", "steps"))
    with pytest.raises(IncomparableError, match="steps"):
        require_comparable(BASE, other)


@pytest.mark.parametrize(("direction", "sign"), [("higher", 1), ("lower", -1)])
def test_improvement_is_positive_where_it_got_better(direction, sign):
    new, old = measurement(0.9, direction=direction), measurement(0.7, direction=direction)
    assert improvement((new, BASE), (old, BASE)) == pytest.approx(sign * 0.2)


def test_a_numbers_own_departures_count():
    with pytest.raises(IncomparableError, match="steps: 4 against 8"):
        improvement((measurement(steps=4), BASE), (measurement(steps=8), BASE))


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (measurement(), measurement(name="fd")),
        (measurement(), measurement(direction="lower")),
        (measurement(None), measurement()),
    ],
)
def test_different_or_missing_quantities_are_refused(new, old):
    with pytest.raises(IncomparableError):
        improvement((new, BASE), (old, BASE))


def test_a_directorys_digest_is_of_names_and_bytes(tmp_path):
    (tmp_path / "a").write_text("1")
    before = digest_of_directory(tmp_path)
    (tmp_path / "manifest.json").write_text("the store's own note")
    assert digest_of_directory(tmp_path) == before
    (tmp_path / "a").rename(tmp_path / "b")
    moved = digest_of_directory(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({before, moved, digest_of_directory(tmp_path)}) == 3


def test_an_empty_directory_has_no_digest(tmp_path):
    with pytest.raises(ArtifactError, match="missing or empty"):
        digest_of_directory(tmp_path)


def imported_here(name):
    """Modules of the package that a module imports when it is imported."""
    import ast

    import evaluation

    source = (Path(evaluation.__file__).parent / name).read_text(encoding="utf-8")
    found = [node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom)]
    return {f"{node.module}.py" for node in found if node.level == 1 and node.module}


def test_the_code_digest_covers_every_module_that_measures():
    from evaluation.identity import _MEASURING

    # These wire, time, configure and write; what pages and charts import is imported only when they are drawn.
    wiring = {"evaluate.py", "feature_file.py", "identity.py", "settings.py", "stopwatch.py", "timeless.py"}
    reached, ahead = set(), {"evaluate.py", "style.py", "own_prompts.py"}
    while ahead:
        reached |= (now := ahead - reached)
        ahead = set().union(*(imported_here(name) for name in now)) - reached
    assert reached - wiring == set(_MEASURING)


def test_another_source_of_a_number_is_another_code(tmp_path, monkeypatch):
    import evaluation.identity

    before = code_digest()
    package = tmp_path / "evaluation"
    shutil.copytree(Path(evaluation.identity.__file__).parent, package)
    shutil.copytree(
        Path(evaluation.identity.__file__).parents[1] / "fluxmodel" / "data", tmp_path / "fluxmodel" / "data"
    )
    monkeypatch.setattr(evaluation.identity, "__file__", str(package / "identity.py"))
    assert code_digest() == before
    (package / "charts.py").write_text("")
    assert code_digest() == before
    (package / "mind.py").write_text("")
    assert code_digest() != before


def test_the_code_digest_covers_files_that_exist():
    import evaluation
    from evaluation.identity import _MEASURING

    here = Path(evaluation.__file__).parent
    assert [name for name in _MEASURING if not (here / name).exists()] == []
    assert len(code_digest()) == 16
