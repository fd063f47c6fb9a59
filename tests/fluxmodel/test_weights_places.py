"""Where weights are written: cut off at any moment, and over what stands there already."""

import json

import pytest
from safetensors import safe_open

from fluxmodel import weights
from fluxmodel.errors import InputError
from fluxmodel.weights import load_mmdit, save_mmdit
from tests.fluxmodel.tiny_weights import DEV, are_identical, changed, random_model, write_hollow

CLIP = {"architectures": ["CLIPTextModel"], "hidden_size": 768, "num_attention_heads": 12}


@pytest.mark.parametrize("layout", ["flux", "diffusers"])
@pytest.mark.parametrize("limit", [None, "60KB"], ids=["over one file", "over shards"])
def test_a_write_cut_off_before_its_config_is_the_new_network(layout, limit, tmp_path, monkeypatch):
    save_mmdit(random_model(), tmp_path, layout, max_shard_size=limit)
    new = random_model(changed(axes_dim=(8, 4, 4)), seed=2)  # the same shapes, turned otherwise

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "_write_text", die)
    with pytest.raises(KeyboardInterrupt):
        save_mmdit(new, tmp_path, layout)
    again = load_mmdit(tmp_path)
    assert again.config == new.config
    assert are_identical(again, new)


@pytest.mark.parametrize("layout", ["flux", "diffusers"])
def test_equal_networks_are_equal_bytes_with_the_configuration_in_the_header(layout, tmp_path):
    for name in ("one", "other"):
        save_mmdit(random_model(), tmp_path / name, layout)
    (file,) = (tmp_path / "one").glob("*.safetensors")
    assert file.read_bytes() == (tmp_path / "other" / file.name).read_bytes()
    with safe_open(str(file), "pt") as opened:
        assert json.loads(opened.metadata()["mmdit_config"]) == DEV.model_dump(mode="json")


@pytest.mark.parametrize(
    "config",
    [
        json.dumps(CLIP),
        json.dumps({"_class_name": "SD3Transformer2DModel", "num_attention_heads": 12}),
        json.dumps({"_class_name": "AutoencoderKL"}),
        "[1]",
        "{",
    ],
)
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "60KB"}, {"layout": "diffusers"}], ids=str)
def test_the_weights_of_another_kind_of_model_are_not_overwritten(config, options, tmp_path):
    stem = "diffusion_pytorch_model" if options.get("layout") else "model"
    (tmp_path / f"{stem}.safetensors").write_bytes(b"its weights")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match=r"config\.json: .*another model.*name another directory"):
        save_mmdit(random_model(), tmp_path, **options)
    assert (tmp_path / f"{stem}.safetensors").read_bytes() == b"its weights"
    assert (tmp_path / "config.json").read_text() == config
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "config",
    [
        DEV.model_dump_json(),
        json.dumps({"_class_name": "FluxTransformer2DModel", "quantization_config": {}}),
        json.dumps({"num_attention_heads": 2, "num_layers": 1}),
        None,
    ],
)
def test_the_weights_of_an_mmdit_are_replaced(config, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"old weights")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    save_mmdit(random_model(), tmp_path)
    assert are_identical(load_mmdit(tmp_path), random_model())


@pytest.mark.parametrize("shape", [(2**40, 0), (0, 2**40), (2**62, 0)], ids=str)
@pytest.mark.parametrize("key", ["img_in.weight", "txt_in.weight", "double_blocks.0.img_mlp.0.weight"])
def test_an_absurd_shape_is_refused(key, shape, tmp_path):
    path = write_hollow(tmp_path / "m.safetensors", {key: shape})
    with pytest.raises(InputError, match=r"m\.safetensors") as refused:
        load_mmdit(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["a\0.safetensors", "\0.safetensors"])
def test_a_shard_whose_name_no_file_can_have_is_refused(name, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"img_in.weight": name}}))
    with pytest.raises(InputError, match="no safetensors file beside it"):
        load_mmdit(tmp_path)
