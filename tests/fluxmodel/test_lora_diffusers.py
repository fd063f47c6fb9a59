"""LoRA files against diffusers: it applies ours as strongly as we do, and we read what it writes."""

import warnings
from typing import Any

import pytest
import torch

import fluxmodel
from fluxmodel.lora_adapters import adapters_of
from fluxmodel.lora_files import FILES, read_lora, write_lora
from fluxmodel.lora_keys import largest_difference
from fluxmodel.training.lora import add_adapters

from .mmdit.test_transformer import diffusers_twin, inputs, random_model, relative_error, tiny_config
from .tiny_loras import assert_same_deltas, mixed_lora, random_lora

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def given(guidance):
    found = inputs(guidance)
    return {
        "hidden_states": found["img"],
        "encoder_hidden_states": found["txt"],
        "pooled_projections": found["y"],
        "timestep": found["timesteps"],
        "txt_ids": found["txt_ids"][0],
        "img_ids": found["img_ids"][0],
        **({"guidance": found["guidance"]} if guidance else {}),
    }


@torch.inference_mode()
def theirs(twin, guidance=True):
    return twin(**given(guidance)).sample


@torch.inference_mode()
def ours(path, guidance=True):
    return fluxmodel.load_lora(random_model(guidance), path)(**inputs(guidance))


def last_layers(name):
    return name.startswith(("final_layer", "double_blocks.1")) or name == "single_blocks.0.linear2"


@pytest.mark.parametrize(
    ("made", "folded"),
    [
        (lambda config: random_lora(config, rank=3, alpha=12.0), False),
        (lambda config: random_lora(config, rank=3, alpha=12.0), True),
        (mixed_lora, False),
        (lambda config: random_lora(config, alpha=1.0, chosen=last_layers), False),
    ],
    ids=["alpha 12 at rank 3", "folded", "another rank and alpha a layer", "names that end alike"],
)
@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
def test_diffusers_applies_ours_as_strongly_as_we_do(tmp_path, made, folded, guidance):
    write_lora(made(tiny_config(guidance)), tmp_path, tiny_config(guidance), folded=folded)
    twin = diffusers_twin(random_model(guidance))
    plain = theirs(twin, guidance)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twin.load_lora_adapter(tmp_path, weight_name=FILES["peft"])
    wanted = ours(tmp_path, guidance)
    assert relative_error(plain, wanted) > 0.05
    assert relative_error(theirs(twin, guidance), wanted) <= 1e-5


def test_a_folded_file_needs_no_metadata(tmp_path):
    from safetensors.torch import load_file

    write_lora(mixed_lora(tiny_config(True)), tmp_path, tiny_config(True), folded=True)
    twin = diffusers_twin(random_model(True))
    twin.load_lora_adapter(load_file(tmp_path / FILES["peft"]))
    assert relative_error(theirs(twin), ours(tmp_path)) <= 1e-5


def flux_pipeline(transformer):
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    return FluxPipeline(transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), **parts)  # pyright: ignore


@pytest.mark.parametrize("folded", [False, True])
def test_the_pipeline_loads_the_directory_by_its_name_alone(tmp_path, folded):
    write_lora(mixed_lora(tiny_config(True)), tmp_path, tiny_config(True), "kohya")
    write_lora(mixed_lora(tiny_config(True)), tmp_path, tiny_config(True), folded=folded)
    twin = diffusers_twin(random_model(True))
    flux_pipeline(twin).load_lora_weights(tmp_path)
    assert relative_error(theirs(twin), ours(tmp_path)) <= 1e-5


@pytest.mark.parametrize("by", ["adapter", "pipeline"])
def test_what_diffusers_writes_is_read(tmp_path, by):
    from peft import LoraConfig, get_peft_model_state_dict

    twin = diffusers_twin(random_model(True))
    config = LoraConfig(
        r=4,
        lora_alpha=10,
        target_modules=[
            "to_q",
            "to_v",
            "add_k_proj",
            "proj_mlp",
            "proj_out",
            "linear",
            "x_embedder",
            "linear_2",
        ],
        rank_pattern={"to_q": 2, "^proj_out": 1},
        alpha_pattern={"to_v": 3, "transformer_blocks.1.attn.to_q": 5},
        init_lora_weights=False,
    )
    torch.manual_seed(0)
    twin.add_adapter(config)
    if by == "adapter":
        twin.save_lora_adapter(tmp_path)
    else:
        layers: Any = get_peft_model_state_dict(twin)
        metadata = twin.peft_config["default"].to_dict()
        metadata["target_modules"] = sorted(metadata["target_modules"])
        type(flux_pipeline(twin)).save_lora_weights(
            tmp_path, layers, transformer_lora_adapter_metadata=metadata
        )
    wanted = theirs(twin)
    twin.disable_adapters()
    assert relative_error(theirs(twin), wanted) > 0.01
    assert relative_error(ours(tmp_path), wanted) <= 1e-5


def test_our_metadata_are_what_diffusers_writes_of_the_same_adapter(tmp_path):
    from peft import LoraConfig

    from .test_lora_files import settings_of

    lora = mixed_lora(tiny_config(True))
    write_lora(lora, tmp_path, tiny_config(True))
    mine = {k.removeprefix("transformer."): v for k, v in settings_of(tmp_path / FILES["peft"]).items()}
    twin = diffusers_twin(random_model(True))
    twin.load_lora_adapter(tmp_path, weight_name=FILES["peft"], adapter_name="default")
    again = tmp_path / "again"
    twin.save_lora_adapter(again)
    its = settings_of(again / FILES["peft"])
    assert {k: its[k] for k in mine} == mine
    assert set(mine) <= set(LoraConfig().to_dict())
    assert largest_difference(lora, read_lora(again, tiny_config(True))) == 0


def test_a_lora_trained_here_is_applied_there(tmp_path):
    model = add_adapters(random_model(True), 3, 6.0, 0, "all")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(len(name)))
    fluxmodel.save_lora(model, tmp_path)
    assert_same_deltas(read_lora(tmp_path, model.config), adapters_of(model))
    twin = diffusers_twin(random_model(True))
    twin.load_lora_adapter(tmp_path, weight_name=FILES["peft"])
    with torch.inference_mode():
        adapted = model(**inputs(True))
    assert relative_error(theirs(twin), adapted) <= 1e-5
