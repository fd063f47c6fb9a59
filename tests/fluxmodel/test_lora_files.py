"""LoRA files: every layout says the same, every key is consumed or named, and what is written is read back."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import fluxmodel
from fluxmodel.errors import InputError
from fluxmodel.lora import Lora, LowRank
from fluxmodel.lora_files import FILES, convert_lora, find_lora, read_lora, save_lora, write_lora
from fluxmodel.lora_keys import largest_difference, lora_of
from fluxmodel.lora_layouts import ADAPTER_METADATA, LAYOUTS, layer_shapes, places
from fluxmodel.lora_passport import Passport, read_passport, weights_digest
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.training.lora import add_adapters

from .tiny_loras import (
    SMALL,
    WIDER,
    assert_same_deltas,
    deltas,
    mixed_lora,
    random_change,
    random_lora,
    small_model,
    velocity,
)

QKV, LINEAR1 = "double_blocks.0.img_attn.qkv", "single_blocks.1.linear1"
KOHYA = "lora_unet_double_blocks_0_img_attn_qkv"
DEEPER = KOHYA.replace("_0_", "_7_")
TE = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
TO_Q = "transformer_blocks.0.attn.to_q"


def settings_of(path):
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        return json.loads(file.metadata()[ADAPTER_METADATA])


# Every layout


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", [SMALL, WIDER], ids=["16 wide", "24 wide"])
@pytest.mark.parametrize("made", [random_lora, mixed_lora], ids=["one rank", "many ranks"])
@pytest.mark.parametrize("folded", [False, True], ids=["as is", "folded"])
def test_a_written_lora_reads_back_with_the_same_changes(tmp_path, layout, config, made, folded):
    lora = made(config)
    proof = write_lora(lora, tmp_path, config, layout, folded)
    back = read_lora(tmp_path / FILES[layout], config)
    assert_same_deltas(back, lora)
    assert proof.largest_difference <= 1e-6
    if not folded:
        assert proof.largest_difference == 0
        assert [c.rank for c in back.modules.values()] == [c.rank for c in lora.modules.values()]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_half_precision_lora_keeps_its_dtype_and_its_changes(tmp_path, layout):
    halved = Lora({n: LowRank(c.a.half(), c.b.half(), c.alpha) for n, c in random_lora().modules.items()})
    assert write_lora(halved, tmp_path, SMALL, layout).largest_difference == 0
    tensors = load_file(find_lora(tmp_path))
    assert {t.dtype for key, t in tensors.items() if not key.endswith("alpha")} == {torch.float16}


def test_going_through_all_layouts_and_back_changes_nothing(tmp_path):
    lora = mixed_lora()
    write_lora(lora, tmp_path / "start.safetensors", SMALL, "kohya")
    steps = ["start", *LAYOUTS, *LAYOUTS[::-1]]
    for number, layout in enumerate(steps[1:]):
        source = tmp_path / ("start.safetensors" if not number else f"{number - 1}.safetensors")
        convert_lora(source, tmp_path / f"{number}.safetensors", layout, SMALL)
    back = read_lora(tmp_path / "5.safetensors", SMALL)
    assert largest_difference(lora, back) == 0
    assert [c.rank for c in back.modules.values()] == [c.rank for c in lora.modules.values()]


@pytest.mark.parametrize("layout", ["kohya", "comfy"])
def test_a_lora_of_split_layers_with_their_own_ranks_survives_fusing(tmp_path, layout):
    names = [f"transformer.transformer_blocks.0.attn.to_{letter}" for letter in "qkv"]
    tensors, settings = {}, {"transformer.r": 2, "transformer.lora_alpha": 2, "transformer.rank_pattern": {}}
    for n, name in enumerate(names):
        change = random_change(16, 16, 2 + n, 1.0, n)
        tensors |= {f"{name}.lora_A.weight": change.a, f"{name}.lora_B.weight": change.b}
        settings["transformer.rank_pattern"] |= {name.removeprefix("transformer."): 2 + n}
    settings["transformer.alpha_pattern"] = {"to_k": 12, "transformer_blocks.0.attn.to_v": 1}
    header = {ADAPTER_METADATA: json.dumps(settings)}
    save_file(tensors, tmp_path / "split.safetensors", metadata=header)
    wanted = [
        alpha / rank * tensors[f"{n}.lora_B.weight"].double() @ tensors[f"{n}.lora_A.weight"].double()
        for n, alpha, rank in zip(names, (2, 12, 1), (2, 3, 4), strict=True)
    ]
    convert_lora(tmp_path / "split.safetensors", tmp_path, layout, SMALL)
    fused = read_lora(tmp_path / FILES[layout], SMALL)
    torch.testing.assert_close(deltas(fused)[QKV], torch.cat(wanted), rtol=1e-6, atol=1e-7)
    convert_lora(tmp_path / FILES[layout], tmp_path / "again.safetensors", "peft", SMALL)
    again = load_file(tmp_path / "again.safetensors")
    assert [len(again[f"{name}.lora_A.weight"]) for name in names] == [2, 3, 4]


def test_the_last_modulation_is_swapped_for_diffusers_alone(tmp_path):
    name = "final_layer.adaLN_modulation.1"
    lora = random_lora(chosen=lambda module: module == name)
    for layout in LAYOUTS:
        write_lora(lora, tmp_path, SMALL, layout)
    b = lora.modules[name].b
    peft = load_file(tmp_path / FILES["peft"])["transformer.norm_out.linear.lora_B.weight"]
    torch.testing.assert_close(peft, torch.cat((b[16:], b[:16])), rtol=0, atol=0)
    comfy = load_file(tmp_path / FILES["comfy"])[f"diffusion_model.{name}.lora_B.weight"]
    torch.testing.assert_close(comfy, b, rtol=0, atol=0)


def test_xlabs_files_change_attention_alone(tmp_path):
    shapes = {
        "double_blocks.0.processor.qkv_lora1": (48, 16),
        "double_blocks.0.processor.proj_lora1": (16, 16),
        "double_blocks.0.processor.qkv_lora2": (48, 16),
        "double_blocks.0.processor.proj_lora2": (16, 16),
        "single_blocks.1.processor.qkv_lora": (48, 16),
        "single_blocks.1.processor.proj_lora": (16, 80),
    }
    tensors, wanted = {}, []
    for n, (stem, shape) in enumerate(shapes.items()):
        change = random_change(*shape, 4, 4.0, n)
        tensors |= {f"{stem}.down.weight": change.a, f"{stem}.up.weight": change.b}
        wanted.append(change.b.double() @ change.a.double())
    save_file(tensors, tmp_path / "xlabs.safetensors")
    got = deltas(read_lora(tmp_path / "xlabs.safetensors", SMALL))
    names = ["img_attn.qkv", "img_attn.proj", "txt_attn.qkv", "txt_attn.proj"]
    ours = [f"double_blocks.0.{name}" for name in names] + [LINEAR1, "single_blocks.1.linear2"]
    assert got.keys() == set(ours)
    for name, delta in zip(ours, wanted, strict=True):
        torch.testing.assert_close(got[name][: len(delta)], delta, rtol=1e-6, atol=1e-7)
    assert got[LINEAR1].shape == (112, 16)
    assert not got[LINEAR1][48:].any(), "the MLP's rows stay as they are"
    convert_lora(tmp_path / "xlabs.safetensors", tmp_path, "peft", SMALL)
    written = load_file(tmp_path / FILES["peft"])
    assert not any("proj_mlp" in key for key in written)
    assert_same_deltas(
        read_lora(tmp_path / FILES["peft"], SMALL), read_lora(tmp_path / "xlabs.safetensors", SMALL)
    )


@pytest.mark.parametrize(
    ("head", "dot", "halves"),
    [
        ("", ".", ("lora_A", "lora_B")),
        ("diffusion_model.", ".", ("lora_A", "lora_B")),
        ("diffusion_model.", ".", ("lora_down", "lora_up")),
        ("lora_unet_", "_", ("lora_down", "lora_up")),
        ("base_model.model.", ".", ("lora_A", "lora_B")),
        ("", ".", ("lora_A.default", "lora_B.default")),
    ],
)
@pytest.mark.parametrize("has_alpha", [True, False])
def test_every_way_to_write_native_names_is_read(tmp_path, head, dot, halves, has_alpha):
    lora = random_lora(alpha=6.0 if has_alpha else 3.0)
    tensors = {}
    for name, change in lora.modules.items():
        stem = head + name.replace(".", dot)
        tensors |= {f"{stem}.{halves[0]}.weight": change.a, f"{stem}.{halves[1]}.weight": change.b}
        tensors |= {f"{stem}.alpha": torch.tensor(6.0)} if has_alpha else {}
    save_file(tensors, tmp_path / "a.safetensors")
    assert_same_deltas(read_lora(tmp_path, SMALL), lora)


def test_the_directory_that_peft_and_earlier_models_hold_is_read(tmp_path):
    model = add_adapters(small_model(), 3, 6.0, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    tensors = {
        f"base_model.model.{n.replace('.default.', '.')}": t.contiguous()
        for n, t in model.state_dict().items()
        if ".lora_" in n
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    model.peft_config["default"].save_pretrained(str(tmp_path))  # pyright: ignore (peft's)
    merged = fluxmodel.load_lora(small_model(), tmp_path)
    torch.testing.assert_close(velocity(merged), velocity(model), rtol=1e-4, atol=1e-4)
    assert (velocity(model) - velocity(small_model())).abs().max() > 0.05
    zero = fluxmodel.load_lora(small_model(), tmp_path, scale=0.0)
    torch.testing.assert_close(velocity(zero), velocity(small_model()))
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(InputError, match=r"adapter_config\.json: cannot be read"):
        read_lora(tmp_path, SMALL)


def test_rank_stabilised_scales_are_read(tmp_path):
    settings = {"r": 4, "lora_alpha": 6, "use_rslora": True}
    change = random_change(16, 8, 4, 4.0, 0)
    tensors = {"x_embedder.lora_A.weight": change.a, "x_embedder.lora_B.weight": change.b}
    save_file(tensors, tmp_path / "a.safetensors", metadata={ADAPTER_METADATA: json.dumps(settings)})
    got = deltas(read_lora(tmp_path, SMALL))["img_in"]
    torch.testing.assert_close(got, 3.0 * change.b.double() @ change.a.double(), rtol=1e-6, atol=1e-7)


def test_names_at_twelve_billion_are_known_and_no_two_are_one():
    config = MMDiTConfig()
    shapes, table = layer_shapes(config), places(config)
    assert sum(out * width for (out, width) in shapes.values()) > 11.8e9
    assert {place.module for place in table.values()} == set(shapes)
    kohya = [name for name in table if name.startswith("lora_unet_")]
    assert len(kohya) == len(shapes) == 314
    split = [name for name in table if name.startswith("transformer.")]
    assert len(split) == 504
    rows = sum(table[name].rows.stop - table[name].rows.start for name in split)
    assert rows == sum(out for out, _ in shapes.values())


# What is refused


def good(config=SMALL):
    change = random_change(48, 16, 3, 6.0, 0)
    return {
        f"{KOHYA}.lora_down.weight": change.a,
        f"{KOHYA}.lora_up.weight": change.b,
        f"{KOHYA}.alpha": torch.tensor(6.0),
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({f"{DEEPER}.lora_up.weight": 1}, f"{DEEPER}.lora_up.weight is for no layer"),
        ({f"{DEEPER}.alpha": 1}, f"{DEEPER}.alpha is for no layer"),
        ({"step": 1}, "step is no key of a plain LoRA"),
        ({f"{KOHYA}.lora_up.weight": None}, rf"{KOHYA}.lora_down.weight has no B \(up\) beside it"),
        ({f"{KOHYA}.lora_down.weight": None}, rf"{KOHYA}.lora_up.weight has no A \(down\) beside it"),
        ({"lora_unet_img_in.alpha": 1}, r"lora_unet_img_in.alpha has no A \(down\) and B \(up\)"),
        ({f"{KOHYA}.lora_up.weight": (47, 3)}, rf"{KOHYA}.lora_up.weight is 47 wide \(out\), the model's layer 48"),
        ({f"{KOHYA}.lora_down.weight": (3, 12)}, rf"{KOHYA}.lora_down.weight is 12 wide \(in\), the model's layer 16"),
        ({f"{KOHYA}.lora_down.weight": (4, 16)}, rf"{KOHYA}.lora_down.weight is \(4, 16\) and .* no \[rank, in\]"),
        ({f"{KOHYA}.lora_down.weight": (3, 16, 1, 1)}, r"no \[rank, in\] and \[out, rank\]"),
        ({f"{KOHYA}.lora_up.weight": float("nan")}, f"{KOHYA}.lora_up.weight holds a number that is not finite"),
        ({f"{KOHYA}.alpha": float("inf")}, f"{KOHYA}.alpha holds a number that is not finite"),
        ({f"{KOHYA}.alpha": (2,)}, rf"{KOHYA}.alpha is \(2,\), not one number"),
        ({f"{KOHYA}.dora_scale": (48, 1)}, f"{KOHYA}.dora_scale cannot be used: DoRA"),
        ({f"{KOHYA}.hada_w1_a": (48, 1)}, f"{KOHYA}.hada_w1_a cannot be used: LoHa"),
        ({f"{KOHYA}.lokr_w1": (48, 1)}, f"{KOHYA}.lokr_w1 cannot be used: LoKr"),
        ({f"{KOHYA}.lora_mid.weight": (48, 1)}, f"{KOHYA}.lora_mid.weight cannot be used: LoCon"),
        ({f"{KOHYA}.diff_b": (48,)}, f"{KOHYA}.diff_b cannot be used: it changes a bias"),
        ({f"{QKV}.lora_B.bias": (48,)}, f"{QKV}.lora_B.bias cannot be used: it changes a bias"),
        ({f"{TE}.alpha": 1}, f"{TE}.* text encoder.*ignore_text_encoder=True"),
        ({"text_encoder.text_model.x.lora_A.weight": (1, 1)}, "text_encoder.text_model.* ignore_text_encoder=True"),
        (
            {f"{TO_Q}.lora_A.weight": (1, 16), f"{TO_Q}.lora_B.weight": (16, 1)},
            "change the same rows; keep one of the two layouts",
        ),
    ],
)  # fmt: skip
def test_every_key_that_cannot_be_consumed_is_named(tmp_path, change, says):
    tensors = good()
    for key, what in change.items():
        if what is None:
            del tensors[key]
        elif isinstance(what, tuple):
            tensors[key] = torch.ones(what)
        else:
            tensors[key] = torch.full(tensors[key].shape if key in tensors else (), float(what))
    save_file(tensors, tmp_path / "a.safetensors")
    model = small_model()
    with pytest.raises(InputError, match=says) as refused:
        fluxmodel.load_lora(model, tmp_path)
    assert "a.safetensors" in str(refused.value)
    torch.testing.assert_close(velocity(model), velocity(small_model()), rtol=0, atol=0)


def test_all_faults_stand_in_one_error_and_many_are_counted():
    tensors = {f"lora_unet_nowhere_{n}.lora_up.weight": torch.ones(1, 1) for n in range(12)}
    with pytest.raises(InputError, match=r"nowhere_0\..*nowhere_7\..*; and 4 more") as refused:
        lora_of(tensors, SMALL, "a file")
    assert "nowhere_8" not in str(refused.value)


def test_text_encoder_keys_are_left_out_where_asked(tmp_path):
    extra = {f"{TE}.lora_down.weight": torch.ones(1, 1)}
    save_file({**good(), **extra}, tmp_path / "a.safetensors")
    assert list(read_lora(tmp_path, SMALL, ignore_text_encoder=True).modules) == [QKV]
    fluxmodel.load_lora(small_model(), tmp_path, ignore_text_encoder=True)
    convert_lora(tmp_path, tmp_path / "b.safetensors", "peft", SMALL, ignore_text_encoder=True)
    assert list(read_lora(tmp_path / "b.safetensors", SMALL).modules) == [QKV]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"r": 2, "lora_alpha": 4}, "has rank 3, its metadata say 2"),
        ({"r": 3, "lora_alpha": 4, "use_dora": True}, "use_dora is no plain LoRA's"),
        ({"r": 3, "lora_alpha": 4, "peft_type": "IA3"}, "peft_type is no plain LoRA's"),
        ({"r": 3, "lora_alpha": 4, "init_lora_weights": "pissa_niter_4"}, "init_lora_weights=pissa_niter_4 is no"),
        ({"r": 3, "rank_pattern": {"(": 3}}, "is no configuration of peft"),
        ({"r": 3, "lora_alpha": 5}, "alpha is 6, but the file's metadata say 5"),
        ([3], "is no configuration of peft"),
    ],
)  # fmt: skip
def test_metadata_that_do_not_fit_are_refused(tmp_path, settings, says):
    name = "transformer.x_embedder"
    change = random_change(16, 8, 3, 6.0, 0)
    tensors = {f"{name}.lora_A.weight": change.a, f"{name}.lora_B.weight": change.b}
    tensors[f"{name}.alpha"] = torch.tensor(6.0)
    save_file(tensors, tmp_path / "a.safetensors", metadata={ADAPTER_METADATA: json.dumps(settings)})
    with pytest.raises(InputError, match=says):
        read_lora(tmp_path, SMALL)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.pt", b"", "pickle can run code"),
        ("a.safetensors", b"nothing", "no LoRA can be read there"),
        ("missing.safetensors", None, "holds no LoRA; name one"),
    ],
)
def test_files_that_are_no_lora_are_refused(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_lora(tmp_path / name, SMALL)


def test_a_directory_with_several_files_of_other_names_is_asked_about(tmp_path):
    for name in ("a.safetensors", "b.safetensors"):
        save_file(good(), tmp_path / name)
    with pytest.raises(InputError, match=r"has a.safetensors, b.safetensors; name one"):
        read_lora(tmp_path, SMALL)
    write_lora(random_lora(), tmp_path, SMALL, "peft")
    assert find_lora(tmp_path).name == FILES["peft"]


@pytest.mark.parametrize(
    ("path", "layout", "says"),
    [
        ("", "xlabs", "peft, kohya, comfy"),
        ("a.bin", "peft", "ends in .safetensors"),
        ("nowhere/a.safetensors", "peft", "in a directory that exists"),
    ],
)
def test_places_and_layouts_that_cannot_be_written_are_refused(tmp_path, path, layout, says):
    with pytest.raises(InputError, match=says):
        write_lora(random_lora(), tmp_path / path, SMALL, layout)


def test_a_lora_that_does_not_fit_is_not_written(tmp_path):
    for lora, says in (
        (random_lora(SMALL.model_copy(update={"in_channels": 4})), "img_in.* 4 wide"),
        (Lora({}), "no layer in it"),
    ):
        with pytest.raises(InputError, match=says):
            write_lora(lora, tmp_path, SMALL)
    with pytest.raises(InputError, match="no adapter"):
        save_lora(small_model(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_errs_leaves_no_file(tmp_path, monkeypatch):
    from fluxmodel import lora_layouts

    def wrong(lora, config):
        tensors, header = lora_layouts.kohya_tensors(lora, config)
        key = next(iter(tensors))
        return {**tensors, key: tensors[key] * 1.00001}, header

    monkeypatch.setitem(lora_layouts.WRITERS, "kohya", wrong)
    with pytest.raises(InputError, match=r"changed by 1\.0e-05 while it was written"):
        write_lora(random_lora(), tmp_path, SMALL, "kohya")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_errs_is_caught(monkeypatch):
    from fluxmodel import lora_keys

    monkeypatch.setattr(
        lora_keys, "fuse", lambda pieces, rows: LowRank(pieces[0][1].a, 2 * pieces[0][1].b, 6.0)
    )
    with pytest.raises(InputError, match=rf"{KOHYA} changed by 1\.0e\+00 while it was read"):
        lora_of(good(), SMALL, "a file")


# The header and the passport


def test_peft_settings_name_the_exceptions_alone(tmp_path):
    write_lora(random_lora(rank=3, alpha=6.0), tmp_path, SMALL)
    settings = settings_of(tmp_path / FILES["peft"])
    assert (settings["transformer.r"], settings["transformer.lora_alpha"]) == (3, 6)
    assert settings["transformer.rank_pattern"] == settings["transformer.alpha_pattern"] == {}
    write_lora(mixed_lora(), tmp_path, SMALL)
    settings = settings_of(tmp_path / FILES["peft"])
    assert set(settings["transformer.rank_pattern"].values()) <= {1, 2, 3, 4}
    write_lora(mixed_lora(), tmp_path, SMALL, folded=True)
    settings = settings_of(tmp_path / FILES["peft"])
    assert settings["transformer.rank_pattern"] == settings["transformer.alpha_pattern"]
    assert settings["transformer.r"] == settings["transformer.lora_alpha"]


def test_the_passport_goes_with_the_file_and_through_conversions(tmp_path):
    passport = Passport(name="glow", trigger="glowline", rank=3, alpha=6.0, steps=7)
    for layout in LAYOUTS:
        write_lora(random_lora(), tmp_path, SMALL, layout, passport=passport)
        assert read_passport(tmp_path / FILES[layout]) == passport
    convert_lora(tmp_path / FILES["kohya"], tmp_path / "b.safetensors", "comfy", SMALL)
    assert read_passport(tmp_path / "b.safetensors") == passport
    (tmp_path / "deeper").mkdir()
    proof = write_lora(random_lora(), tmp_path / "deeper", SMALL)
    assert read_passport(tmp_path / "deeper") is None
    assert read_passport(tmp_path) == passport, "of a directory without lora.json it is a file's"
    passport.model_copy(update={"files": {FILES["peft"]: proof}}).write(tmp_path / "deeper")
    again = read_passport(tmp_path / "deeper")
    assert again is not None
    assert again.files[FILES["peft"]] == proof
    (tmp_path / "deeper" / "lora.json").write_text('{"rank": "many"}')
    with pytest.raises(InputError, match=r"lora.json: the passport is damaged, rank"):
        read_passport(tmp_path / "deeper")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_lora_gives_the_same_bytes(tmp_path, layout):
    lora = replace(random_lora(), header={f"ss_{n}": 'a "quoted" \n\x01é' for n in range(9)})
    digests = {
        write_lora(lora, tmp_path, SMALL, layout, passport=Passport(name="glow")).sha256 for _ in range(4)
    }
    assert len(digests) == 1
    assert read_lora(tmp_path, SMALL).header.items() >= lora.header.items()


def test_a_file_without_a_passport_keeps_the_header_it_came_with(tmp_path):
    save_file(
        good(), tmp_path / "a.safetensors", metadata={"ss_tag": "x", "sshs_model_hash": "0", "format": "pt"}
    )
    convert_lora(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "comfy", SMALL)
    assert read_lora(tmp_path / "b.safetensors", SMALL).header == {"ss_tag": "x"}, (
        "a hash of the old file is stale"
    )


def test_a_passport_knows_its_base(tmp_path):
    save_file(good(), tmp_path / "model.safetensors")
    passport = Passport(base=weights_digest(tmp_path))
    assert passport.base == weights_digest(tmp_path / "model.safetensors")
    assert passport.is_for(tmp_path)
    save_file(good(), tmp_path / "model-2.safetensors")
    assert not passport.is_for(tmp_path)
    assert not Passport().is_for(tmp_path)
