"""Where weights are written: cut off at any moment, and over what stands there already."""

import json
from collections import Counter
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from fluxmodel.errors import InputError
from fluxmodel.weights import load_mmdit, save_mmdit
from tests.fluxmodel.tiny_weights import DEV, are_identical, changed, random_model, write_hollow

CLIP = {"architectures": ["CLIPTextModel"], "hidden_size": 768, "num_attention_heads": 12}


@pytest.mark.parametrize("layout", ["flux", "diffusers"])
@pytest.mark.parametrize("new_limit", [None, "60KB"], ids=["one file", "shards"])
@pytest.mark.parametrize("limit", [None, "60KB"], ids=["over one file", "over shards"])
def test_wherever_a_write_is_cut_off_no_mixture_is_read(layout, limit, new_limit, tmp_path, monkeypatch):
    old, new = (
        random_model(),
        random_model(changed(axes_dim=(8, 4, 4)), seed=2),
    )  # same shapes, turned otherwise
    left = Counter()
    for last_step in count():
        directory = tmp_path / str(last_step)
        save_mmdit(old, directory, layout, max_shard_size=limit)
        with monkeypatch.context() as patch:
            died = die_at_step(patch, last_step)
            with suppress(KeyboardInterrupt):
                save_mmdit(new, directory, layout, max_shard_size=new_limit)
        try:
            found = load_mmdit(directory)
        except InputError:
            left["refused"] += 1
        else:
            meant = next(each for each in (old, new) if each.config == found.config)
            assert are_identical(found, meant)
            left["old" if meant is old else "new"] += 1
        assert not any(directory.glob("*.partial*"))
        if not died:
            break
    assert left["new"] >= 1
    assert left["old"] >= 2, "while the new network is written the old one stands"
    save_mmdit(new, tmp_path / "0", layout)  # what was left over is no hindrance
    assert are_identical(load_mmdit(tmp_path / "0"), new)


def die_at_step(patch, last_step: int) -> list[bool]:
    """Let the process be interrupted before its n-th change of the directory; the list returned says that it was."""
    steps, died = count(), []

    def dying(change):
        def changing(path, *given, **options):
            if (change is not unlink or path.exists()) and next(steps) == last_step:
                died.append(True)
                raise KeyboardInterrupt
            return change(path, *given, **options)

        return changing

    unlink = Path.unlink
    for name in ("replace", "mkdir", "write_text", "unlink"):
        patch.setattr(Path, name, dying(getattr(Path, name)))
    return died


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
