"""A user's prompts through the whole evaluation: what can be judged is, what cannot is said."""

import json

import pytest
import torch

from evaluation import EvaluationSettings, evaluate
from evaluation.own_prompts import GENEVAL
from evaluation.prompts import build_benchmark
from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.errors import InputError

SETTINGS = EvaluationSettings(
    num_images=24,
    steps=(1,),
    num_paths=0,
    num_calibration=0,
    num_latency_trials=1,
    precision="fp32",
    grid_size=4,
)
SCENES = [
    {"prompt": "a red circle top left", "group": "one"},
    {"prompt": "a blue bar top left and a red ring bottom right", "group": "two", "seed": 5},
    {"prompt": "a blue bar top left and a red ring bottom right", "group": "two", "seed": 99},
    {"prompt": "a green cross bottom right on white", "group": "one"},
]


class Painter:
    """Draws scenes by the prompt, and grey for whatever is none."""

    autoencoder = None

    def __init__(self, pipe):
        self.pipe = pipe

    def sample(self, prompts, **how):
        seeds = how.pop("seeds")
        return torch.cat([self._one(prompt, seed, how) for prompt, seed in zip(prompts, seeds, strict=True)])

    def _one(self, prompt, seed, how):
        try:
            return self.pipe.sample([prompt], seeds=[seed], **how)
        except InputError:
            return torch.full((1, 3, 32, 32), 120 + seed % 10, dtype=torch.uint8)


@pytest.fixture
def judged(tmp_path, drawing_pipe, model_directory, scenes_dataset, evaluators):
    def run(prompts, num_images=24, name="out"):
        settings = SETTINGS.model_copy(update={"num_images": num_images})
        pipe = Painter(drawing_pipe("demo"))
        how = {"pipe": pipe, "prompts": prompts}
        return evaluate(model_directory, scenes_dataset, evaluators, settings, tmp_path / name, **how)

    return run


def write(path, lines):
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def benchmark(scenes_dataset, prompts, num_images):
    settings = SETTINGS.model_copy(update={"num_images": num_images})
    return build_benchmark(CuratedDataset(scenes_dataset), settings, prompts)


def test_fewer_prompts_than_images_begin_again_with_other_noise(tmp_path, scenes_dataset):
    found = benchmark(scenes_dataset, write(tmp_path / "p.jsonl", SCENES), 8).prompts
    assert found.prompts == [each["prompt"] for each in SCENES] * 2
    assert len(set(zip(found.prompts, found.seeds, strict=True))) == 8
    assert [found.seeds[row] for row in (1, 2, 5, 6)] == [5, 99, 6, 100]
    assert benchmark(scenes_dataset, write(tmp_path / "p.jsonl", SCENES), 4).prompts.seeds == found.seeds[:4]


def test_the_identity_of_prompts_is_their_content(tmp_path, scenes_dataset):
    def identity(name, lines):
        return benchmark(scenes_dataset, write(tmp_path / name, lines), 4).prompts.identity

    first = identity("a.jsonl", SCENES)
    assert first == identity("b.jsonl", SCENES)
    for changed in ({"prompt": "a red ring top left"}, {"group": "other"}, {"seed": 4}):
        assert identity("c.jsonl", [SCENES[0] | changed, *SCENES[1:]]) != first


def test_seeds_that_would_come_twice_are_refused(tmp_path, scenes_dataset):
    lines = [{"prompt": "a red circle top left", "seed": seed} for seed in (1, 2)]
    with pytest.raises(
        InputError, match="--num-images is 4, more than the 2 prompts, and their seeds follow"
    ):
        benchmark(scenes_dataset, write(tmp_path / "p.jsonl", lines), 4)


def test_prompts_in_the_scenes_words_are_judged_by_group(judged, tmp_path):
    report = judged(write(tmp_path / "p.jsonl", SCENES))
    names = {each["name"] for each in report.document["metrics"]}
    assert {"attr_acc", "all_correct", "fd", "retrieval"} <= names
    assert not {name for name in names if name.startswith(("held_out", "detailed"))}
    rows = {row["group"]: row for row in report.document["groups"]["given"]}
    assert {name: row["all_correct"]["n"] for name, row in rows.items()} == {"one": 12, "two": 12}
    assert sum(row["all_correct"]["value"] for row in rows.values()) / 2 == pytest.approx(
        report.value("all_correct")
    )
    assert report.document["baselines"]["real_against_real"]["all_correct"]["value"] == 1
    assert "Groups of the prompts: images all correct" in report.html.read_text()


def test_our_genevals_score_is_told_tag_by_tag(judged):
    report = judged(GENEVAL, num_images=60)
    rows = {row["group"]: row["geneval"] for row in report.document["groups"]["given"]}
    assert [each["n"] for each in rows.values()] == [10] * 6
    assert report.value("geneval") == pytest.approx(sum(each["value"] for each in rows.values()) / 6)
    # The model draws every shape in its place, and with one guided step its colour wrong at a rate of a quarter.
    assert {name for name, each in rows.items() if each["value"] < 1} <= {"colors", "color_attr"}
    assert rows["color_attr"]["value"] < 0.9
    assert "Groups of the prompts: tasks answered right" in report.html.read_text()


def test_genevals_own_tasks_are_judged_where_the_scenes_know_their_words(judged, tmp_path):
    lines = [
        {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
        {"tag": "single_object", "include": [{"class": "ring", "count": 1}], "prompt": "a red ring top left"},
        {"tag": "colors", "include": [{"class": "car", "color": "red"}], "prompt": "a photo of a red car"},
    ]
    report = judged(write(tmp_path / "m.jsonl", lines))
    metric = next(each for each in report.document["metrics"] if each["name"] == "geneval")
    assert (metric["value"], metric["n"]) == (1, 8)
    assert report.value("attr_acc") is None
    assert report.value("retrieval") is not None
    assert "attr_acc" not in report.document["baselines"]["real_against_real"]
    said = report.document["skipped"]["attr_acc"]
    assert said.startswith(
        '16 of 24 prompts are no sentence about scenes of level demo: caption "a photo of a bench"'
    )
    assert "a photo of a bench" in report.html.read_text()
    said = report.document["skipped"]["geneval tasks"]
    assert said.startswith(
        "16 of 24 were not judged, and count neither way: 'bench' is no shape of level demo (8 images)"
    )
    rows = {row["group"]: row for row in report.document["groups"]["given"]}
    assert "geneval" in rows["single_object"]
    assert "geneval" not in rows["colors"]
