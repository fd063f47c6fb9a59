import hashlib
import json
import multiprocessing
import os
import random
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxmodel.data import content_cache
from fluxmodel.data.content_cache import ContentCache, recipe_digest

RECIPE = {"name": "tests", "transform": "none"}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """A killed process loses nothing that was written; only a power cut asks for more, which no test can make."""
    monkeypatch.setattr(os, "fdatasync", lambda file: None)


def key_of(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def value_of(number):
    return random.Random(number).randbytes(number * 7 % 61)


def cache_at(directory):
    return ContentCache(directory, RECIPE)


def filled(directory, numbers, size_of_flush=3):
    with cache_at(directory) as cache:
        for place, number in enumerate(numbers, 1):
            cache.put(key_of(number), value_of(number))
            if place % size_of_flush == 0:
                cache.flush()
    return cache.folder


def read(directory, numbers):
    with cache_at(directory) as cache:
        return [cache.get(key_of(number)) for number in numbers]


def test_what_was_put_is_there_for_whoever_comes_later(tmp_path):
    filled(tmp_path, range(20))
    with cache_at(tmp_path) as cache:
        assert [cache.get(key_of(number)) for number in range(20)] == [value_of(n) for n in range(20)]
        assert key_of(3) in cache
        assert key_of(20) not in cache
        assert cache.get(key_of(20)) is None
        assert len(cache) == 20


def test_the_first_value_of_a_key_stays(tmp_path):
    with cache_at(tmp_path) as cache:
        cache.put(key_of(1), b"first")
        cache.put(key_of(1), b"second")
        cache.flush()
        cache.put(key_of(1), b"third")
        assert cache.get(key_of(1)) == b"first"
    with cache_at(tmp_path) as cache:
        cache.put(key_of(1), b"fourth")
        assert cache.get(key_of(1)) == b"first"
        assert len(cache) == 1


@pytest.mark.parametrize("changed", [{"transform": "other"}, {"version": 2}, {"name": "others"}])
def test_another_recipe_is_another_cache(tmp_path, changed):
    filled(tmp_path, range(3))
    with ContentCache(tmp_path, RECIPE | changed) as cache:
        assert len(cache) == 0
        assert key_of(0) not in cache
        assert json.loads((cache.folder / "recipe.json").read_text()) == RECIPE | changed


def test_the_order_of_a_recipes_fields_means_nothing():
    assert recipe_digest(RECIPE) == recipe_digest(dict(reversed(RECIPE.items())))


@pytest.mark.parametrize("key", ["", "ab", "zz" * 32, "00" * 33])
def test_a_key_that_is_no_sha256_is_refused(tmp_path, key):
    with cache_at(tmp_path) as cache, pytest.raises(ValueError, match="hexadecimal"):
        cache.get(key)


def test_runs_one_after_another_share_a_segment(tmp_path):
    for start in range(0, 40, 4):
        folder = filled(tmp_path, range(start, start + 4))
    assert len(list(folder.glob("*.values"))) == 1
    assert read(tmp_path, range(40)) == [value_of(n) for n in range(40)]


def test_two_that_write_at_once_never_meet_in_a_segment(tmp_path):
    with cache_at(tmp_path) as one, cache_at(tmp_path) as other:
        for number in range(10):
            (one, other)[number % 2].put(key_of(number), value_of(number))
            (one, other)[number % 2].flush()
        assert one.get(key_of(1)) is None, "a cache sees what was there when it was opened"
    assert len(list(one.folder.glob("*.values"))) == 2
    assert read(tmp_path, range(10)) == [value_of(n) for n in range(10)]


def test_a_segment_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(content_cache, "SEGMENT_BYTES", 200)
    folder = filled(tmp_path, range(20))
    assert len(list(folder.glob("*.values"))) > 3
    assert read(tmp_path, range(20)) == [value_of(n) for n in range(20)]


def is_a_prefix(found, expected):
    num = next((place for place, value in enumerate(found) if value is None), len(found))
    return found == [*expected[:num], *[None] * (len(found) - num)]


@pytest.mark.parametrize("suffix", ["values", "index"])
def test_a_file_cut_off_at_any_byte_leaves_a_prefix(tmp_path, suffix):
    numbers = range(5)
    whole = filled(tmp_path / "whole", numbers)
    (segment,) = whole.glob(f"*.{suffix}")
    expected = [value_of(n) for n in numbers]
    most = 0
    for size in range(segment.stat().st_size + 1):
        there = tmp_path / "cut"
        shutil.rmtree(there, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", there)
        os.truncate(there / segment.relative_to(tmp_path / "whole"), size)
        found = read(there, numbers)
        assert is_a_prefix(found, expected)
        num = sum(value is not None for value in found)
        assert num >= most, "more bytes, fewer values"
        most = num
        filled(there, [*numbers, 99])
        assert read(there, [*numbers, 99]) == [*expected, value_of(99)], "it does not heal"
        if suffix == "index":
            assert num == len(numbers), "the index is a short cut and nothing else"
    assert most == len(numbers)


@pytest.mark.parametrize("suffix", ["values", "index"])
def test_no_byte_can_change_unseen(tmp_path, suffix):
    numbers = range(6)
    whole = filled(tmp_path / "whole", numbers)
    (segment,) = whole.glob(f"*.{suffix}")
    there = tmp_path / "changed"
    shutil.copytree(tmp_path / "whole", there)
    target = there / segment.relative_to(tmp_path / "whole")
    good = target.read_bytes()
    for place in range(len(good)):
        damaged = bytearray(good)
        damaged[place] ^= 1 << place % 8
        target.write_bytes(damaged)
        for number, value in zip(numbers, read(there, numbers), strict=True):
            assert value in (None, value_of(number))
            assert value is not None or suffix == "values"


def test_a_damaged_value_can_be_put_again(tmp_path):
    folder = filled(tmp_path, [5, 6])
    (segment,) = folder.glob("*.values")
    raw = bytearray(segment.read_bytes())
    raw[raw.index(value_of(5))] ^= 1
    segment.write_bytes(raw)
    with cache_at(tmp_path) as cache:
        assert cache.get(key_of(5)) is None
        assert key_of(5) not in cache
        cache.put(key_of(5), value_of(5))
    assert read(tmp_path, [5, 6]) == [value_of(5), value_of(6)]


def test_keys_alike_in_their_first_bytes_are_told_apart(tmp_path):
    one, other = "ab" * 8 + "00" * 24, "ab" * 8 + "11" * 24
    with cache_at(tmp_path) as cache:
        cache.put(one, b"one")
        assert other not in cache
        cache.put(other, b"other")
    with cache_at(tmp_path) as cache:
        assert (cache.get(one), cache.get(other)) == (b"one", b"other")
        assert "ab" * 8 + "22" * 24 not in cache


steps = st.lists(
    st.one_of(st.tuples(st.just("put"), st.integers(0, 30)), st.just(("flush", 0)), st.just(("open", 0))),
    max_size=40,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
@pytest.mark.parametrize("merge_entries", [2, 1000])
def test_any_life_of_a_cache_is_that_of_a_dictionary(tmp_path, merge_entries, steps, monkeypatch):
    monkeypatch.setattr(content_cache, "_MERGE_ENTRIES", merge_entries)
    shutil.rmtree(tmp_path / "tests", ignore_errors=True)
    flushed, pending = {}, {}
    cache = cache_at(tmp_path)
    for what, number in steps:
        if what == "put":
            cache.put(key_of(number), value_of(number))
            pending[number] = value_of(number)
        elif what == "flush":
            cache.flush()
            flushed, pending = flushed | pending, {}
        else:  # killed: what was not flushed is gone
            cache._pending.clear()
            cache.close()
            cache, pending = cache_at(tmp_path), {}
        held = flushed | pending
        assert [cache.get(key_of(n)) for n in range(31)] == [held.get(n) for n in range(31)]
        assert {n for n in range(31) if key_of(n) in cache} == set(held)
    cache.close()


def _write_for_ever(directory, first):
    with cache_at(directory) as cache:
        for number in range(first, first + 1_000_000):
            cache.put(key_of(number), value_of(number % 1000))
            cache.flush()


def test_two_processes_killed_in_the_middle_lose_only_what_they_had_not_flushed(tmp_path):
    context = multiprocessing.get_context("fork")
    firsts = (0, 5_000_000)
    for _ in range(2):
        workers = [context.Process(target=_write_for_ever, args=(tmp_path, first)) for first in firsts]
        for worker in workers:
            worker.start()
        before = len(cache_at(tmp_path))
        while len(now := cache_at(tmp_path)) < before + 20:
            now.close()
        now.close()
        for worker in workers:
            worker.kill()
            worker.join()
    with cache_at(tmp_path) as cache:
        for first in firsts:
            found = [cache.get(key_of(number)) for number in range(first, first + len(cache) + 1)]
            assert is_a_prefix(
                found, [value_of(number % 1000) for number in range(first, first + len(found))]
            )


def test_a_forked_process_writes_a_segment_of_its_own(tmp_path):
    with cache_at(tmp_path) as cache:
        cache.put(key_of(0), value_of(0))
        cache.flush()
        worker = multiprocessing.get_context("fork").Process(target=_put_and_close, args=(cache, 1))
        worker.start()
        worker.join()
        cache.put(key_of(2), value_of(2))
    assert read(tmp_path, range(3)) == [value_of(n) for n in range(3)]


def _put_and_close(cache, number):
    cache.put(key_of(number), value_of(number))
    cache.close()


def test_a_disk_that_takes_no_more_costs_one_line_and_no_run(tmp_path, monkeypatch, caplog):
    with cache_at(tmp_path) as cache:
        cache.put(key_of(0), value_of(0))
        cache.flush()
        monkeypatch.setattr(os, "pwrite", _full)
        for number in range(1, 4):
            cache.put(key_of(number), value_of(number))
            cache.flush()
        assert cache.get(key_of(0)) == value_of(0)
        assert cache.get(key_of(2)) is None
        assert "No space left" in cache.trouble
    assert len(caplog.records) == 1


def _full(*_):
    raise OSError(28, "No space left on device")


def test_a_place_where_nothing_can_be_made_is_an_empty_cache(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    with cache_at(tmp_path / "file") as cache:
        cache.put(key_of(0), b"value")
        cache.flush()
        assert cache.get(key_of(0)) is None
        assert cache.trouble
    assert len(caplog.records) == 1
