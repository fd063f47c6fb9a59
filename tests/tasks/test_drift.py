"""The vigil over a champion in a real MLflow registry (SQLite): what a night is compared with, and what is kept."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.drift import FILE, ROWS, DriftSettings
from fluxmodel.errors import InputError
from tasks import drift, registry, tracking
from tasks.artifacts import ArtifactRef, ArtifactStore
from tasks.drift import announce_drift, find_watched, judge, tonight
from tasks.home import Home
from tests.kit import write_evaluation

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and SQLAlchemy warn of their own deprecations
NAME, N = "shapes", 200
PARTS = {"evaluate": "evaluation", "curate": "dataset", "prepare-dual_encoder": "dual_encoder"}


def drawn(share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(N) < share


@pytest.fixture
def promoted(tracked: Home, tmp_path: Path) -> np.ndarray:
    """Version 1 is the champion; its evaluation and what it was made of are in the store."""
    right, store, client = drawn(0.8, 0), ArtifactStore(tracked), tracking.client(tracked)
    write_evaluation(tmp_path / "evaluation", right)
    tags = {}
    for stage, kind in [*PARTS.items(), ("model", "model")]:
        folder = tmp_path / kind
        folder.mkdir(exist_ok=True)
        (folder / "card.json").write_text(json.dumps({"kind": kind}))
        ref = store.put(folder, kind)
        prefix = "artifact_" if stage == "model" else f"{stage}."
        tags |= {f"{prefix}digest": ref.digest, f"{prefix}uri": ref.uri}
    client.create_registered_model(NAME)
    client.create_model_version(NAME, "file:///nowhere", tags=tags)
    client.set_registered_model_alias(NAME, "champion", "1")
    return right


def put_night(home: Home, folder: Path, night: int, same: np.ndarray, fresh: np.ndarray) -> ArtifactRef:
    place = folder / f"night-{night}"
    place.mkdir()
    identity = json.loads((folder / "evaluation" / "evaluation.json").read_text())["identity"]
    (place / FILE).write_text(json.dumps({"night": night, "identity": identity, "differing": []}))
    for name, right in (("same", same), ("fresh", fresh)):
        columns = {"curve": ["base_guided"] * N, "steps": [8] * N, "guidance": [2.0] * N, "seed": range(N),
                   "prompt": [f"p{i}" for i in range(N)], "all_correct": right}  # fmt: skip
        pq.write_table(pa.table({key: list(value) for key, value in columns.items()}), place / ROWS[name])
    return ArtifactStore(home).put(place, "vigil")


def test_nights_are_compared_with_the_first_and_the_version_says_the_latest(tracked, promoted, tmp_path):
    watched = find_watched(tracked, NAME)
    assert set(watched.parts) == {"evaluation", "model", "dataset", "dual_encoder"}
    first = put_night(tracked, tmp_path, 10, promoted, drawn(0.8, 1))
    assert judge(tracked, watched, first, DriftSettings()).verdict == "first"
    later = put_night(tracked, tmp_path, 11, promoted, drawn(0.4, 2))
    night = judge(tracked, watched, later, DriftSettings())
    assert (night.verdict, [look.name for look in night.looks]) == ("drifted", ["same", "fresh"])
    tags = registry.find_version(tracked, NAME, "1").tags
    assert tags["drift.first.digest"] == first.digest  # kept by `fluxline prune` as long as the version is
    assert (tags["drift.verdict"], tags["drift.said"]) == ("drifted", night.said)


def test_a_first_night_that_is_lost_is_begun_anew(tracked, promoted, tmp_path):
    watched = find_watched(tracked, NAME)
    first = put_night(tracked, tmp_path, 10, promoted, drawn(0.8, 1))
    judge(tracked, watched, first, DriftSettings())
    ArtifactStore(tracked).discard(first)
    later = put_night(tracked, tmp_path, 11, promoted, drawn(0.8, 2))
    assert judge(tracked, watched, later, DriftSettings()).verdict == "first"
    assert registry.find_version(tracked, NAME, "1").tags["drift.first.digest"] == later.digest


def test_a_drift_is_announced_under_one_key_however_many_nights_see_it(
    tracked, promoted, tmp_path, monkeypatch
):
    told = []
    monkeypatch.setattr(drift, "announce", lambda *call: told.append(call) or len(told) == 1)
    watched = find_watched(tracked, NAME)
    for number in (10, 11):
        worse = promoted & (np.arange(N) > 30)
        night = judge(
            tracked, watched, put_night(tracked, tmp_path, number, worse, drawn(0.8, number)), DriftSettings()
        )
        assert night.verdict == "drifted"
        assert announce_drift(tracked, watched.version, night, {"preset": "smoke"}) == (number == 10)
    assert told[0][1] == told[1][1]
    assert told[0][0] == "fluxline.champion.drifted"
    assert told[0][3]["preset"] == "smoke"


def test_what_cannot_be_watched_is_one_sentence(tracked, promoted):
    with pytest.raises(
        InputError, match="nobody has no champion to watch; `fluxline promote nobody` makes one"
    ):
        find_watched(tracked, "nobody")
    tracking.client(tracked).delete_model_version_tag(NAME, "1", "curate.digest")
    with pytest.raises(InputError, match="does not say which dataset it was judged by; run the pipeline"):
        find_watched(tracked, NAME)


def test_a_night_is_a_day_in_utc():
    assert tonight(0.0) == 0
    assert tonight(86_399.0) == 0
    assert tonight(20_000 * 86_400.0) == 20_000
