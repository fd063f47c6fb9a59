import hashlib
import os

import pytest

from fluxmodel.data import content_cache
from fluxmodel.data.cache_quota import LIMIT, cache_limit, held_bytes, holdings, remove, trim
from fluxmodel.data.content_cache import ContentCache
from fluxmodel.errors import InputError


def key_of(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def filled(root, name, used, numbers=range(4)):
    """A cache of 1000-byte values, last used at `used`."""
    with ContentCache(root, {"name": name}) as cache:
        for number in numbers:
            cache.put(key_of(number), bytes(1000))
    for path in cache.folder.iterdir():
        os.utime(path, (used, used))
    return cache.folder


def names(root):
    return [each.name for each in holdings(root)]


def test_the_longest_unused_go_first(tmp_path):
    for name, used in (("b", 200), ("c", 300), ("a", 100)):
        filled(tmp_path, name, used)
    assert names(tmp_path) == ["a", "b", "c"]
    total = held_bytes(tmp_path)
    assert total == sum(each.num_bytes for each in holdings(tmp_path)) > 12_000
    assert trim(tmp_path, total) == total
    assert trim(tmp_path, total - 1) == held_bytes(tmp_path) < total
    assert names(tmp_path) == ["b", "c"]
    assert trim(tmp_path, 0) == 0
    assert names(tmp_path) == []


def test_captions_go_when_nothing_else_is_left(tmp_path):
    for name, used in (("captions", 100), ("pixels", 300), ("latents", 200)):
        filled(tmp_path, name, used)
    assert names(tmp_path) == ["latents", "pixels", "captions"]
    one = held_bytes(tmp_path) / 3
    trim(tmp_path, 1.5 * one)
    assert names(tmp_path) == ["captions"]
    assert trim(tmp_path, 0) == 0


def test_what_is_read_counts_as_used(tmp_path):
    filled(tmp_path, "a", 100)
    filled(tmp_path, "b", 200)
    with ContentCache(tmp_path, {"name": "a"}) as cache:
        assert cache.get(key_of(1)) is not None
    trim(tmp_path, held_bytes(tmp_path) - 1)
    assert names(tmp_path) == ["a"]


def test_what_a_process_has_open_stays(tmp_path):
    filled(tmp_path, "a", 100)
    folder = filled(tmp_path, "b", 200)
    with ContentCache(tmp_path, {"name": "a"}) as cache:
        assert [each.is_open for each in holdings(tmp_path)] == [True, False]
        assert trim(tmp_path, 0) > 0
        assert names(tmp_path) == ["a"]
        with pytest.raises(OSError, match="has it open"):
            remove(cache.folder)
        assert cache.get(key_of(1)) == bytes(1000)
    assert not folder.exists()
    remove(cache.folder)
    assert names(tmp_path) == []
    filled(tmp_path, "a", 300)
    assert names(tmp_path) == ["a"]


def test_one_that_alone_fills_the_quota_keeps_no_more_and_makes_room_at_its_end(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(content_cache, "SEGMENT_BYTES", 5_000)
    monkeypatch.setenv(LIMIT, "20e3")
    filled(tmp_path, "old", 100)
    with ContentCache(tmp_path, {"name": "new"}) as cache:
        for number in range(100):
            cache.put(key_of(number), bytes(1000))
            cache.flush()
        assert "FLUXLINE_CACHE_LIMIT" in cache.trouble
        assert cache.get(key_of(0)) == bytes(1000)
        assert 15_000 < held_bytes(tmp_path) < 25_000 + 1_000
    assert len(caplog.records) == 1
    assert names(tmp_path) == ["new"]
    assert 10_000 < held_bytes(tmp_path) <= 18_000
    with ContentCache(tmp_path, {"name": "new"}) as cache:
        cache.put(key_of(1000), b"")
        assert not cache.trouble


def test_a_quota_of_nothing_keeps_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(LIMIT, "0")
    filled(tmp_path, "a", 100)
    assert held_bytes(tmp_path) == 0
    assert len(caplog.records) <= 1


@pytest.mark.parametrize("said", ["many", "-1", "nan", "inf", "1 GB"])
def test_a_quota_that_is_no_number_is_refused_by_name(tmp_path, monkeypatch, said):
    monkeypatch.setenv(LIMIT, said)
    with pytest.raises(InputError, match=f"FLUXLINE_CACHE_LIMIT is '{said}'; give a number of bytes"):
        cache_limit(tmp_path)


def test_without_a_setting_it_is_a_share_of_the_disk_and_no_more_than_20_gb(tmp_path, monkeypatch):
    monkeypatch.delenv(LIMIT, raising=False)
    assert 0 < cache_limit(tmp_path / "not" / "yet") <= 20_000_000_000
