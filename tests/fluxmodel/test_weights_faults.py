"""Weights that are damaged, of another kind or of another network: one sentence that names what and the cure."""

import json
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fluxmodel.errors import InputError
from fluxmodel.weights import load_mmdit, save_mmdit
from tests.fluxmodel.tiny_weights import DEV, changed, new_in_diffusers, random_model, write_hollow


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The same network as flux/ and diffusers/, and flux/ in shards as sharded/."""
    root, model = tmp_path_factory.mktemp("written"), random_model()
    save_mmdit(model, root / "flux")
    save_mmdit(model, root / "diffusers", "diffusers")
    save_mmdit(model, root / "sharded", max_shard_size="60KB")
    for file in (*root.glob("flux/*.safetensors"), *root.glob("diffusers/*.safetensors")):
        save_file(load_file(file), file)  # as other tools leave it, with no configuration in its header
    return root


def refusal(path: Path, **options) -> str:
    with pytest.raises(InputError) as refused:
        load_mmdit(path, **options)
    said = str(refused.value)
    assert "\n" not in said
    assert str(path) in said or path.is_dir()
    return said


# Files


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))


def cut(share: float, written: Path, path: Path) -> None:
    whole = (written / "flux/model.safetensors").read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])


CONTENTS = {
    "empty": ("m.safetensors", b"", "it is empty"),
    "noise": ("m.safetensors", bytes(range(100, 200)), "no safetensors file"),
    "web page": ("m.safetensors", b"\n<!DOCTYPE html><html>Log in</html>", "web page.*download them again"),
    "plain html": ("m.safetensors", b"<html>403</html>", "web page"),
    "lfs": ("m.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "gguf": ("m.gguf", b"GGUF\x03\0\0\0" + b"\0" * 50, "GGUF.*quantised"),
    "gguf renamed": ("m.safetensors", b"GGUF\x03\0\0\0" + b"\0" * 50, "GGUF"),
    "pickle by content": ("m.safetensors", pickle.dumps({"a": 1}), "is a pickle.*save_file"),
    "pickle protocol 2": ("m.safetensors", pickle.dumps({"a": 1}, protocol=2), "is a pickle"),
    "pickle by name .pt": ("m.pt", b"", r"\.pt.*is a pickle.*save_file"),
    "pickle by name .ckpt": ("m.ckpt", b"", "is a pickle"),
    "pickle by name .bin": ("m.bin", b"", "is a pickle"),
    "pickle by name .pth": ("m.pth", b"", "is a pickle"),
    "header of nothing": ("m.safetensors", (2).to_bytes(8, "little") + b"{}", "no layer of FLUX.1"),
    "header without end": ("m.safetensors", (10**6).to_bytes(8, "little") + b'{"img_in', "cut short"),
    "header no JSON": ("m.safetensors", (8).to_bytes(8, "little") + b"{img_in}", "damaged"),
    "no index": ("m.safetensors.index.json", b"{}", "no index.*weight_map"),
    "index no JSON": ("m.safetensors.index.json", b"{", "no index"),
    "index names a pickle": ("m.safetensors.index.json", b'{"weight_map": {"a": "m.bin"}}', '"m.bin"'),
    "index leads away": ("m.safetensors.index.json", b'{"weight_map": {"a": "../m.safetensors"}}', r"\.\./m"),
    "index of a shard not there": (
        "m.safetensors.index.json",
        b'{"weight_map": {"a": "b.safetensors"}}',
        "b.safetensors: .*No such file",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "said"), CONTENTS.values(), ids=CONTENTS)
def test_a_file_of_another_kind_is_refused_by_name_reason_and_cure(name, content, said, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as refused:
        load_mmdit(path)
    assert str(tmp_path) in str(refused.value)


def test_a_zipped_pickle_is_refused_and_never_opened(tmp_path):
    zipped(tmp_path / "m.safetensors")
    assert "is a pickle" in refusal(tmp_path / "m.safetensors")


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 0.999])
def test_a_file_cut_short_is_refused(share, written, tmp_path):
    cut(share, written, tmp_path / "m.safetensors")
    assert "cut short" in refusal(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no file of safetensors is there"),
        ({"diffusion_pytorch_model.bin": b""}, r"pytorch_model\.bin.*is a pickle"),
        ({"flux1-dev-Q4.gguf": b"GGUF"}, "GGUF"),
        ({"model-00001-of-00002.safetensors": b""}, "no index of the shards"),
        ({"a.safetensors": b"", "b.safetensors": b""}, r"a\.safetensors, b\.safetensors.*name the file"),
        ({"model.safetensors": b"", "model.safetensors.index.json": b""}, "name the file"),
    ],
)
def test_a_directory_without_plain_weights_is_refused(files, said, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        load_mmdit(tmp_path)


def test_what_is_not_there_is_named(tmp_path):
    assert "No such file" in refusal(tmp_path / "flux1-dev.safetensors")


# Shards


@pytest.fixture
def shards(written, tmp_path):
    shutil.copytree(written / "sharded", tmp_path / "s")
    return tmp_path / "s"


def shard(directory: Path, number: int) -> Path:
    return sorted(directory.glob("model-*"))[number - 1]


def rewrite(path: Path, **tensors: torch.Tensor) -> None:
    save_file(load_file(path) | tensors, path)


def move_in_index(directory: Path, key: str, home: Path) -> None:
    index = directory / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    told["weight_map"][key] = home.name
    index.write_text(json.dumps(told))


def test_a_missing_shard_is_named(shards):
    lost = shard(shards, 2)
    lost.unlink()
    assert f"{lost}: cannot be read (No such file" in refusal(shards)


def test_a_damaged_shard_is_named(shards):
    hurt = shard(shards, 2)
    hurt.write_bytes(hurt.read_bytes()[:-3])
    assert f"{hurt}: cannot be read (it is cut short" in refusal(shards)


def test_a_key_the_shard_lacks_is_named(shards):
    move_in_index(shards, "img_in.scale", shard(shards, 1))
    assert f"img_in.scale is not in {shard(shards, 1).name}" in refusal(shards)


def test_a_key_in_the_wrong_shard_is_named(shards):
    move_in_index(shards, "img_in.weight", shard(shards, 3))
    assert f"img_in.weight is not in {shard(shards, 3).name}" in refusal(shards)


def test_a_key_the_index_does_not_name_is_named(shards):
    rewrite(shard(shards, 3), extra=torch.zeros(1))
    assert f"{shard(shards, 3).name} has extra, which it does not name" in refusal(shards)


def test_a_key_in_two_shards_is_named(shards):
    rewrite(shard(shards, 3), **{"img_in.bias": torch.zeros(32)})
    assert f"img_in.bias is in both {shard(shards, 1).name} and {shard(shards, 3).name}" in refusal(shards)


def test_one_shard_of_several_is_not_taken_for_the_whole(shards):
    assert "one shard of several" in refusal(shard(shards, 1))


# Keys


@pytest.mark.parametrize("given", ["shapes", "config.json", "argument"])
@pytest.mark.parametrize(
    ("layout", "missing", "misshapen"),
    [
        ("flux", "double_blocks.1.txt_attn.qkv.weight", "single_blocks.0.linear2.bias"),
        ("diffusers", "transformer_blocks.1.attn.add_k_proj.weight", "single_transformer_blocks.0.proj_out.bias"),
    ],
)  # fmt: skip
def test_every_misfit_is_named_in_one_error_in_the_words_of_the_file(
    layout, missing, misshapen, given, written, tmp_path
):
    file = "model.safetensors" if layout == "flux" else "diffusion_pytorch_model.safetensors"
    tensors = load_file(written / layout / file)
    del tensors[missing]
    tensors |= {misshapen: torch.zeros(7), "a_new.layer": torch.zeros(2), "another.layer": torch.zeros(2)}
    save_file(tensors, tmp_path / file)
    if given == "config.json":
        shutil.copy(written / layout / "config.json", tmp_path)
    said = refusal(tmp_path / file, config=DEV if given == "argument" else None)
    faults = (
        f"missing {missing}",
        f"{misshapen} is (7,), not (32,)",
        "unknown a_new.layer",
        "unknown another.layer",
    )
    for fault in faults:
        assert fault in said
    assert said.endswith("take those of one whole MM-DiT")
    assert said.count("missing") == 1
    assert said.count(", not (") == 1


@pytest.mark.parametrize("layout", ["flux", "diffusers"])
def test_whichever_tensor_is_misshapen_it_alone_is_named(layout, tmp_path):
    save_mmdit(random_model(changed(depth=1, depth_single_blocks=1)), tmp_path / "whole.safetensors", layout)
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(tmp_path / "whole.safetensors").items()}
    ends = (
        "final_layer.linear.",
        "proj_out.",
    )  # weight and bias alone tell out_channels: either may be right
    for name, shape in shapes.items():
        cut = (shape[0] - 1, *shape[1:])
        path = write_hollow(tmp_path / "m.safetensors", shapes | {name: cut}, "F32")
        said = refusal(path)
        if not name.startswith(ends):
            assert f": {name} is {cut}, not {shape}" in said
            assert said.count(", not (") == 1
            assert "missing" not in said


def test_keys_under_a_prefix_are_named_with_it(written, tmp_path):
    tensors = load_file(written / "flux/model.safetensors")
    del tensors["img_in.bias"]
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in tensors.items()}
    save_file(prefixed | {"optimizer.step": torch.zeros(1)}, tmp_path / "m.safetensors")
    said = refusal(tmp_path / "m.safetensors", config=DEV)
    assert "missing model.diffusion_model.img_in.bias" in said
    assert "unknown optimizer.step" in said


def test_a_long_list_is_shortened_and_counted(written, tmp_path):
    tensors = load_file(written / "flux/model.safetensors")
    short = {name: tensor for name, tensor in tensors.items() if not name.startswith("double_blocks.0.")}
    save_file(short, tmp_path / "m.safetensors")
    said = refusal(tmp_path / "m.safetensors")
    assert said.count("missing double_blocks.0.") == 20
    assert "and 4 more" in said


def test_a_block_number_out_of_all_reason_is_an_unknown_key(written, tmp_path):
    tensors = load_file(written / "flux/model.safetensors")
    key = "double_blocks.999999999.img_attn.qkv.weight"
    save_file(tensors | {key: torch.zeros(1)}, tmp_path / "m.safetensors")
    assert f"unknown {key}" in refusal(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("added", "cure"),
    [
        ({"img_in.scale_weight": torch.ones(())}, "fp8 weights with scales"),
        ({"scaled_fp8": torch.zeros(2)}, "fp8 weights with scales"),
        ({"img_in.weight.absmax": torch.zeros(2)}, "quantised"),
        ({"double_blocks.0.img_attn.qkv.lora_A.weight": torch.zeros(2, 32)}, "load_lora"),
    ],
)
def test_a_kind_of_file_known_by_its_keys_names_the_cure(added, cure, written, tmp_path):
    save_file(load_file(written / "flux/model.safetensors") | added, tmp_path / "m.safetensors")
    said = refusal(tmp_path / "m.safetensors", config=DEV)
    assert cure in said
    assert next(iter(added)) in said


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (("encoder.conv_in.weight", "decoder.conv_in.weight"), "no layer of FLUX.1.*decoder.conv_in.weight"),
        (("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",), "load_lora"),
    ],
)
def test_another_network_is_named_as_such(keys, said, tmp_path):
    save_file({key: torch.zeros(2, 2) for key in keys}, tmp_path / "m.safetensors")
    assert re.search(said, refusal(tmp_path / "m.safetensors"))


def test_integers_are_no_weights(written, tmp_path):
    tensors = load_file(written / "flux/model.safetensors")
    tensors["img_in.weight"] = torch.zeros(32, 16, dtype=torch.int8)
    save_file(tensors, tmp_path / "m.safetensors")
    assert "img_in.weight is I8" in refusal(tmp_path / "m.safetensors", config=DEV)


def test_layers_of_several_dtypes_need_one_to_be_chosen(tmp_path):
    model = random_model()
    model.double_blocks.to(torch.bfloat16)
    save_mmdit(model, tmp_path)
    assert re.search("bfloat16 and partly torch.float32.*dtype=", refusal(tmp_path))
    assert load_mmdit(tmp_path, dtype=torch.bfloat16).img_in.weight.dtype == torch.bfloat16


# Configurations


@pytest.mark.parametrize("layout", ["flux", "diffusers"])
def test_what_shapes_cannot_tell_is_asked_for(layout, written, tmp_path):
    shutil.copytree(written / layout, tmp_path / "w")
    (tmp_path / "w/config.json").unlink()
    assert re.search(r"axes_dim cannot be known.*heads are 16.*config\.json", refusal(tmp_path / "w"))
    assert load_mmdit(tmp_path / "w", config=DEV).config == DEV


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"in_channels": 64}, r"in_channels is 64 in \S+config\.json, 16 in the weights"),
        ({"out_channels": 64}, r"out_channels is 64 in \S+config\.json, 16 in the weights"),
        ({"vec_in_dim": 13}, r"vec_in_dim is 13 in \S+config\.json, 12 in the weights"),
        ({"context_in_dim": 21}, r"context_in_dim is 21 in \S+config\.json, 20 in the weights"),
        ({"hidden_size": 48, "axes_dim": (8, 8, 8)}, r"hidden_size is 48 in \S+config\.json, 32 in the weights"),
        ({"num_heads": 4, "axes_dim": (4, 2, 2)}, r"num_heads is 4 in \S+config\.json, 2 in the weights"),
        ({"mlp_ratio": 3.0}, r"mlp_ratio is 3\.0 in \S+config\.json, 4\.0 in the weights"),
        ({"depth": 3}, r"depth is 3 in \S+config\.json, 2 in the weights"),
        ({"depth_single_blocks": 1}, r"depth_single_blocks is 1 in \S+config\.json, 2 in the weights"),
        ({"qkv_bias": False}, r"qkv_bias is False in \S+config\.json, True in the weights"),
        ({"guidance_embed": False}, r"guidance_embed is False in \S+config\.json, True in the weights"),
    ],
)  # fmt: skip
def test_a_configuration_that_disagrees_is_named_with_both_values(changes, said, written, tmp_path):
    shutil.copy(written / "flux/model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(changed(**changes).model_dump_json())
    assert re.search(said, refusal(tmp_path))
    assert refusal(tmp_path).endswith("give the config they are of")
    assert " in the config given, " in refusal(tmp_path, config=changed(**changes))
    assert load_mmdit(tmp_path, config=DEV).config == DEV


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_layers": 5}, r"depth is 5 in \S+config\.json, 2 in the weights"),
        ({"_class_name": "SD3Transformer2DModel"}, "SD3Transformer2DModel"),
        ({"axes_dims_rope": [4, 4, 4]}, "axes_dim"),
        ({"axes_dims_rope": "x"}, "axes_dims_rope"),
        ({"a_new_field": 1}, "a_new_field"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantization_config.*bf16"),
    ],
)
def test_a_configuration_of_diffusers_is_checked_field_by_field(change, said, written, tmp_path):
    shutil.copytree(written / "diffusers", tmp_path / "w")
    config = tmp_path / "w/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    assert re.search(said, refusal(tmp_path / "w"))


def test_the_fields_that_old_directories_leave_out_are_those_of_flux(tmp_path):
    config = changed(hidden_size=128, num_heads=1, axes_dim=(16, 56, 56), depth=1, depth_single_blocks=0)
    new_in_diffusers(config).save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    old = {name: value for name, value in told.items() if name not in ("axes_dims_rope", "out_channels")}
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert load_mmdit(tmp_path).config == config


# Writing


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layout": "comfy"}, '"comfy".*flux, diffusers'),
        ({"max_shard_size": "5 parsecs"}, "5 parsecs"),
        ({"max_shard_size": 0}, "max_shard_size"),
        ({"dtype": torch.int8}, "cannot be written"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is(options, said, tmp_path):
    with pytest.raises(InputError, match=said):
        save_mmdit(random_model(), tmp_path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"mlp_ratio": 3.0}, "mlp_ratio is 3.0"),
        ({"theta": 5}, "theta is 5"),
        ({"qkv_bias": False}, "qkv_bias"),
    ],
)
def test_a_network_diffusers_cannot_build_is_refused_by_field(changes, named, tmp_path):
    with pytest.raises(InputError, match=named):
        save_mmdit(random_model(changed(**changes)), tmp_path / "w", layout="diffusers")
    assert not (tmp_path / "w").exists()


def test_weights_of_another_layout_are_not_left_beside(written, tmp_path):
    shutil.copytree(written / "diffusers", tmp_path / "w")
    with pytest.raises(InputError, match=r"diffusion_pytorch_model\.safetensors is there already"):
        save_mmdit(random_model(), tmp_path / "w")
    assert load_mmdit(tmp_path / "w").config == DEV


def test_a_model_with_adapters_is_refused(tmp_path):
    model = random_model()
    model.img_in.lora_A = torch.nn.Linear(16, 4)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match=r"img_in\.lora_A.*merge"):
        save_mmdit(model, tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be written"):
        save_mmdit(random_model(), tmp_path)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("name", ["a-file", "a-file/inside", "a-file/m.safetensors"])
def test_a_directory_that_cannot_be_made_is_named(name, tmp_path):
    (tmp_path / "a-file").touch()
    with pytest.raises(InputError, match=f"{name}: cannot be written"):
        save_mmdit(random_model(), tmp_path / name)


def test_shards_of_one_file_make_no_sense(tmp_path):
    with pytest.raises(InputError, match="name a directory"):
        save_mmdit(random_model(), tmp_path / "m.safetensors", max_shard_size="1GB")
