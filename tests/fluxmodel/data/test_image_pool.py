"""Images to prepare parts from: other scenes than the base model's, and a curated folder's own splits."""

import numpy as np
import pytest

from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.data.curation import curate
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.image_pool import HELD_OUT_EVERY, load_pools
from fluxmodel.data.procedural import LEVELS, draw_scene, held_out_pairs
from fluxmodel.errors import ArtifactError

SPEC = "procedural:shapes?level=demo&n=100&seed=0"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("curated")
    curate("procedural:shapes?level=demo&n=40&seed=0", CurationRules(test_fraction=0.2), directory)
    return directory


def hidden_in(scene):
    return {(o.shape, o.color) for o in scene.objects} & held_out_pairs(LEVELS["demo"])


def test_a_pool_is_a_function_of_its_specification():
    first, second = load_pools(SPEC, 12, 6), load_pools(SPEC, 12, 6)
    for one, two in zip(first, second, strict=True):
        assert np.array_equal(one.pixels, two.pixels)
        assert one.captions == two.captions


def test_training_validation_and_base_model_see_different_scenes():
    train, validation = load_pools(SPEC, 30, 30)
    base = [draw_scene(LEVELS["demo"], 0, i) for i in range(30)]
    learned, judged = set(train.scenes or []), set(validation.scenes or [])
    assert len(learned) == len(judged) == 30
    assert not learned & judged
    assert not (learned | judged) & set(base)


@pytest.mark.parametrize("asked", [True, False])
def test_held_out_pairs_are_shown_only_where_asked(asked):
    for pool in load_pools(SPEC, 20, 20, with_held_out=asked):
        assert [bool(hidden_in(s)) for s in pool.scenes or []] == [
            asked and i % HELD_OUT_EVERY == 0 for i in range(20)
        ]


def test_a_curated_dataset_gives_its_own_splits(dataset):
    train, validation = load_pools(str(dataset), 10, 1000)
    curated = CuratedDataset(dataset)
    assert np.array_equal(train.pixels, curated.pixels("train")[:10])
    assert np.array_equal(validation.pixels, curated.pixels("test"))
    assert train.image_size == 32
    assert train.captions == [own[0].text for own in curated.captions("train")[:10]]
    assert len(validation.captions) == len(validation.pixels)


def test_without_a_test_split_training_images_are_judged_on(tmp_path):
    curate("procedural:shapes?level=demo&n=6&seed=0", CurationRules(test_fraction=0), tmp_path)
    train, validation = load_pools(str(tmp_path), 10, 10)
    assert validation is train


def test_a_directory_without_a_dataset_is_refused_by_name(tmp_path):
    with pytest.raises(ArtifactError, match="nothing: no curated dataset there"):
        load_pools(str(tmp_path / "nothing"), 1, 1)
