"""Fitted pixels from the cache: what decoding gives, without decoding."""

import numpy as np
import pytest

from fluxmodel.data import decode
from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.data.curation import curate
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.image_pool import load_pools


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("curated")
    curate("procedural:shapes?level=demo&n=24&seed=0", CurationRules(test_fraction=0.2), directory)
    return directory


@pytest.fixture
def decoded(monkeypatch):
    calls, whole = [], decode.decode
    monkeypatch.setattr(decode, "decode", lambda *given: calls.append(0) or whole(*given))
    return calls


def test_a_second_reader_decodes_nothing_and_sees_the_same(dataset, tmp_path, decoded):
    expected, num = CuratedDataset(dataset).pixels("train"), CuratedDataset(dataset).num("train")
    decoded.clear()
    for _ in range(2):
        assert np.array_equal(CuratedDataset(dataset, tmp_path).pixels("train"), expected)
        assert len(decoded) == num
    for images, place in zip(
        CuratedDataset(dataset, tmp_path).iter_pixels("train", {5, 2}), (2, 5), strict=True
    ):
        assert np.array_equal(images, expected[place])
        images[:] = 0  # its own copy, as a decoded one is
    assert len(decoded) == num
    train, _ = load_pools(str(dataset), 7, 3, cache=str(tmp_path))
    assert np.array_equal(train.pixels, expected[:7])


def test_what_was_read_in_part_or_damaged_is_decoded_and_nothing_else(dataset, tmp_path, decoded):
    expected = CuratedDataset(dataset).pixels("train")
    decoded.clear()
    CuratedDataset(dataset, tmp_path).pixels("train", limit=5)
    assert 5 <= len(decoded) <= 6
    (segment,) = tmp_path.glob("pixels/*/*.values")
    raw = bytearray(segment.read_bytes())
    raw[100] ^= 1  # within the first value
    segment.write_bytes(raw)
    before = len(decoded)
    for _ in range(2):
        assert np.array_equal(CuratedDataset(dataset, tmp_path).pixels("train"), expected)
        assert len(decoded) == len(expected) + 1
    assert before < len(decoded)


def test_another_size_is_another_recipe(tmp_path):
    for size in (32, 16):
        (tmp_path / str(size)).mkdir()
        rules = CurationRules(test_fraction=0, image_size=size)
        curate("procedural:shapes?level=demo&n=8&seed=0", rules, tmp_path / str(size))
        assert CuratedDataset(tmp_path / str(size), tmp_path / "cache").pixels("train").shape[1] == size
    assert len(list((tmp_path / "cache" / "pixels").iterdir())) == 2
