"""A folder of every kind of bad file: the run ends, nothing is lost, what is kept looks as it should."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fluxmodel.data.curation import CuratedDataset, CurationReport, CurationRules, curate
from fluxmodel.data.decode import Refusal, decode
from fluxmodel.data.records import Reason
from tests.fluxmodel.data.bad_files import Kind, all_kinds
from tests.fluxmodel.data.bad_folder import write_folder
from tests.fluxmodel.data.pictures import encoded, picture

RULES = CurationRules(near_duplicate_distance=None, test_fraction=0)
KINDS = all_kinds()
# Refused by a rule on what was decoded, not by the decoder.
BY_SIZE = (Reason.TOO_SMALL, Reason.TOO_ELONGATED)


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Reason | None], CurationReport]:
    root = tmp_path_factory.mktemp("kinds")
    fates = write_folder(root / "images")
    output = root / "curated"
    output.mkdir()
    return fates, curate(str(root / "images"), RULES, output)


def first_failures(output: Path) -> Counter[tuple[str, str]]:
    rows = pq.read_table(output / "decisions.parquet").to_pylist()
    return Counter((row["path"], row["reason"]) for row in rows if row["passed"] is False)


def assert_shows(kind: Kind, pixels: np.ndarray) -> None:
    assert kind.pixels is not None
    if kind.pixels.shape[:2] != (1, 1):
        assert pixels.shape[:2] == kind.pixels.shape[:2]
    assert np.abs(pixels.astype(float) - kind.pixels).max() <= max(kind.tolerance, 0.501)


def test_there_are_many_kinds():
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 60


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_gives_its_pixels_or_its_reason(kind):
    if kind.pixels is not None:
        assert_shows(kind, decode(kind.data))
    elif kind.reason not in BY_SIZE:
        with pytest.raises(Refusal) as caught:
            decode(kind.data)
        assert caught.value.reason == kind.reason, caught.value.detail
        assert caught.value.detail


def test_every_file_of_the_folder_is_kept_or_dropped_for_its_reason(curated):
    fates, report = curated
    assert report.seen == len(fates) == report.kept + sum(report.dropped.values())
    wanted = Counter(reason for reason in fates.values() if reason)
    assert report.dropped == dict(wanted)
    failures = first_failures(report.report.parent)
    for name, reason in fates.items():
        place = name.removesuffix(" (second)")
        found = {said for path, said in failures if path == place}
        assert (reason in found) if reason else (not found or f"{place} (second)" in fates), (place, found)


def test_what_is_wrong_beside_the_images_is_told_too(curated):
    _, report = curated
    assert report.problems == {"bad_caption_file": 1, "bad_metadata_row": 3, "missing_file": 2}


def test_what_is_kept_shows_what_was_written(curated):
    fates, report = curated
    directory = report.report.parent
    stored = {
        row["id"]: row["image"]["bytes"]
        for shard in sorted(directory.glob("shard-*.parquet"))
        for row in pq.read_table(shard, columns=["id", "image"]).to_pylist()
    }
    by_name = {kind.name: kind for kind in KINDS if kind.pixels is not None}
    assert {name for name, reason in fates.items() if reason is None} == set(stored)
    for name, kind in by_name.items():
        assert_shows(kind, decode(stored[name]))
    assert CuratedDataset(directory).pixels("train").shape == (report.kept, 32, 32, 3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read_is_dropped_as_unreadable(tmp_path):
    (tmp_path / "images").mkdir()
    for seed in range(2):
        path = tmp_path / "images" / f"{seed}.png"
        path.write_bytes(encoded(picture(seed)))
        path.with_suffix(".txt").write_text("a picture")
    path.chmod(0)
    (tmp_path / "out").mkdir()
    report = curate(str(tmp_path / "images"), RULES, tmp_path / "out")
    assert report.dropped == {"unreadable": 1}
