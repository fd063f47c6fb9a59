"""Caches that cannot be written, vanish or are too small: a run goes on, says so once, and makes the same."""

import errno
import json
import os
import shutil

import pytest

from fluxmodel.data import content_cache, source_ledger
from fluxmodel.data.cache_quota import LIMIT, held_bytes, holdings, trim
from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.data.curation import curate
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.sources import open_source

DATA = "procedural:shapes?level=demo&n=300&seed=0"
RULES = CurationRules(test_fraction=0.1)


def curated(output, cache, data=DATA, progress=None):
    """A curation and the reading of its pixels; return what was made and what it says of the source."""
    output.mkdir()
    told = output.parent / "changes.json"
    curate(data, RULES, output, progress, cache, told)
    images = CuratedDataset(output, cache).pixels("train")
    made = {path.name: path.read_bytes() for path in output.iterdir()}
    return made | {"images": images.tobytes()}, json.loads(told.read_text())["sentence"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return curated(tmp_path_factory.mktemp("plain") / "out", tmp_path_factory.mktemp("cache"))[0]


@pytest.mark.parametrize("kind", ["sources", "measurements", "pixels"])
def test_a_folder_that_cannot_be_made_costs_one_line(expected, tmp_path, kind, caplog):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / kind).write_text("a file where a folder should be")
    made, said = curated(tmp_path / "out", tmp_path / "cache")
    assert made == expected
    assert said == "300 decoded"
    assert [str(tmp_path / "cache" / kind) in each.message for each in caplog.records] == [True]


def test_a_disk_that_is_full_from_the_beginning_costs_a_line_a_cache(expected, tmp_path, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(content_cache, "write_recipe", full)
    monkeypatch.setattr(source_ledger, "write_recipe", full)
    assert curated(tmp_path / "out", tmp_path / "cache") == (expected, "300 decoded")
    assert len(caplog.records) == 3
    assert all("No space left" in each.message for each in caplog.records)


def test_a_disk_that_fills_while_the_ledger_is_written_costs_a_line(expected, tmp_path, monkeypatch, caplog):
    import pyarrow.parquet as pq

    whole = pq.ParquetWriter.write_table

    def full(self, table, *given, **more):
        if table.schema.names == ["id", "image", "captions"]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(self, table, *given, **more)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    assert curated(tmp_path / "out", tmp_path / "cache") == (expected, "300 decoded")
    assert len(caplog.records) == 1
    assert not list(tmp_path.glob("cache/sources/*/*.tmp"))


def test_a_cache_that_may_only_be_read_is_read(expected, tmp_path, monkeypatch, caplog):
    cache = tmp_path / "cache"
    curated(tmp_path / "first", cache)
    opened = os.open

    def read_only(path, flags, *more, **given):
        if str(path).startswith(str(cache)) and flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, flags, *more, **given)

    monkeypatch.setattr(os, "open", read_only)
    made, _ = curated(tmp_path / "second", cache)
    assert made == expected
    assert json.loads((tmp_path / "changes.json").read_text())["num_decoded"] == 0
    assert not caplog.records, "no value was to be written: nothing is to be said"


def test_a_cache_that_vanishes_in_the_middle_costs_a_line_a_cache(expected, tmp_path, monkeypatch, caplog):
    cache = tmp_path / "cache"

    def vanish(done, total, word):
        shutil.rmtree(cache, ignore_errors=True)

    assert curated(tmp_path / "out", cache, progress=vanish) == (expected, "300 decoded")
    assert 1 <= len(caplog.records) <= 2
    assert all(str(cache) in each.message for each in caplog.records)
    assert curated(tmp_path / "again", cache)[0] == expected


def test_a_quota_smaller_than_one_value_keeps_nothing_and_says_so(expected, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(LIMIT, "1000")
    assert curated(tmp_path / "out", tmp_path / "cache") == (expected, "300 decoded")
    assert held_bytes(tmp_path / "cache") == 0
    assert [LIMIT in each.message for each in caplog.records] == [True, True]


def test_a_small_quota_has_small_files_and_is_hardly_passed(tmp_path, monkeypatch):
    monkeypatch.setenv(LIMIT, "100e3")
    most = 0
    with content_cache.ContentCache(tmp_path, {"name": "a"}) as cache:
        for number in range(500):
            cache.put(f"{number:064x}", bytes(1000))
            cache.flush()
            most = max(most, held_bytes(tmp_path))
    assert most < 120e3
    assert 50e3 < held_bytes(tmp_path) <= 90e3


def test_what_is_known_of_a_source_counts_for_the_quota_and_going_leaves_nothing_false(tmp_path):
    cache = tmp_path / "cache"
    curated(tmp_path / "first", cache)
    (held,) = (each for each in holdings(cache) if each.name == "sources")
    assert held.num_bytes > 300 * 32
    assert held.recipe["source"] == open_source(DATA).spec
    assert curated(tmp_path / "second", cache)[1] == "0 decoded; the source is as it was"
    assert trim(cache, 0) == 0
    assert holdings(cache) == []
    assert curated(tmp_path / "third", cache)[1] == "300 decoded"
    assert curated(tmp_path / "fourth", cache)[1] == "0 decoded; the source is as it was"


def test_what_killed_runs_left_goes_after_a_day(tmp_path):
    curated(tmp_path / "first", tmp_path / "cache")
    (last,) = tmp_path.glob("cache/sources/*/last.parquet")
    for name, used in (("1.tmp", 0.0), ("2.tmp", last.stat().st_mtime)):
        last.with_name(name).write_bytes(b"half")
        os.utime(last.with_name(name), (used, used))
    curated(tmp_path / "second", tmp_path / "cache")
    assert [path.name for path in last.parent.glob("*.tmp")] == ["2.tmp"]
