"""The Vendi score counts what is different."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.data.curation import CurationRules, curate
from fluxmodel.data.diversity import effective_number, measure_diversity, vendi_score

seeds = st.integers(0, 2**32)


@pytest.mark.parametrize("shape", [(5, 5), (5, 40), (30, 30)])
def test_orthogonal_rows_all_count_and_equal_ones_are_one(shape):
    assert vendi_score(np.eye(*shape)) == pytest.approx(shape[0])
    assert vendi_score(np.ones(shape)) == pytest.approx(1)
    assert vendi_score(np.zeros(shape)) == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 40), st.integers(1, 40))
def test_it_is_that_of_the_kernel_matrix_whichever_side_is_smaller(seed, n, d):
    rows = np.random.default_rng(seed).normal(size=(n, d))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    eigenvalues = np.clip(np.linalg.eigvalsh(unit @ unit.T / n), 1e-300, None)
    expected = np.exp(-(eigenvalues * np.log(eigenvalues)).sum())
    assert vendi_score(rows) == pytest.approx(expected, rel=1e-6)
    assert 1 - 1e-9 <= vendi_score(rows) <= min(n, d) + 1e-6


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_order_scale_rotation_and_repetition_change_nothing(seed):
    random = np.random.default_rng(seed)
    rows = random.normal(size=(12, 6))
    turn = np.linalg.qr(random.normal(size=(6, 6)))[0]
    scaled = rows * random.uniform(0.1, 10, (12, 1))
    for same in (random.permutation(rows), scaled, rows @ turn, np.repeat(rows, 3, axis=0)):
        assert vendi_score(same) == pytest.approx(vendi_score(rows))


@pytest.mark.parametrize("features", [np.empty((0, 3)), np.array([[1.0, np.nan]])])
def test_nothing_and_what_is_no_number_are_refused(features):
    with pytest.raises(ValueError, match="finite"):
        vendi_score(features)


def test_equal_amounts_count_in_full():
    assert effective_number([3, 3, 3]) == pytest.approx(3)
    assert effective_number([9, 0]) == pytest.approx(1)


def test_scenes_are_counted_by_colour_and_shape(tmp_path):
    curate("procedural:shapes?level=demo&n=120&seed=0", CurationRules(), tmp_path)
    found = measure_diversity(CuratedDataset(tmp_path))
    assert 1 < found.vendi < found.num_images
    assert found.effective_combinations is not None
    assert 1 < found.effective_combinations <= len(found.combinations)
    assert sum(found.combinations.values()) >= found.num_images
