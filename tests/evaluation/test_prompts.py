import numpy as np
import pytest

from evaluation import EvaluationSettings
from evaluation.baselines import derangement
from evaluation.prompts import build_benchmark, draw_scenes
from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.data.procedural import LEVELS, held_out_pairs


@pytest.fixture(scope="module")
def benchmark(scenes_dataset):
    settings = EvaluationSettings(num_images=30, num_held_out=10)
    return build_benchmark(CuratedDataset(scenes_dataset), settings)


def test_held_out_prompts_hold_pairs_that_the_others_lack(benchmark):
    hidden = held_out_pairs(LEVELS["demo"])

    def pairs(captions):
        return [{(item.shape, item.color) for item in caption.objects} & hidden for caption in captions]

    assert not any(pairs(benchmark.prompts.captions))
    assert all(pairs(benchmark.held_out.captions))


def test_no_two_images_share_their_noise(benchmark):
    seeds = benchmark.prompts.seeds + benchmark.held_out.seeds
    assert len(set(seeds)) == len(seeds) == 40


def test_the_families_of_scenes_are_different():
    families = [
        draw_scenes("demo", name, 0, 20) for name in ("prompts", "reference", "second", "calibration")
    ]
    assert len({tuple(scene.to_json() for scene in family) for family in families}) == 4


def test_reference_and_prompts_are_as_many(benchmark):
    assert len(benchmark.reference) == len(benchmark.second) == len(benchmark.real) == len(benchmark.prompts)


@pytest.mark.parametrize("n", [2, 3, 10, 1001])
def test_shuffling_leaves_no_caption_in_place(n):
    order = derangement(n, 0)
    assert sorted(order) == list(range(n))
    assert not (order == np.arange(n)).any()
