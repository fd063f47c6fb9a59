"""What the store lost comes back from MLflow; only what MLflow cannot give is made again."""

import shutil

import pytest

pytestmark = pytest.mark.slow


def test_a_lost_store_comes_back_from_mlflow_and_nothing_is_made_again(again, finished, ran, tmp_path):
    digests = {name: stage["digest"] for name, stage in finished[1].items()}
    for lost in (["artifacts"], ["artifacts", "work"]):
        for name in lost:
            shutil.rmtree(again.home / name)
        stages, _, err = again.pipeline()
        assert ran(stages) == []
        assert {name: stage["digest"] for name, stage in stages.items()} == digests
        assert all(f"{name}: restored from MLflow (manifest.json is missing)." in err for name in stages)
        assert all((again.artifact(stage) / "manifest.json").is_file() for stage in stages.values())
        assert not list((again.home / "fetched").glob(".partial*"))
    shutil.rmtree(again.home / "artifacts")
    drawn, _ = again.run(
        "generate", "a red circle", "--lora", "wash", "--out", str(tmp_path / "out"), "--json"
    )
    assert len(drawn["images"]) == 1


def test_a_damaged_artifact_comes_back_from_mlflow(again, finished, ran):
    place = again.artifact(finished[1]["encode"]) / "config.json"
    place.write_text(place.read_text() + " ")
    stages, _, err = again.pipeline()
    assert ran(stages) == []
    assert "encode: restored from MLflow (config.json differs from its digest)." in err


def test_while_mlflow_is_away_a_damaged_artifact_is_made_again_and_what_follows_is_reused(
    again, finished, ran
):
    place = again.artifact(finished[1]["encode"]) / "config.json"
    place.write_text(place.read_text() + " ")
    again.environment = {**again.environment, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    stages, _, err = again.pipeline()
    assert ran(stages) == ["encode"]
    assert stages["encode"]["digest"] == finished[1]["encode"]["digest"]
    assert "is damaged (config.json differs from its digest)" in err
