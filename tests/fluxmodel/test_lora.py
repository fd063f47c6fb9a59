"""LoRA in and out of the weights: what peft computes, what peft reads, and what is refused."""

import json
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file

import fluxmodel
from fluxmodel.errors import InputError
from fluxmodel.training.lora import add_adapters

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def small_model(seed=0):
    model = fluxmodel.MMDiT(
        fluxmodel.MMDiTConfig(
            in_channels=8,
            out_channels=8,
            vec_in_dim=6,
            context_in_dim=6,
            hidden_size=16,
            num_heads=2,
            depth=1,
            depth_single_blocks=2,
            axes_dim=(2, 2, 4),
            guidance_embed=False,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return model.eval()


def velocity(model):
    generator = torch.Generator().manual_seed(3)
    img, txt = torch.randn(2, 4, 8, generator=generator), torch.randn(2, 3, 6, generator=generator)
    t, y = torch.tensor([0.2, 0.9]), torch.randn(2, 6, generator=generator)
    with torch.inference_mode():
        return model(img, torch.zeros(2, 4, 3), txt, torch.zeros(2, 3, 3), t, y)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("lora")
    model = add_adapters(small_model(), rank=3, alpha=6.0, seed=0)
    start = velocity(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    fluxmodel.save_lora(model, directory)
    return model, directory, start


def test_fresh_adapters_change_nothing(adapted):
    torch.testing.assert_close(adapted[2], velocity(small_model()))


def test_only_adapters_are_trained(adapted):
    trained = [name for name, parameter in adapted[0].named_parameters() if parameter.requires_grad]
    assert trained
    assert all(".lora_" in name for name in trained)


def test_merged_lora_equals_the_adapted_model(adapted):
    model, directory, start = adapted
    merged = fluxmodel.load_lora(small_model(), directory)
    torch.testing.assert_close(velocity(merged), velocity(model), rtol=1e-4, atol=1e-5)
    assert (velocity(model) - start).abs().max() > 0.05


def test_scale_zero_is_the_identity(adapted):
    torch.testing.assert_close(
        velocity(fluxmodel.load_lora(small_model(), adapted[1], scale=0.0)), adapted[2]
    )


def test_peft_reads_what_we_write(adapted):
    from peft import PeftModel

    class Plain(torch.nn.Module):
        """peft wants a configuration it can read as a dictionary, or none."""

        condition, velocity = fluxmodel.MMDiT.condition, fluxmodel.MMDiT.velocity

        def __init__(self, inner):
            super().__init__()
            for name, child in inner.named_children():
                self.add_module(name, child)
            self.settings = inner.config

        def forward(self, *args):
            self.config = self.settings
            try:
                return fluxmodel.MMDiT.forward(cast(Any, self), *args)
            finally:
                del self.config

    loaded = PeftModel.from_pretrained(Plain(small_model()), str(adapted[1]))
    torch.testing.assert_close(velocity(loaded), velocity(adapted[0]), rtol=1e-4, atol=1e-5)


def test_other_layouts_are_refused(adapted):
    with pytest.raises(InputError, match="peft"):
        fluxmodel.save_lora(adapted[0], adapted[1], layout="kohya")
    with pytest.raises(InputError, match="no adapter"):
        fluxmodel.save_lora(small_model(), adapted[1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"peft_type": "IA3"}, "peft_type"),
        ({"use_dora": True}, "use_dora"),
        ({"r": 0}, "peft_type"),
    ],
)
def test_other_adapters_are_refused(adapted, tmp_path, change, says):
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / name).write_bytes((adapted[1] / name).read_bytes())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(InputError, match=says):
        fluxmodel.load_lora(small_model(), tmp_path)


def test_a_lora_of_another_model_changes_no_weight(adapted, tmp_path):
    tensors = load_file(adapted[1] / "adapter_model.safetensors")
    name = sorted(tensors)[-1]
    save_file({**tensors, name: tensors[name][:-1]}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_bytes((adapted[1] / "adapter_config.json").read_bytes())
    model = small_model()
    with pytest.raises(InputError, match="the model it is for"):
        fluxmodel.load_lora(model, tmp_path)
    torch.testing.assert_close(velocity(model), adapted[2])
    with pytest.raises(InputError, match="no LoRA"):
        fluxmodel.load_lora(model, tmp_path / "missing")
