"""The closed form of the network's operations against torch's own counter, on the meta device."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.flops import forward_flops, sampling_flops, training_flops
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.training.lora import add_adapters

SMALL = {
    "in_channels": 20,
    "out_channels": 12,
    "vec_in_dim": 24,
    "context_in_dim": 28,
    "hidden_size": 48,
    "num_heads": 3,
    "axes_dim": (4, 6, 6),
    "depth": 2,
    "depth_single_blocks": 3,
    "guidance_embed": False,
}
SHAPES = {
    "as trained": {},
    "dev": {"guidance_embed": True, "mlp_ratio": 3.3},
    "no double block": {"depth": 0},
    "no single block": {"depth_single_blocks": 0},
    "one of each": {"depth": 1, "depth_single_blocks": 1, "qkv_bias": False},
    "no block": {"depth": 0, "depth_single_blocks": 0},
}
SIZES = ((1, 63, 17), (3, 16, 5))  # images, image tokens, text tokens


def config_of(name: str) -> MMDiTConfig:
    return MMDiTConfig.model_validate({**SMALL, **SHAPES[name]})


def inputs(config: MMDiTConfig, batch: int, num_image: int, num_text: int) -> dict[str, torch.Tensor]:
    given = {
        "img_ids": torch.zeros(batch, num_image, 3),
        "txt": torch.zeros(batch, num_text, config.context_in_dim),
        "txt_ids": torch.zeros(batch, num_text, 3),
        "y": torch.zeros(batch, config.vec_in_dim),
    }
    return given | ({"guidance": torch.zeros(batch)} if config.guidance_embed else {})


def counted(model: MMDiT, batch: int, num_image: int, num_text: int, backward: bool) -> tuple[int, int]:
    """What torch counts, forward and backward."""
    img = torch.zeros(batch, num_image, model.config.in_channels)
    given = inputs(model.config, batch, num_image, num_text)
    with FlopCounterMode(display=False) as forward:
        loss = model(img, timesteps=torch.zeros(batch), **given).square().mean()
    with FlopCounterMode(display=False) as behind:
        if backward:
            loss.backward()
    return forward.get_total_flops(), behind.get_total_flops()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SHAPES)
def test_the_closed_form_of_training_is_what_torch_counts(name, size):
    config = config_of(name)
    with torch.device("meta"):
        forward, backward = counted(MMDiT(config), *size, backward=True)
    found = training_flops(config, *size)
    assert (sum(found.forward.values()), sum(found.backward.values())) == (forward, backward)
    assert forward_flops(config, *size).total == forward


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "no block"])
def test_the_closed_form_of_adapters_is_what_torch_counts(name):
    config, rank = config_of(name), 5
    with torch.device("meta"):
        model = add_adapters(MMDiT(config), rank, 1.0, seed=0)
        forward, backward = counted(model, *SIZES[0], backward=True)
    adapted = {key.partition(".lora_A")[0] for key, _ in model.named_parameters() if ".lora_A" in key}
    found = training_flops(config, *SIZES[0], adapted, rank)
    assert (sum(found.forward.values()), sum(found.backward.values())) == (forward, backward)


def test_twelve_billion_parameters_are_counted_exactly():
    config, size = MMDiTConfig(), (1, 4096, 512)
    with torch.device("meta"):
        forward, backward = counted(MMDiT(config), *size, backward=True)
    found = training_flops(config, *size)
    assert (sum(found.forward.values()), sum(found.backward.values())) == (forward, backward)


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("name", ["as trained", "dev"])
def test_the_operations_of_an_image_are_those_of_its_steps(name, passes):
    config, (num_image, num_text), num_steps = config_of(name), (30, 7), 5
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = MMDiT(config)
        img = torch.zeros(passes, num_image, config.in_channels)
        steps = model.condition_steps(
            times=torch.zeros(num_steps), **inputs(config, passes, num_image, num_text)
        )
        for given in steps:
            model.velocity(img, given)
    assert sampling_flops(config, num_image, num_text, num_steps, passes) == counter.get_total_flops()


def test_the_rule_of_six_overstates_the_layers_of_flux_by_1_8():
    config, num_tokens = MMDiTConfig(), 4096 + 512
    found = training_flops(config, 1, 4096, 512)
    layers = found.total - found.forward["attention"] - found.backward["attention"]
    assert 6 * 11_901_408_320 * num_tokens / layers == pytest.approx(1.85, abs=0.01)
    assert 6 * 11_901_408_320 * num_tokens / found.total == pytest.approx(1.48, abs=0.01)
