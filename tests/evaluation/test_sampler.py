import pytest
import torch

from evaluation.prompts import PromptSet
from evaluation.sampler import Sampler
from tests.fluxmodel.training.tiny_jobs import tiny_model


class Recorder:
    def __init__(self):
        self.calls = []

    def sample(self, prompts, *, num_steps, guidance, seeds, batch_size):
        self.calls.append((len(prompts), num_steps, guidance, batch_size))
        return torch.tensor(seeds, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)


ASKED = PromptSet("", [str(i) for i in range(10)], list(range(10)), "")


def test_batches_are_cut_alike_and_told():
    pipe, told = Recorder(), []
    with Sampler(pipe, batch_size=4) as sampler:
        images = sampler.sample(ASKED, 3, 2.0, told.append)
    assert images[:, 0, 0, 0].tolist() == list(range(10))
    assert pipe.calls == [(4, 3, 2.0, 4), (4, 3, 2.0, 4), (2, 3, 2.0, 2)]
    assert told == [4, 4, 2]


def test_latency_draws_single_images_and_warms_up():
    pipe = Recorder()
    with Sampler(pipe) as sampler:
        assert sampler.latency_ms("x", 2, 1.0, trials=3) > 0
    assert [count for count, *_ in pipe.calls] == [1] * 4


@pytest.mark.slow
def test_two_workers_draw_the_same_pixels_as_one(tmp_path):
    from fluxmodel.text_to_image import TextToImage

    directory = tiny_model(tmp_path)
    pipe = TextToImage.from_pretrained(directory)
    with Sampler(pipe, directory, 4, workers=1) as alone, Sampler(pipe, directory, 4, workers=2) as shared:
        assert torch.equal(alone.sample(ASKED, 2, 2.0), shared.sample(ASKED, 2, 2.0))
