"""What a person sees of each stage, and that no page outgrows Prefect's database."""

import base64
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tasks.artifacts import ArtifactRef
from tasks.page_picture import MAX_BYTES, embed, loss_curve, sheet
from tasks.run_key import RunRecord, StageIdentity
from tasks.stage_page import StagePage, stage_page


def page(home, stage: str, directory: Path, work: Path | None = None) -> StagePage:
    identity = StageIdentity(stage=stage, parameters={}, upstream={}, seed=0, code={})
    artifact = ArtifactRef(kind="x", uri="file:///x", digest="d")
    record = RunRecord(run_key="key", identity=identity, artifact=artifact, seconds=1.0)
    return stage_page(home, record, directory, work or directory)


def decoded(address: str) -> bytes:
    return base64.b64decode(address.split(",", 1)[1])


def test_curation_is_a_funnel(home, tmp_path):
    told = {"seen": 200, "kept": 150, "dropped": {"too_small": 50}, "splits": {"train": 140, "test": 10}}
    (tmp_path / "curation.json").write_text(json.dumps(told))
    rows = page(home, "curate", tmp_path).tables["funnel"]
    assert [(row["what"], row["images"], row["share"]) for row in rows] == [
        ("seen", 200, "100.0 %"),
        ("dropped: too small", 50, "25.0 %"),
        ("kept", 150, "75.0 %"),
        ("kept, for train", 140, "70.0 %"),
        ("kept, for test", 10, "5.0 %"),
    ]


def test_curation_tells_its_rules_in_turn_and_alone_and_its_thresholds_moved(home, tmp_path):
    step = {"rule": "min_side", "removed": 3, "alone": 5, "only": 2, "unseen": 0, "left": 7}
    moves = [
        {"factor": 0.8, "value": 24.0, "kept": 1010, "difference": 3, "refused": ""},
        {"factor": 1.2, "value": 1.1, "kept": None, "difference": None, "refused": "too large"},
    ]
    told = {
        "seen": 10,
        "kept": 7,
        "funnel": [step],
        "sensitivity": [{"field": "min_side", "value": 30.0, "unit": "pixels", "changes": moves}],
    }
    (tmp_path / "curation.json").write_text(json.dumps(told))
    tables = page(home, "curate", tmp_path).tables
    assert tables["rules"] == [
        {
            "rule": "min side",
            "removed in turn": 3,
            "would remove alone": 5,
            "no other rule would": 2,
            "left": 7,
        }
    ]
    assert tables["thresholds"] == [
        {"threshold": "min side 30 pixels", "-20 %": "+3 (1,010 kept)", "+20 %": "not allowed"}
    ]


def test_captions_stand_side_by_side_and_their_bars_do_not_break_the_table(home, tmp_path):
    example = {"image": "data:image/png;base64,AAAA", "original": "a | b", "new": "a red\ncircle"}
    (tmp_path / "captions.json").write_text(json.dumps({"examples": [example] * 9}))
    text = page(home, "caption", tmp_path).markdown
    assert "| ![](data:image/png;base64,AAAA) | a \\| b | a red\\ncircle |" in text
    assert text.count("AAAA") == 6


def test_an_evaluation_shows_its_numbers_with_intervals_and_its_images(home, tmp_path):
    metrics = [
        {"name": "all_correct", "value": 0.725, "ci_low": 0.695, "ci_high": 0.755, "n": 1000},
        {"name": "fd", "value": 12.3, "ci_low": None, "ci_high": None, "n": 1000},
    ]
    (tmp_path / "evaluation.json").write_text(json.dumps({"metrics": metrics}))
    Image.new("RGB", (1200, 1200), "red").save(tmp_path / "grid.png")
    found = page(home, "evaluate", tmp_path)
    assert found.tables["numbers"][0]["95 % interval"] == "69.5% to 75.5%"
    assert found.tables["numbers"][1]["95 % interval"] == ""
    assert found.markdown.startswith("![Images of the model](data:image/webp;base64,")


def test_a_decision_shows_its_reasons_and_rules_the_broken_first(home, tmp_path):
    rules = [
        {"name": "clip", "asked": "at most 1 lower", "found": "0.2 lower", "verdict": "kept"},
        {"name": "primary", "asked": "better", "found": "worse", "verdict": "broken"},
    ]
    told = {"verdict": "reject", "reasons": ["It is worse."], "champion": {"version": "3"}, "rules": rules}
    (tmp_path / "decision.json").write_text(json.dumps(told))
    found = page(home, "gate", tmp_path)
    assert found.markdown == "## reject against version 3\n\n- It is worse."
    assert [row["rule"] for row in found.tables["rules"]] == ["primary", "clip"]


def test_a_registration_links_to_its_version(home, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    (tmp_path / "registration.json").write_text(
        json.dumps({"name": "shapes", "version": "7", "aliases": ["champion"]})
    )
    found = page(home, "register", tmp_path)
    assert found.links == {"shapes version 7 in MLflow": "http://127.0.0.1:5000/#/models/shapes/versions/7"}
    assert "shapes-version-7.html" in found.markdown


def test_a_training_shows_its_loss_and_its_samples(home, tmp_path):
    samples = tmp_path / "output" / "samples"
    samples.mkdir(parents=True)
    for step in (100, 200):
        info = PngInfo()
        info.add_text("prompt", "a red circle")
        info.add_text("step", str(step))
        Image.new("RGB", (32, 32), "red").save(samples / f"{step}.png", pnginfo=info)
    (samples / "torn.png").write_bytes(b"\x89PNG")
    lines = [{"step": n, "total": 9, "metrics": {"loss": 1 / n}, "seconds": n} for n in (1, 2, 3, 2, 3, 4)]
    (tmp_path / "output" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = page(home, "train", tmp_path / "none", tmp_path).markdown
    assert "![Loss](data:image/svg+xml;base64," in text
    assert "![Samples, from first to last step](data:image/webp;base64," in text


@pytest.mark.parametrize("stage", ["curate", "caption", "evaluate", "gate", "register", "train", "encode"])
def test_a_stage_without_its_files_has_a_page_all_the_same(home, tmp_path, stage):
    assert isinstance(page(home, stage, tmp_path), StagePage)


def test_no_picture_is_too_large_for_a_database(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    address = embed(tmp_path / "noise.png")
    assert 1000 < len(decoded(address)) <= MAX_BYTES
    assert embed(tmp_path / "none.png") == ""
    assert sheet(tmp_path / "none") == ""


def test_a_curve_of_many_points_stays_small_and_one_without_any_is_none():
    curve = decoded(loss_curve([(step, 1 / (step + 1)) for step in range(100_000)])).decode()
    assert len(curve) < 6000
    assert ">1</text>" in curve
    assert "step 0" in curve
    assert loss_curve([(1, 1.0)]) == ""
    assert loss_curve([(1, math.nan), (2, 0.0), (3, math.inf)]) == ""
