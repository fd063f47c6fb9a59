import pytest
import torch

from evaluation.prompts import PromptSet
from evaluation.sampler import Sampler


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
    from fluxmodel.encoders.autoencoder import Autoencoder, AutoencoderConfig
    from fluxmodel.encoders.text import WordEncoder, WordEncoderConfig
    from fluxmodel.mmdit.config import MMDiTConfig
    from fluxmodel.mmdit.transformer import MMDiT
    from fluxmodel.text_to_image import ModelIndex, TextToImage

    pytest.importorskip("fluxmodel.weights")
    torch.manual_seed(0)
    text = WordEncoder(WordEncoderConfig())
    config = MMDiTConfig(
        in_channels=32, out_channels=32, vec_in_dim=text.config.pooled_dim, context_in_dim=text.config.token_dim,
        hidden_size=32, mlp_ratio=2, num_heads=2, depth=1, depth_single_blocks=1, axes_dim=(4, 6, 6),
        theta=10000, qkv_bias=True, guidance_embed=False,
    )  # fmt: skip
    pipe = TextToImage(
        ModelIndex(image_size=32), MMDiT(config), Autoencoder(AutoencoderConfig(width=16)), text
    )
    pipe.save(tmp_path)
    with Sampler(pipe, tmp_path, batch_size=4, workers=1) as alone, Sampler(pipe, tmp_path, 4, 2) as shared:
        assert torch.equal(alone.sample(ASKED, 2, 2.0), shared.sample(ASKED, 2, 2.0))
