import base64
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evaluation import EvaluationSettings, closing_figures, evaluate
from evaluation.atlas import HELD_OUT, read_atlas
from evaluation.identity import Identity, Measurement, require_comparable
from fluxmodel.data.cache_quota import holdings

SETTINGS = EvaluationSettings(
    num_images=60,
    steps=(1, 4),
    num_detailed=10,
    precision="fp32",
    num_held_out=20,
    batch_size=32,
    num_latency_trials=1,
    num_calibration=20,
    grid_size=6,
)


@pytest.fixture(scope="module")
def judged(tmp_path_factory, drawing_pipe, model_directory, scenes_dataset, evaluators):
    def run(name, settings=SETTINGS, **kwargs):
        output = tmp_path_factory.mktemp(name)
        pipe = drawing_pipe("demo")
        return evaluate(model_directory, scenes_dataset, evaluators, settings, output, pipe=pipe, **kwargs)

    run.heard = []
    run.report = run("first", progress=lambda *told: run.heard.append(told))
    return run


def metrics(report):
    return {each["name"]: each for each in report.document["metrics"]}


def test_every_metric_has_value_interval_count_method_and_direction(judged):
    found = metrics(judged.report)
    wanted = {"attr_acc", "all_correct", "undecided", "fd", "kid", "clip", "retrieval", "detector_agreement"}
    assert wanted | {"held_out/attr_acc", "held_out/all_correct", "latency_ms"} <= set(found)
    for name in wanted:
        each = found[name]
        assert each["ci_low"] <= each["value"] <= each["ci_high"], name
        assert each["n"] == 60
        assert each["method"]
        assert each["direction"] in ("higher", "lower", "none")


def test_the_judge_finds_the_models_known_faults(judged):
    rows = {
        (name, row["steps"]): row for name, rows in judged.report.document["curves"].items() for row in rows
    }
    assert set(rows) == {(name, steps) for name in ("base_unguided", "base_guided") for steps in (1, 4)}
    assert rows["base_guided", 4]["attr_acc"] > rows["base_unguided", 1]["attr_acc"]
    # Each object is in a wrong colour at a rate of 1/2, 1/8, 1/4, 1/16.
    by_attribute = {row["group"]: row for row in judged.report.document["groups"]["attribute"]}
    assert by_attribute["shape"]["attr_acc"]["value"] == 1
    assert by_attribute["color"]["attr_acc"]["value"] == pytest.approx(15 / 16, abs=0.07)
    assert rows["base_unguided", 1]["all_correct"] == pytest.approx(0.375, abs=0.2)


def test_guided_steps_cost_two_calls(judged):
    curves = judged.report.document["curves"]
    assert [row["calls"] for row in curves["base_guided"]] == [2, 8]
    assert [row["calls"] for row in curves["base_unguided"]] == [1, 4]


def test_the_headline_is_the_best_point(judged):
    head = judged.report.document["headline"]
    assert (head["curve"], head["steps"]) == ("base_guided", 4)
    assert judged.report.value("attr_acc") == max(
        row["attr_acc"] for rows in judged.report.document["curves"].values() for row in rows
    )


def test_baselines_are_floors_and_ceilings(judged):
    found = judged.report.document["baselines"]
    assert found["real_against_real"]["attr_acc"]["value"] == 1
    assert found["shuffled_captions"]["attr_acc"]["value"] < 0.5
    assert found["noise"]["attr_acc"]["value"] == 0
    assert found["noise"]["fd"]["value"] > 3 * found["real_against_real"]["fd"]["value"]


def test_every_number_knows_what_it_was_measured_on(judged):
    shared = Identity(**judged.report.document["identity"])
    for each in judged.report.document["metrics"]:
        full = Measurement(**each).full_identity(shared)
        assert full.steps in (1, 4)
        if each["name"].startswith("held_out"):
            assert "held out" in full.prompts
            assert full.n == 20
    require_comparable(shared, shared)


def test_progress_counts_every_image(judged):
    done, total, message = judged.heard[-1]
    assert done == total == 4 * 60 + 20 + 10
    assert "in full" in message
    assert [told[0] for told in judged.heard] == sorted(told[0] for told in judged.heard)


def test_rows_hold_every_image_and_add_up(judged):
    rows = pq.read_table(judged.report.directory / "rows.parquet").to_pylist()
    assert len(rows) == 4 * 60 + 20 + 10
    head = [row for row in rows if (row["curve"], row["steps"]) == ("base_guided", 4)]
    assert sum(row["attr_acc"] for row in head) / 60 == pytest.approx(judged.report.value("attr_acc"))
    assert len({row["seed"] for row in rows}) == 90


def test_the_headlines_features_lie_in_the_order_of_its_rows(judged):
    from evaluation.feature_file import read_features
    from evaluation.frechet import ReferenceFeatures

    found = read_features(judged.report.directory)
    assert found is not None
    assert found["headline"].shape[0] == found["reference"].shape[0] == 60
    assert ReferenceFeatures(found["reference"]).distance(found["headline"]).value == judged.report.value(
        "fd"
    )
    rows = pq.read_table(judged.report.directory / "rows.parquet").to_pylist()
    head = [row for row in rows if (row["curve"], row["steps"]) == ("base_guided", 4)]
    assert [row["index"] for row in head] == list(range(60))


def test_rows_say_by_group_what_an_image_has_right(judged):
    rows = pq.read_table(judged.report.directory / "rows.parquet").to_pylist()
    head = [row for row in rows if (row["curve"], row["steps"]) == ("base_guided", 4)]
    groups = [name for name in head[0] if name.startswith("group_")]
    assert {name.split("_")[1] for name in groups} == {"color", "shape", "objects"}
    for row in head:
        words = row["prompt"].split()
        colors = {name.removeprefix("group_color_") for name in groups if name.startswith("group_color_")}
        asked = {color for color in colors if row[f"group_color_{color}"] is not None}
        assert asked == colors & set(words)
        shares = [row[name] for name in groups if name.startswith("group_objects_") and row[name] is not None]
        assert shares == [row["attr_acc"]]
    by_shape = [row[name] for row in head for name in groups if name.startswith("group_shape_")]
    assert {each for each in by_shape if each is not None} == {1.0}
    by_color = [row[name] for row in head for name in groups if name.startswith("group_color_")]
    assert 0 < sum(each < 1 for each in by_color if each is not None) < 40


def test_the_whole_set_is_told_with_intervals_identity_and_a_ceiling(judged):
    found = metrics(judged.report)
    shared = Identity(**judged.report.document["identity"])
    for name in ("precision", "recall", "density", "coverage", "mind"):
        assert found[name]["ci_low"] <= found[name]["value"] <= found[name]["ci_high"], name
        full = Measurement(**found[name]).full_identity(shared)
        assert full == shared.model_copy(update={"steps": 4, "guidance": 2.0})
    # Where a prompt leaves the background open this model always takes white: right each time, and never another.
    real = judged.report.document["baselines"]["real_against_real"]
    assert found["recall"]["ci_high"] < 0.7 < 0.9 < real["recall"]["value"]
    assert found["coverage"]["value"] < real["coverage"]["value"]
    assert found["mind"]["value"] > real["mind"]["value"]
    assert {found[name]["direction"] for name in ("mind", "memorised", "peak_memory_mib")} == {"lower"}


def test_the_nearest_training_images_are_in_the_rows_and_in_the_identity(judged):
    found, nearest = metrics(judged.report)["memorised"], judged.report.document["nearest"]
    rows = pq.read_table(judged.report.directory / "rows.parquet").to_pylist()
    head = [row for row in rows if (row["curve"], row["steps"]) == ("base_guided", 4)]
    assert [row["memorised"] for row in head] == [row["nearest_distance"] <= 1 for row in head]
    assert sum(row["memorised"] for row in head) / 60 == found["value"] == nearest["memorised"] < 0.2
    assert {row["memorised"] for row in rows if row["steps"] == 1} == {None}
    assert f"{nearest['num_training']} training images" in found["identity"]["reference"]
    assert 0.2 < nearest["nearer_than_real"] < 0.8


def test_times_and_memory_say_on_what_they_were_measured(judged):
    found = metrics(judged.report)
    for name in ("latency_ms", "peak_memory_mib"):
        assert "thread" in found[name]["identity"]["device"]
        assert "fp32 network" in found[name]["identity"]["device"]
        assert found[name]["method"]
    kept = (judged.report.directory / "measured.json").read_text()
    assert "peak_memory_mib" not in kept
    assert "thread" not in kept


def test_equal_seeds_give_equal_evaluations(judged, tmp_path):
    first, again = judged.report.directory, judged("again", pixels=tmp_path).directory
    assert [each.name for each in holdings(tmp_path)] == ["pixels"]
    assert (again / "measured.json").read_bytes() == (first / "measured.json").read_bytes()
    undigested = set(json.loads((again / "undigested.json").read_text()))
    names = {path.name for path in again.iterdir()} - undigested
    assert {name for name in names if (first / name).read_bytes() != (again / name).read_bytes()} == set()


def test_what_is_left_of_an_evaluation_holds_no_timing(judged):
    kept = (judged.report.directory / "measured.json").read_text()
    assert "latency_ms" not in kept
    assert '"cost"' not in kept
    assert (
        json.loads(kept)["curves"]["base_guided"][0]["fd"]
        == judged.report.document["curves"]["base_guided"][0]["fd"]
    )


def test_another_seed_gives_other_numbers_that_do_not_compare(judged):
    from fluxmodel.errors import IncomparableError

    other = judged("other", SETTINGS.model_copy(update={"seed": 1})).document
    with pytest.raises(IncomparableError, match="prompts"):
        require_comparable(Identity(**other["identity"]), Identity(**judged.report.document["identity"]))


def test_the_directory_holds_what_it_promises(judged):
    names = {path.name for path in judged.report.directory.iterdir()}
    assert names == {
        "evaluation.json", "rows.parquet", "grid.png", "held_out.png", "steps.png", "curves.png", "gallery.json",
        "report.html", "measured.json", "undigested.json", "features.safetensors",
        "headline.png", "held_out_all.png",
    }  # fmt: skip
    text = (judged.report.directory / "evaluation.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == judged.report.document


def test_the_atlas_holds_every_headline_image_in_the_order_of_the_rows(judged):
    images = read_atlas(judged.report.directory)
    tiles = json.loads((judged.report.directory / "gallery.json").read_text())["samples"]
    assert len(images) == 60
    assert len(read_atlas(judged.report.directory, HELD_OUT)) == 20
    for image, tile in zip(images, tiles, strict=False):
        with Image.open(io.BytesIO(base64.b64decode(tile["png"]))) as picture:
            assert np.array_equal(np.array(picture.convert("RGB")), image.permute(1, 2, 0).numpy())


def test_closing_figures_are_words(judged):
    figures = closing_figures(judged.report.directory)
    assert figures == closing_figures(judged.report.document)
    assert figures["point"] == "4 steps, guidance 2"
    assert {"attributes right", "held-out all correct", "floor (shuffled captions)"} - set(figures) <= {
        "held-out all correct"
    }
    assert all(isinstance(each, str) and "nan" not in each for each in figures.values())


def test_without_a_detector_the_dual_encoder_gives_the_features(
    tmp_path, drawing_pipe, model_directory, scenes_dataset, evaluators
):
    weak = tmp_path / "weak"
    weak.mkdir()
    for path in evaluators["dual_encoder"].iterdir():
        (weak / path.name).write_bytes(path.read_bytes())
    (weak / "card.json").write_text(json.dumps({"metrics": {"retrieval_at_32": 0.5}}))
    settings = SETTINGS.model_copy(update={"steps": (2,), "num_held_out": 0})
    report = evaluate(
        model_directory,
        scenes_dataset,
        {"dual_encoder": weak},
        settings,
        tmp_path / "out",
        pipe=drawing_pipe("demo"),
    )
    assert report.document["identity"]["feature_extractor"].startswith("dual encoder ")
    assert "below the 90%" in report.document["skipped"]["clip"]
    assert "detector" in report.document["skipped"]["detector_agreement"]
    assert report.value("clip") is None
    assert report.value("held_out/attr_acc") is None
    assert report.document["curves"]["base_guided"][0]["clip"] is None


def test_the_gate_reads_what_was_written(judged):
    from evaluation.gate import GateSettings, decide

    directory = judged.report.directory
    decision = decide(directory, directory, GateSettings())
    assert decision.verdict == "inconclusive"
    assert decision.primary is not None
    assert decision.primary.challenger == pytest.approx(judged.report.value("all_correct"))
    guarded = {guard.name for guard in decision.guards}
    assert {"attr_acc", "held_out/all_correct", "clip", "fd", "memorised"} <= guarded


def test_leakage_is_measured_over_the_fresh_renders_and_the_prompts(judged):
    found = judged.report.document["leakage"]
    assert found["is_procedural"]
    assert found["num_prompts"] == 60
    assert found["num_images"] == 120  # the reference and its second draw
    assert found["share"] == (found["same_pixels"] + found["near_images"]) / 120
