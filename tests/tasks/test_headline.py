"""What a run tells first, under the names of evaluation.json, and what MLflow is given of it."""

import base64
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tasks import tracking
from tasks.artifacts import ArtifactRef
from tasks.dataset_input import describe_dataset
from tasks.headline import all_metrics, curve_points, headline_metrics, headline_settings, stage_settings
from tasks.metrics_tail import MetricsTail
from tasks.model_card import data_of, front_matter, model_card
from tasks.pictures import step_pictures
from tasks.run_key import RunRecord, StageIdentity

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and SQLAlchemy warn of their own deprecations


def metric(name: str, value: float | None, low: float | None = None, high: float | None = None) -> dict:
    return {
        "name": name,
        "value": value,
        "ci_low": low,
        "ci_high": high,
        "n": 64,
        "direction": "higher",
        "method": "m",
    }


DOCUMENT = {
    "identity": {"judge": "scene judge"},
    "headline": {"curve": "rectified", "steps": 1, "guidance": 1.0, "calls": 1},
    "metrics": [
        metric("attr_acc", 0.9, 0.88, 0.92),
        metric("fd", 3.5),
        metric("clip", None),
        metric("held_out/attr_acc", 0.7),
        metric("guided_max/attr_acc", 0.95),
    ],
    "curves": {
        "base_guided": [{"steps": 8, "fd": 2.0}, {"steps": 2, "fd": 4.0}],
        "rectified": [{"steps": 1, "fd": 3.5, "attr_acc": None}],
    },
    "straightness": {
        "rows": [{"curve": "rectified", "straightness_error": {"value": 0.1}, "path_length": {"value": 1.2}}]
    },
    "lora": {"metrics": [metric("base/adoption/plain_on", 0.5)]},
    "groups": {
        "color": [{"group": "red", "attr_acc": {"value": 0.4}}, {"group": "blue", "attr_acc": {"value": 0.8}}]
    },
}


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(buffer, "PNG")
    png = base64.b64encode(buffer.getvalue()).decode()
    columns = [
        {"curve": curve, "steps": steps, "pngs": [png, png]}
        for curve, steps in (("base_guided", 2), ("base_guided", 8), ("rectified", 2), ("rectified", 1))
    ]
    gallery = {"steps": {"prompts": ["a red circle", "a ring; at the top"], "columns": columns}}
    (tmp_path / "evaluation.json").write_text(json.dumps(DOCUMENT))
    (tmp_path / "gallery.json").write_text(json.dumps(gallery))
    return tmp_path


def record(stage: str, parameters: dict, digest: str = "d" * 64, **rest) -> RunRecord:
    identity = StageIdentity(stage=stage, parameters=parameters, upstream={}, seed=3, code={})
    ref = ArtifactRef(kind=stage, uri="file:///there", digest=digest)
    return RunRecord(run_key=identity.run_key, identity=identity, artifact=ref, seconds=2.0, **rest)


LINEAGE = [
    record("curate", {"source": {"data": "procedural:shapes"}}, gave="9 of 10 images kept"),
    record("train", {"job": {"steps": 40, "model": {"hidden_size": 64}}}, metrics={"parameters": 1000.0}),
    record("rectify", {"job": {"steps": 20}, "pairs": {"num": 64}}),
]


def test_the_headline_comes_first_and_has_the_names_of_evaluation_json(evaluation):
    told = headline_metrics(evaluation)
    assert told == {
        "attr_acc": 0.9,
        "fd": 3.5,
        "steps": 1.0,
        "guidance": 1.0,
        "calls": 1.0,
        "held_out/attr_acc": 0.7,
    }
    assert list(told)[:2] == ["attr_acc", "fd"]
    everything = all_metrics(evaluation)
    assert list(everything)[: len(told)] == list(told)
    assert everything["rectified/straightness_error"] == 0.1
    assert everything["lora/base/adoption/plain_on"] == 0.5
    assert not any("." in name for name in everything)


def test_a_curve_is_one_metric_over_solver_steps(evaluation):
    points = [(p.name, p.value, p.step) for p in curve_points(evaluation)]
    assert points == [("base_guided/fd", 4.0, 2), ("base_guided/fd", 2.0, 8), ("rectified/fd", 3.5, 1)]


def test_sliders_open_at_the_image_a_curve_is_judged_by(evaluation):
    found = [(p.key, p.step) for p in step_pictures(evaluation) if p.key.endswith("circle")]
    assert found == [
        *(("base_guided/a red circle", step) for step in (0, 2, 8)),
        *(("rectified/a red circle", step) for step in (0, 1, 2)),
    ]
    assert {p.key.split("/")[0] for p in step_pictures(evaluation, ("rectified",))} == {"rectified"}


def test_settings_are_flat_and_short_without_meeting():
    identity = StageIdentity(
        stage="train",
        parameters={"job": {"steps": 4, "betas": [0.9, 0.99], "none": None, "threads": 2}, "settings": {"steps": 2}},
        upstream={}, seed=7, code={},
    )  # fmt: skip
    assert stage_settings(identity) == {
        "steps": "4",
        "betas": "0.9, 0.99",
        "settings.steps": "2",
        "seed": "7",
    }
    told = headline_settings(LINEAGE)
    assert told == {
        "data": "procedural:shapes", "train.seed": 3, "train.steps": 40, "train.hidden_size": 64, "rectify.steps": 20,
        "rectify.num_pairs": 64,
    }  # fmt: skip


def test_the_card_is_written_for_people_and_its_front_matter_for_tools():
    import yaml

    head = front_matter(LINEAGE, "cc-by-4.0", "wash")
    fields = yaml.safe_load(head.strip().strip("-"))
    assert fields["pipeline_tag"] == "text-to-image"
    assert fields["license"] == "cc-by-4.0"
    assert {"text-to-image", "rectified-flow", "lora"} <= set(fields["tags"])
    assert fields["datasets"] == [data_of(LINEAGE)] == ["procedural:shapes"]
    card = model_card("shapes", LINEAGE, DOCUMENT, lora_name="wash")
    for said in (
        "1,000 parameters", "fluxline generate 'a red circle' --model shapes --steps 1 --seed 0", "--lora wash",
        "| attr_acc | 90.0% | 88.0% to 92.0% | 64 | higher |", "70.0% of the attributes right",
        "Weakest where the color is red: 40.0%", "9 of 10 images kept", "models:/shapes@champion",
    ):  # fmt: skip
        assert said in card
    assert "license" not in front_matter(LINEAGE)


def test_mlflow_is_given_the_dataset_with_what_was_kept_and_dropped(tracked, tmp_path):
    from tasks.artifacts import ArtifactStore

    (tmp_path / "data").mkdir()
    report = {
        "data": "a/folder",
        "seen": 10,
        "kept": 9,
        "dropped": {"too_small": 1},
        "splits": {"train": 8, "test": 1},
    }
    (tmp_path / "data" / "curation.json").write_text(json.dumps(report))
    ref = ArtifactStore(tracked).put(tmp_path / "data", "dataset")
    made = record("curate", {}).model_copy(update={"artifact": ref})
    run = tracking.open_run(tracked, "key", "train", {})
    for _ in range(2):  # a re-opened run says it again
        tracking.log_dataset(tracked, run, describe_dataset(tracked, made, "train"))
    (given,) = tracking.client(tracked).get_run(run).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("a/folder", ref.digest[:36])
    assert json.loads(given.dataset.profile) == {
        "num_images": 9, "seen": 10, "kept": 9, "dropped_too_small": 1, "num_train": 8, "num_test": 1
    }  # fmt: skip
    assert json.loads(given.dataset.source)["uri"] == ref.uri
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]


def test_images_drawn_while_training_become_sliders_once_each_though_mlflow_went_away(
    tracked, tmp_path, monkeypatch
):
    spool, folder = tmp_path / "metrics.jsonl", tmp_path / "samples"
    folder.mkdir()
    for step in (0, 20):
        said = PngInfo()
        said.add_itxt("prompt", "a red circle; small")
        said.add_text("step", str(step))
        Image.new("RGB", (32, 32)).save(folder / f"step-{step:08d}-00.png", pnginfo=said)
    (tmp_path / "system.jsonl").write_text(
        '{"step": 1, "time": 1700000000.5, "metrics": {"system/stage_cpu_cores": 2}}\n'
    )
    lines = [
        {"step": 64, "at": 8, "metrics": {"rectified/fd": 2.0}},
        {"step": 128, "at": 2, "metrics": {"rectified/fd": 3}},
    ]
    spool.write_text("".join(json.dumps(line) + "\n" for line in lines))
    real, away = tracking.log_pictures, [True]

    def log(home, run_id, pictures):
        if pictures[0].step == 20 and away.pop():
            raise ConnectionError
        real(home, run_id, pictures)

    monkeypatch.setattr(tracking, "log_pictures", log)
    for expected in (False, True, True):
        tail = MetricsTail(
            tracked,
            spool,
            tmp_path / "state.json",
            lambda: tracking.open_run(tracked, "key", "train", {}),
            print,
        )
        assert tail.pump() is expected
        away.append(False)
    names = [
        f.path
        for f in tracking.client(tracked).list_artifacts(tail.run_id, "images")
        if f.path.endswith(".png")
    ]
    assert sorted(name.split("+timestamp")[0] for name in names) == [
        "images/samples~a red circle - small+step+0", "images/samples~a red circle - small+step+20"
    ]  # fmt: skip
    history = tracking.client(tracked).get_metric_history
    assert sorted((p.step, p.value) for p in history(tail.run_id, "rectified/fd")) == [(2, 3.0), (8, 2.0)]
    assert [(p.timestamp, p.value) for p in history(tail.run_id, "system/stage_cpu_cores")] == [
        (1700000000500, 2.0)
    ]


def test_sliders_are_the_files_that_mlflow_itself_would_write(tracked, evaluation):
    pictures = step_pictures(evaluation, ("rectified",))
    ours, theirs = (tracking.open_run(tracked, key, key, {}) for key in ("ours", "theirs"))
    tracking.log_pictures(tracked, ours, pictures)
    client = tracking.client(tracked)
    for picture in pictures:
        with Image.open(io.BytesIO(picture.png)) as image:
            client.log_image(theirs, image, key=tracking.slider_key(picture.key), step=picture.step)

    def names(run_id: str) -> list[str]:
        found = [f.path for f in client.list_artifacts(run_id, "images")]
        return sorted(re.sub(r"timestamp\+\d+\+[0-9a-f-]{36}", "", path) for path in found)

    assert names(ours) == names(theirs) != []
    assert client.get_run(ours).data.tags["mlflow.loggedImages"] == "True"
