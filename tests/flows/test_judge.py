"""What `fluxline evaluate` does before and after anything is drawn."""

from pathlib import Path

import pytest

from evaluation.settings import EvaluationSettings
from flows.cli import run_command
from flows.judge import _places, print_results, read_steps, sorted_by
from fluxmodel.errors import InputError
from tasks.home import Home
from tasks.judge import Asked, Bench, find_version, settings_for


def metric(value: float, direction: str = "higher") -> dict:
    return {"value": value, "ci_low": value - 0.1, "ci_high": value + 0.1, "n": 10, "direction": direction}


def result(model: str, **metrics: dict) -> dict:
    head = {"curve": "base_guided", "steps": 4, "guidance": 2.0}
    more = {
        "groups": [],
        "contestant": None,
        "skipped": {"clip": "too weak"},
        "parts": {"drawing images": 2.9},
    }
    return {
        "model": model,
        "directory": f"/some/{model}",
        "headline": head,
        "metrics": metrics,
        "report": f"{model}/report.html",
        "seconds": 3.0,
        **more,
    }


def test_a_home_without_evaluations_says_how_to_get_one(capfd):
    assert run_command(["evaluate", "some/model"]) == 2
    said = capfd.readouterr().err
    assert said.startswith("fluxline: Nothing has been evaluated here yet")
    assert said.count("\n") == 1


@pytest.mark.parametrize(("text", "steps"), [("", ()), ("4", (4,)), ("1,2, 8", (1, 2, 8))])
def test_steps_are_read(text, steps):
    assert read_steps(text) == steps


@pytest.mark.parametrize("text", ["a", "1,,2", "1.5", "-1", "1 2"])
def test_steps_that_are_no_list_of_numbers_are_refused(text):
    with pytest.raises(InputError, match="--steps is "):
        read_steps(text)


def test_two_models_of_one_name_go_to_two_places():
    home, out = Path("/home"), Path("/out")
    assert _places(home, ["shapes@7"], None) == {"shapes@7": home / "shapes-7"}
    assert _places(home, ["shapes@7"], out) == {"shapes@7": out}
    assert list(_places(home, ["a/sd", "b/sd", "c/sd"], out).values()) == [
        out / "sd",
        out / "sd-2",
        out / "sd-3",
    ]


def test_the_table_is_sorted_by_what_all_have():
    judged = [result("a", all_correct=metric(0.5), fd=metric(3, "lower")), result("b", fd=metric(2, "lower"))]
    assert sorted_by(judged) == "fd"
    assert sorted_by(judged[:1]) == "all_correct"


def test_one_model_and_several_are_printed_with_intervals(capsys):
    both = [result("one", all_correct=metric(0.62)), result("two", all_correct=metric(0.5))]
    print_results({"sorted_by": "all_correct", "evaluations": both})
    said = capsys.readouterr().out
    assert said.index("one") < said.index("two")
    assert "62.0%" in said
    assert "62.0% (52.0 to 72.0)" in said
    assert "Sorted by images all correct, with its 95 % interval." in said
    assert "two/report.html" in said
    assert "3.0 s: drawing images 2.9 s" in said
    assert " ".join(said.split()).count("no clip too weak") == 2


@pytest.mark.parametrize("what", ["shapes@", "@7", "@"])
def test_half_a_version_is_refused(tmp_path, what):
    with pytest.raises(InputError, match="is no version; write it as NAME@7 or NAME@champion"):
        find_version(Home(tmp_path), what)


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("shapes@7", ("shapes", "7")),
        ("shapes@champion", ("shapes", "champion")),
        ("shapes", ("shapes", "")),
        ("7", ("newest", "7")),
        ("challenger", ("newest", "challenger")),
    ],
)
def test_versions_are_found_by_name_number_and_alias(tmp_path, monkeypatch, what, found):
    monkeypatch.setattr("tasks.registry.newest_model_name", lambda _: "newest")
    monkeypatch.setattr("tasks.registry.find_version", lambda _, *asked: asked)
    assert find_version(Home(tmp_path), what) == found


@pytest.fixture
def bench(tmp_path) -> Bench:
    settings = EvaluationSettings(num_images=64, guidance=1.5, steps=(1, 2), seed=3)
    return Bench(tmp_path, {}, settings, "a test's")


@pytest.fixture
def directories(tmp_path) -> dict[str, Path]:
    found = {"ours": tmp_path / "ours", "theirs": tmp_path / "theirs"}
    for name, text in (("ours", '{"pipeline": "x"}'), ("theirs", '{"_class_name": "x"}')):
        found[name].mkdir()
        (found[name] / "model_index.json").write_text(text)
    return found


def test_nothing_asked_leaves_everything_that_is_compared(bench, directories):
    for directory in directories.values():
        settings, _ = settings_for(bench, Asked(), directory)
        assert settings.semantic() == bench.settings.semantic()


def test_what_is_asked_goes_where_it_belongs(bench, directories, tmp_path):
    asked = Asked(num_images=8, steps=(4,), guidance=7.0, size=512)
    settings, contestant = settings_for(bench, asked, directories["theirs"])
    assert (settings.num_images, settings.guidance) == (8, 1.5)
    assert (contestant.steps, contestant.guidance, contestant.size) == ((4,), 7.0, 512)
    settings, _ = settings_for(bench, asked, directories["ours"])
    assert (settings.steps, settings.rectified_steps, settings.guidance) == ((4,), (4,), 7.0)
    (tmp_path / "p.txt").write_text("\n".join("abcde"))
    settings, _ = settings_for(bench, Asked(prompts=str(tmp_path / "p.txt")), directories["ours"])
    assert settings.num_images == 5
    assert settings_for(bench, Asked(prompts="geneval"), directories["ours"])[0].num_images == 240


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked(num_images=3), "--num-images: "),
        (Asked(steps=(2, 1)), "--steps must be rising"),
        (Asked(guidance=0.5), "--guidance"),
        (Asked(size=100), "--size: "),
        (Asked(batch_size=-1), "--batch-size: "),
    ],
)
def test_a_value_out_of_its_range_is_named(bench, directories, asked, said):
    with pytest.raises(InputError, match=said) as caught:
        settings_for(bench, asked, directories["theirs"])
    assert "\n" not in str(caught.value)
