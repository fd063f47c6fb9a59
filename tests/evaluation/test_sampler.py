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


def tiny_model(directory):
    """An untrained model directory whose velocity is not zero."""
    from fluxmodel.encoders.autoencoder import Autoencoder, AutoencoderConfig
    from fluxmodel.encoders.text import WordEncoderConfig
    from fluxmodel.mmdit.config import MMDiTConfig
    from fluxmodel.mmdit.transformer import MMDiT
    from fluxmodel.text_to_image import assemble
    from fluxmodel.weights import save_mmdit

    torch.manual_seed(0)
    text = WordEncoderConfig(dim=16)
    config = MMDiTConfig(
        in_channels=32, out_channels=32, vec_in_dim=16, context_in_dim=16, hidden_size=32, mlp_ratio=2, num_heads=2,
        depth=1, depth_single_blocks=1, axes_dim=(4, 6, 6), guidance_embed=False,
    )  # fmt: skip
    model = MMDiT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for name in ("trained/transformer", "autoencoder", "model"):
        (directory / name).mkdir(parents=True)
    save_mmdit(model, directory / "trained" / "transformer")
    (directory / "trained" / "text_encoder.json").write_text(text.model_dump_json())
    Autoencoder(AutoencoderConfig(width=16, num_blocks=1)).save(directory / "autoencoder")
    assemble(directory / "trained", directory / "autoencoder", directory / "model", 32, 8, 2.0)
    return directory / "model"


@pytest.mark.slow
def test_two_workers_draw_the_same_pixels_as_one(tmp_path):
    from fluxmodel.text_to_image import TextToImage

    directory = tiny_model(tmp_path)
    pipe = TextToImage.from_pretrained(directory)
    with Sampler(pipe, directory, 4, workers=1) as alone, Sampler(pipe, directory, 4, workers=2) as shared:
        assert torch.equal(alone.sample(ASKED, 2, 2.0), shared.sample(ASKED, 2, 2.0))
