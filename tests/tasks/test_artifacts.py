import json
import os
from pathlib import Path

import pytest

from fluxmodel.errors import ArtifactError
from tasks.artifacts import MANIFEST, ArtifactRef, ArtifactStore, content_digest, list_files


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "inner").mkdir(parents=True)
    (made / "weights.bin").write_bytes(b"\x01" * 5000)
    (made / "inner" / "card.json").write_text("{}")
    return made


def test_digest_depends_on_content_and_paths_alone(directory, tmp_path):
    before = content_digest(list_files(directory))
    os.utime(directory / "weights.bin", (1, 1))
    moved = directory.rename(tmp_path / "elsewhere")
    assert content_digest(list_files(moved)) == before
    (moved / "weights.bin").rename(moved / "other.bin")
    assert content_digest(list_files(moved)) != before


def test_what_also_tells_timings_is_kept_and_checked_but_is_no_content(home, directory, tmp_path):
    (directory / "undigested.json").write_text('["times.json"]')
    (directory / "times.json").write_text("1 s")
    store = ArtifactStore(home)
    ref = store.put(directory, "model")
    assert (store.path(ref) / "times.json").read_text() == "1 s"
    (directory / "times.json").write_text("2 s")
    assert store.put(directory, "model").digest == ref.digest
    (store.path(ref) / "times.json").write_text("forged")
    assert store.problems(ref) == ["times.json differs from its digest"]


def test_stored_artifact_is_whole_and_named_by_its_digest(home, directory):
    store = ArtifactStore(home)
    ref = store.put(directory, "model", "run7")
    place = store.path(ref)
    assert store.problems(ref) == []
    assert place.name == ref.digest[:16]
    assert ref.num_bytes == 5002
    assert json.loads((place / MANIFEST).read_text())["digest"] == ref.digest
    assert ArtifactRef.model_validate_json(ref.model_dump_json()) == ref
    assert store.put(directory, "model") == ref.model_copy(update={"mlflow_run_id": ""})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: (p / "weights.bin").write_bytes(b"\x01" * 4999 + b"\x02"), "weights.bin differs"),
        (lambda p: (p / "inner" / "card.json").unlink(), "inner/card.json is missing"),
        (lambda p: (p / MANIFEST).unlink(), "manifest.json is missing"),
        (lambda p: (p / MANIFEST).write_text("{"), "manifest.json cannot be read"),
        (lambda p: (p / MANIFEST).write_text('{"digest": "0", "files": []}'), "does not belong"),
    ],
)
def test_damage_is_named(home, directory, damage, said):
    store = ArtifactStore(home)
    ref = store.put(directory, "model")
    damage(store.path(ref))
    assert said in store.problems(ref)[0]


def test_storing_again_mends_a_damaged_artifact(home, directory):
    store = ArtifactStore(home)
    ref = store.put(directory, "model")
    place = store.path(ref)
    (place / "weights.bin").unlink()  # not written through: it may be a link to the source
    (place / "weights.bin").write_bytes(b"?")
    assert store.put(directory, "model").digest == ref.digest
    assert store.problems(ref) == []


def test_half_written_artifact_is_not_taken_for_a_whole_one(home, directory, monkeypatch):
    store = ArtifactStore(home)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.put(directory, "model")
    monkeypatch.undo()
    ref = ArtifactRef(kind="model", uri="", digest=content_digest(list_files(directory)))
    assert store.problems(ref)
    monkeypatch.setattr("tasks.tracking.client", lambda _: (_ for _ in ()).throw(ConnectionError()))
    with pytest.raises(ArtifactError, match="run the pipeline again"):
        store.path(ref)


def test_an_empty_directory_is_no_artifact(home, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="holds no files"):
        ArtifactStore(home).put(tmp_path / "empty", "model")


def test_store_may_be_a_bucket(home, directory, monkeypatch):
    monkeypatch.setenv("FLUXLINE_STORE", "memory://bucket/fluxline")
    store = ArtifactStore(home)
    ref = store.put(directory, "model")
    assert ref.uri.startswith("memory://")
    assert store.problems(ref) == []
    local = store.path(ref)
    assert (local / "weights.bin").read_bytes() == b"\x01" * 5000
    assert (local / "inner" / "card.json").is_file()
    store.fs.rm(f"{store.root}/model/{ref.digest[:16]}/weights.bin")
    assert "is missing" in store.problems(ref)[0]


def test_artifacts_are_found_after_the_home_was_moved(home, directory, tmp_path):
    ref = ArtifactStore(home).put(directory, "model")
    moved = type(home)(home.root.rename(tmp_path / "moved"))
    assert ArtifactStore(moved).problems(ref) == []
