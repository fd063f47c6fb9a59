"""A champion of known faults drawn again: the same noise gives the same rows, each night has noise of its own."""

import json

import numpy as np
import pytest

from evaluation import vigil
from evaluation.compare import read_columns, read_side
from evaluation.curves import places
from evaluation.drift import FILE, ROWS, DriftSettings, judge_night
from evaluation.duel import further_seeds
from evaluation.entrant import Entrant
from evaluation.evaluate import evaluate
from evaluation.settings import EvaluationSettings
from evaluation.vigil import FIRST_NIGHT, keep_vigil

SETTINGS = EvaluationSettings(
    num_images=24, steps=(4,), num_held_out=0, num_detailed=0, num_paths=0, batch_size=12, num_calibration=0,
    num_latency_trials=1, grid_size=4, precision="fp32",
)  # fmt: skip


@pytest.fixture(scope="module")
def champion(drawing_pipe, evaluators, scenes_dataset, tmp_path_factory):
    """What `keep_vigil` takes of an evaluated model that errs now and then."""

    class Erring(drawing_pipe):
        def _scene(self, prompt, seed, _):
            return super()._scene(prompt, seed, 0.1)

    root = tmp_path_factory.mktemp("champion")
    (root / "model").mkdir()
    (root / "model" / "model_index.json").write_text("{}")
    pipe = Erring("demo")
    evaluate(root / "model", scenes_dataset, evaluators, SETTINGS, root / "evaluation", pipe=pipe)
    with pytest.MonkeyPatch.context() as patch:
        entrant = Entrant(root / "model", pipe, ("base",), places(("base",), SETTINGS), "fp32")
        patch.setattr(vigil, "enter", lambda *_: entrant)
        yield {
            "evaluation": root / "evaluation",
            "model": root / "model",
            "dataset": scenes_dataset,
            "evaluators": evaluators,
        }


def test_the_same_noise_gives_the_very_same_rows(champion, tmp_path):
    heard = []
    keep_vigil(**champion, night=3, output=tmp_path / "night", progress=lambda *told: heard.append(told))
    again, stored = read_columns(tmp_path / "night" / ROWS["same"]), read_side(champion["evaluation"])
    for name in ("prompt", "seed", "all_correct", "contrast"):
        assert np.array_equal(again[name], stored.columns[name][: len(again[name])]), name
    assert heard == [(0, 48, "the champion, same noise"), (24, 48, "the champion, fresh noise")]
    night = judge_night(champion["evaluation"], tmp_path / "night", None, DriftSettings())
    assert (night.verdict, night.looks[0].row.difference) == ("first", 0.0)


def test_every_night_has_noise_of_its_own_that_the_gate_never_drew(champion, tmp_path):
    seeds = {}
    for name, night in (("one", 3), ("two", 4), ("one again", 3)):
        keep_vigil(**champion, night=night, output=tmp_path / name)
        rows = read_columns(tmp_path / name / ROWS["fresh"])
        seeds[name] = (rows["seed"].tolist(), rows["all_correct"].tolist())
    assert seeds["one"] == seeds["one again"]
    gates = {seed for number in range(1, FIRST_NIGHT) for seed in further_seeds(SETTINGS, 24, number)}
    drawn = [set(seeds[name][0]) for name in ("one", "two")]
    promoted = set(read_side(champion["evaluation"]).columns["seed"].tolist())
    assert drawn[0].isdisjoint(drawn[1])
    assert (drawn[0] | drawn[1]).isdisjoint(gates | promoted)


def test_what_would_be_measured_otherwise_is_named_and_not_drawn(champion, tmp_path, monkeypatch):
    place = tmp_path / "evaluation"
    place.mkdir()
    for name in ("evaluation.json", "rows.parquet"):
        (place / name).write_bytes((champion["evaluation"] / name).read_bytes())
    told = json.loads((place / "evaluation.json").read_text())
    told["identity"]["code"] = "an older one"
    (place / "evaluation.json").write_text(json.dumps(told))
    keep_vigil(**champion | {"evaluation": place}, night=3, output=tmp_path / "night")
    assert json.loads((tmp_path / "night" / FILE).read_text())["differing"] == ["code"]
    assert not (tmp_path / "night" / ROWS["same"]).exists()
    night = judge_night(place, tmp_path / "night", None, DriftSettings())
    assert (night.verdict, night.looks, night.differing) == ("first", [], ["code"])
