"""Two models whose faults are known, laid side by side."""

import json
import re
import shutil

import pytest

from evaluation import EvaluationSettings, evaluate
from evaluation.atlas import HEADLINE
from evaluation.compare import read_side
from evaluation.gate_settings import GateSettings
from evaluation.versus import Version, compare_versions, write_comparison
from evaluation.versus_changes import StageAccount, VersionAccount
from evaluation.versus_data import Learned
from evaluation.versus_page import comparison_page

SETTINGS = EvaluationSettings(
    num_images=60, steps=(2,), num_detailed=0, num_held_out=20, num_paths=0, batch_size=30, precision="fp32",
    num_latency_trials=1, num_calibration=0, grid_size=6,
)  # fmt: skip
SERVER = "http://127.0.0.1:5000"


@pytest.fixture(scope="module")
def judged(tmp_path_factory, drawing_pipe, model_directory, scenes_dataset, evaluators):
    """Evaluations of a model and of one that errs three times as often, on the very images the first errs on, too."""

    class Careless(drawing_pipe):
        def _scene(self, prompt, seed, rate):
            return super()._scene(prompt, seed, 3 * rate)

    found = {}
    for name, pipe in (("good", drawing_pipe("demo")), ("careless", Careless("demo"))):
        output = tmp_path_factory.mktemp(name)
        evaluate(model_directory, scenes_dataset, evaluators, SETTINGS, output, pipe=pipe)
        found[name] = output
    return found


@pytest.fixture(scope="module")
def versions(judged, scenes_dataset):
    def version(number: str, name: str, **settings) -> Version:
        stages = {
            "train": StageAccount(
                parameters={"job": settings}, seed=int(number), digest=number, url=f"{SERVER}/#/r{number}"
            )
        }
        account = VersionAccount(
            label=f"version {number}",
            name="shapes",
            version=number,
            stages=stages,
            url=f"{SERVER}/#/v{number}",
        )
        return Version(account, judged[name], Learned(scenes_dataset))

    return version("7", "careless", steps=40), version("12", "good", steps=400)


@pytest.fixture(scope="module")
def found(versions):
    old, new = versions
    return compare_versions(new, old, GateSettings())


@pytest.fixture(scope="module")
def written(found, versions, tmp_path_factory):
    old, new = versions
    return write_comparison(found, new, old, tmp_path_factory.mktemp("written"))


def test_the_difference_is_that_of_the_evaluations(found, judged):
    numbers = {each.row.name: each for each in found.numbers}
    new, old = (read_side(judged[name]).metrics for name in ("good", "careless"))
    assert {"all_correct", "attr_acc", "fd", "extra_objects", "held_out/all_correct"} <= numbers.keys()
    for name, each in numbers.items():
        sign = -1 if new[name].direction == "lower" else 1
        values = new[name].value, old[name].value
        assert values[0] is not None
        assert values[1] is not None
        assert each.row.difference == pytest.approx(sign * (values[0] - values[1]), abs=1e-9)
    assert numbers["all_correct"].mark == "better"
    assert all(each.p_holm >= each.row.p_value for each in found.numbers if each.row.p_value is not None)


def test_what_one_alone_gets_right_is_counted_image_by_image(found, judged):
    won = found.outcomes
    assert won.only_new > 0
    assert won.only_old == 0  # the careless one errs on every image the other errs on
    assert won.both + won.only_new + won.only_old + won.neither == len(found.pairs) == 60
    assert won.both / 60 == pytest.approx(read_side(judged["careless"]).metrics["all_correct"].value)
    assert (won.both + won.only_new) / 60 == pytest.approx(
        read_side(judged["good"]).metrics["all_correct"].value
    )
    assert [each.new_index for each in found.pairs] == list(range(60))


def test_groups_are_paired_and_corrected_together(found):
    assert {each.kind for each in found.groups} == {"color", "shape", "objects"}
    colors = [each.number for each in found.groups if each.kind == "color"]
    assert max(each.row.difference for each in colors) > 0  # the fault is one of colour
    assert {each.number.row.difference for each in found.groups if each.kind == "shape"} == {0.0}
    assert all(each.number.p_holm >= each.number.row.p_value for each in found.groups)


def test_the_page_asks_nothing_of_the_outside(written):
    text = written["html"].read_text()
    sources = set(re.findall(r'\ssrc="([^"]*)"', text))
    links = set(re.findall(r'\shref="([^"]*)"', text))
    assert sources
    assert all(each.startswith("data:image/png;base64,") for each in sources)
    assert {each for each in links if not each.startswith(("#", "data:"))} == {
        f"{SERVER}/#/{page}" for page in ("v7", "v12", "r7", "r12")
    }
    assert not re.search(r"<script|<link [^>]*stylesheet|@import|url\((?!#)", text)


def test_the_page_tells_it_in_order(written, found):
    text = written["html"].read_text()
    chapters = re.findall(r"<section id=\"(\w+)\">", text)
    assert chapters == ["verdict", "changed", "numbers", "curves", "images", "won", "groups", "where"]
    assert "<h1>shapes: version 12 against version 7</h1>" in text
    assert "From version 7 to version 12: the data are the same; 2 settings differ." in text
    assert text.count('class="duo"') == 24 + min(12, found.outcomes.only_new)
    plain = re.sub(r"<[^>]*>|base64,[^\"]*", " ", text)
    assert not re.search(r"\d\.\d{6,}", plain)  # no number as the machine has it


def test_images_are_those_of_the_atlases(found, versions, judged):
    old, new = versions
    sides = read_side(new.evaluation), read_side(old.evaluation)
    first = json.loads((judged["careless"] / "gallery.json").read_text())["samples"][0]
    text = comparison_page(found, sides)
    pair = re.search(r'<figure class="duo">.*?</figure>', text)
    assert pair
    assert first["prompt"] in pair[0]
    assert f'src="data:image/png;base64,{first["png"]}"' in pair[0]


def test_an_evaluation_without_an_atlas_shows_its_first_images(found, versions, tmp_path):
    old, new = versions
    shutil.copytree(old.evaluation, tmp_path / "old")
    (tmp_path / "old" / HEADLINE).unlink()
    text = comparison_page(found, (read_side(new.evaluation), read_side(tmp_path / "old")))
    assert 6 <= text.count('class="duo"') < 24


def test_what_must_not_be_compared_claims_nothing(versions, judged, tmp_path):
    old, new = versions
    shutil.copytree(judged["careless"], tmp_path / "other")
    document = json.loads((tmp_path / "other" / "evaluation.json").read_text())
    document["identity"]["judge"] = "another judge"
    (tmp_path / "other" / "evaluation.json").write_text(json.dumps(document))
    other = Version(old.account, tmp_path / "other", old.learned)
    found = compare_versions(new, other, GateSettings())
    assert (found.is_comparable, found.decision.differing) == (False, ["judge"])
    assert (found.numbers, found.pairs, found.outcomes, found.groups) == ([], [], None, [])
    text = write_comparison(found, new, other, tmp_path / "page")["html"].read_text()
    assert re.findall(r"<section id=\"(\w+)\">", text) == ["verdict", "changed", "where"]
    assert "They differ in judge." in text
    assert "job.steps" in text  # what changed is no claim about the numbers
    assert "p = " not in text


def test_words_from_outside_are_escaped(versions):
    old, new = versions
    hostile = '<script>alert("x")</script>'
    account = old.account.model_copy(update={"label": hostile, "data": hostile, "name": hostile})
    found = compare_versions(new, Version(account, old.evaluation), GateSettings())
    text = comparison_page(found, (read_side(new.evaluation), read_side(old.evaluation)))
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_the_picture_is_wide_and_holds_the_same(written, found):
    from PIL import Image

    with Image.open(written["png"]) as picture:
        assert picture.width == 1280
        assert 900 < picture.height < 2400
    kept = json.loads(written["json_file"].read_text())
    assert kept["outcomes"]["only_new"] == found.outcomes.only_new
