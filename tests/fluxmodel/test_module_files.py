"""Networks on disk: the same bytes for the same weights, and every misfit named."""

from itertools import pairwise

import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import load_file, save_file
from torch import nn

from fluxmodel.errors import InputError
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.module_files import load_module, read_config, save_module
from fluxmodel.randomness import keyed_generator
from fluxmodel.weights import load_mmdit, save_mmdit


def network(*widths):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))


def test_weights_come_back_and_the_module_is_ready_for_use(tmp_path):
    module = network(3, 4, 2)
    save_module(module, tmp_path / "m.safetensors")
    other = network(3, 4, 2)
    nn.init.zeros_(next(other.parameters()))
    again = load_module(other, tmp_path / "m.safetensors")
    assert not again.training
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in module.state_dict().items())


def test_the_same_weights_give_the_same_bytes_whatever_their_layout(tmp_path):
    torch.manual_seed(0)
    module = nn.Conv2d(3, 4, 3)
    save_module(module, tmp_path / "a")
    module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    save_module(module, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_bf16_weights_are_written_as_fp32(tmp_path):
    save_module(network(2, 2).to(torch.bfloat16), tmp_path / "m")
    assert {t.dtype for t in load_file(tmp_path / "m").values()} == {torch.float32}


def test_missing_unknown_and_misshapen_keys_are_all_named(tmp_path):
    tensors = {"0.weight": torch.zeros(4, 3), "0.bias": torch.zeros(9), "2.weight": torch.zeros(1)}
    save_file(tensors, tmp_path / "m")
    with pytest.raises(InputError) as refusal:
        load_module(network(3, 4, 2), tmp_path / "m")
    said = str(refusal.value)
    for fault in ("missing 1.bias", "missing 1.weight", "unknown 2.weight", "0.bias is (9,), not (4,)"):
        assert fault in said
    assert "0.weight" not in said
    assert str(tmp_path / "m") in said


@pytest.mark.parametrize("content", [None, b"", b"no safetensors at all"])
def test_a_file_that_cannot_be_read_is_named(content, tmp_path):
    if content is not None:
        (tmp_path / "m").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        load_module(network(2, 2), tmp_path / "m")


class Width(BaseModel):
    width: int


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "cannot be read"),
        (b"{", "Invalid JSON"),
        (b"{}", "width: Field required"),
        (b'{"width": "x"}', "width: Input should be"),
    ],
)
def test_a_bad_configuration_is_refused_by_file_and_field(content, named, tmp_path):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=named) as refusal:
        read_config(Width, path)
    assert str(path) in str(refusal.value)


def test_an_mmdit_comes_back_from_its_directory(tmp_path):
    config = MMDiTConfig(
        in_channels=8,
        out_channels=8,
        vec_in_dim=4,
        context_in_dim=4,
        hidden_size=16,
        num_heads=2,
        depth=1,
        depth_single_blocks=1,
        axes_dim=(2, 2, 4),
    )
    model = MMDiT(config)
    model.initialize(keyed_generator(0))
    save_mmdit(model, tmp_path)
    again = load_mmdit(tmp_path)
    assert again.config == config
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json"):
        load_mmdit(tmp_path)
