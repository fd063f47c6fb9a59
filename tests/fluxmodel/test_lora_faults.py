"""LoRA files and numbers that are damaged, doubled or of another kind: one sentence that names what and the cure."""

import json

import pytest
import torch
from safetensors.torch import save_file

import fluxmodel
from fluxmodel.errors import InputError
from fluxmodel.lora import Lora, LowRank
from fluxmodel.lora_adapters import inject
from fluxmodel.lora_files import FILES, read_lora, write_lora
from fluxmodel.lora_keys import lora_of
from fluxmodel.lora_layouts import ADAPTER_METADATA
from fluxmodel.lora_merging import merge, unmerge
from fluxmodel.lora_passport import Passport, read_passport

from .tiny_loras import SMALL, assert_same_deltas, deltas, random_change, random_lora, small_model

IMG_IN = "diffusion_model.img_in"


def pair(stem: str = IMG_IN, rank: int = 3) -> dict[str, torch.Tensor]:
    change = random_change(16, 8, rank, 1.0, 0)
    return {f"{stem}.lora_A.weight": change.a, f"{stem}.lora_B.weight": change.b}


# Keys


@pytest.mark.parametrize("head", [IMG_IN, "lora_unet_img_in"])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("lora_A.weight", "lora_down.weight"),
        ("lora_A.default.weight", "lora_A.weight"),
        ("lora_up.weight", "lora_B.weight"),
        ("lora_B.weight", "lora_B.default.weight"),
    ],
)
def test_a_half_given_twice_is_a_fault_that_names_both(head, first, second):
    half = pair()[f"{IMG_IN}.lora_{'A' if 'A' in first else 'B'}.weight"]
    tensors = {**pair(head), f"{head}.{first}": half, f"{head}.{second}": half}
    with pytest.raises(InputError, match="are the same half twice") as refused:
        lora_of(tensors, SMALL, "a file")
    assert f"{head}.{first}" in str(refused.value)
    assert f"{head}.{second}" in str(refused.value)


@pytest.mark.parametrize("halves", [("lora_A", "lora_B"), ("lora_down", "lora_up")])
def test_the_prefix_of_checkpoints_is_read(halves):
    lora, tensors = random_lora(), {}
    for name, change in lora.modules.items():
        stem = f"model.diffusion_model.{name}"
        tensors |= {f"{stem}.{halves[0]}.weight": change.a, f"{stem}.{halves[1]}.weight": change.b}
        tensors[f"{stem}.alpha"] = torch.tensor(change.alpha)
    assert_same_deltas(lora_of(tensors, SMALL, "a file"), lora)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("model.diffusion_model.nowhere.lora_A.weight", "is for no layer of this model"),
        ("unet.diffusers.lora_A.weight", "is for no layer of this model"),
        ("diffusion_model.img_in.diff", "changes a bias or norm"),
        ("model.diffusion_model.img_in.diff_b", "changes a bias or norm"),
    ],
)
def test_a_change_of_biases_is_known_by_the_last_part_of_its_key(key, says):
    with pytest.raises(InputError, match=f"{key} .*{says}"):
        lora_of({**pair(), key: torch.ones(1, 1)}, SMALL, "a file")


# What peft's configuration says


def with_settings(place, text: str, rank: int = 3, beside: bool = False):
    if beside:
        save_file(pair("base_model.model.img_in", rank), place / "adapter_model.safetensors")
        (place / "adapter_config.json").write_text(text)
    else:
        save_file(pair(rank=rank), place / "a.safetensors", metadata={ADAPTER_METADATA: text})
    return place


@pytest.mark.parametrize("beside", [False, True], ids=["header", "adapter_config.json"])
@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"r": 3, "lora_alpha": Infinity}', "lora_alpha"),
        ('{"r": 3, "lora_alpha": NaN}', "lora_alpha"),
        ('{"r": 3, "lora_alpha": null}', "lora_alpha"),
        ('{"r": 3, "lora_alpha": "much"}', "lora_alpha"),
        ('{"r": 3, "lora_alpha": 1' + "0" * 400 + "}", "lora_alpha"),
        ('{"r": 3, "lora_alpha": 1' + "0" * 5000 + "}", "digits"),
        ('{"r": null, "lora_alpha": 3}', "r: "),
        ('{"r": Infinity, "lora_alpha": 3}', "r: "),
        ('{"r": 0, "lora_alpha": 3}', "r: "),
        ('{"r": [3], "lora_alpha": 3}', "r: "),
        ('{"r": 3, "rank_pattern": {"img_in": null}}', "rank_pattern.img_in"),
        ('{"r": 3, "rank_pattern": [3]}', "rank_pattern"),
        ('{"r": 3, "alpha_pattern": {"img_in": Infinity}}', "alpha_pattern.img_in"),
        ('{"r": 3, "alpha_pattern": {"(": 3}}', "alpha_pattern"),
        ('{"r": ' + "[" * 100_000, "recursion|nested"),
        ("null", "no table of settings"),
        ("{", "Expecting"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_faulty_settings_of_peft_are_one_sentence_with_file_and_field(tmp_path, text, field, beside):
    place = with_settings(tmp_path, text, beside=beside)
    with pytest.raises(InputError, match=f"is no configuration of peft .*({field})") as refused:
        read_lora(place, SMALL)
    said = str(refused.value)
    assert ("adapter_config.json" if beside else f"a.safetensors, {ADAPTER_METADATA}") in said
    assert "\n" not in said
    assert len(said) < 600


def test_settings_that_are_not_utf8_are_refused(tmp_path):
    place = with_settings(tmp_path, "{}", beside=True)
    (place / "adapter_config.json").write_bytes(b'{"r": 3, "\xff": 1}')
    with pytest.raises(InputError, match=r"adapter_config\.json: is no configuration of peft"):
        read_lora(place, SMALL)


@pytest.mark.parametrize(
    ("settings", "rank", "scale"),
    [
        ({"r": 4}, 4, 2.0),
        ({"lora_alpha": 4}, 8, 0.5),
        ({"r": 4, "alpha_pattern": {"img_in": 6}}, 4, 1.5),
        ({"lora_alpha": 6, "rank_pattern": {"img_in": 3}}, 3, 2.0),
        ({"r": 4, "lora_alpha": 4, "rank_pattern": None, "alpha_pattern": None}, 4, 1.0),
        ({}, 4, 1.0),
    ],
)
def test_what_settings_leave_out_is_pefts_default(tmp_path, settings, rank, scale):
    place = with_settings(tmp_path, json.dumps(settings), rank)
    a, b = pair(rank=rank).values()
    torch.testing.assert_close(deltas(read_lora(place, SMALL))["img_in"], scale * b.double() @ a.double())


@pytest.mark.parametrize(("told", "is_refused"), [(0.1, False), (0.1001, True)])
def test_an_alpha_that_fp32_rounded_agrees_with_its_settings(tmp_path, told, is_refused):
    tensors = {**pair(), f"{IMG_IN}.alpha": torch.tensor(told)}
    header = {ADAPTER_METADATA: json.dumps({"r": 3, "lora_alpha": 0.1})}
    save_file(tensors, tmp_path / "a.safetensors", metadata=header)
    if is_refused:
        with pytest.raises(InputError, match=r"img_in\.alpha is 0\.1001"):
            read_lora(tmp_path, SMALL)
    else:
        assert list(read_lora(tmp_path, SMALL).modules) == ["img_in"]


# Strengths and what is merged


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), float("-inf")])
def test_a_strength_that_is_no_number_is_refused_and_nothing_changes(tmp_path, scale):
    write_lora(random_lora(), tmp_path, SMALL)
    model, before = small_model(), small_model().state_dict()
    for attempt in (
        lambda: fluxmodel.load_lora(model, tmp_path, scale),
        lambda: merge(model, [(random_lora(), 1.0), (random_lora(), scale)]),
        lambda: inject(model, random_lora(), weight=scale),
    ):
        with pytest.raises(InputError, match=f"is {scale}; give a finite"):
            attempt()
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_lora_of_strength_zero_changes_no_bit():
    model = small_model()
    with torch.no_grad():
        model.img_in.weight.fill_(-0.0)
    merged = merge(model, [(random_lora(), 0.0)])
    assert bool(model.img_in.weight.signbit().all())
    unmerge(model, merged)
    merge(model, [(random_lora(), 0.0), (random_lora(chosen=lambda name: name == "txt_in"), 1.0)])
    assert bool(model.img_in.weight.signbit().all())
    assert not torch.equal(model.txt_in.weight, small_model().txt_in.weight)


def test_fp64_weights_keep_their_precision():
    model, lora = small_model().double(), random_lora()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-12)
    wanted = {n: model.get_submodule(n).weight + 0.7 * d for n, d in deltas(lora).items()}  # pyright: ignore
    merged = merge(model, [(lora, 0.7)])
    for name, weight in wanted.items():
        torch.testing.assert_close(model.get_submodule(name).weight, weight, rtol=0, atol=1e-14)
    unmerge(model, merged)
    assert model.img_in.weight.dtype == torch.float64


def test_a_lora_without_layers_is_not_put_beside_a_model():
    model = small_model()
    with pytest.raises(InputError, match="the LoRA has no layer"):
        inject(model, Lora({}))
    assert model.state_dict().keys() == small_model().state_dict().keys()


# Files


def test_the_name_of_pefts_own_file_is_not_written(tmp_path):
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: .*another name"):
        write_lora(random_lora(), tmp_path / "adapter_model.safetensors", SMALL, "kohya")
    assert not list(tmp_path.iterdir())


def test_the_passport_of_a_directory_is_that_of_its_lora(tmp_path):
    glow, wash = Passport(name="glow"), Passport(name="wash")
    proof = write_lora(random_lora(), tmp_path, SMALL, "peft", passport=glow)
    write_lora(random_lora(seed=1), tmp_path / "a.safetensors", SMALL, "kohya", passport=wash)
    assert read_passport(tmp_path) == glow, "a.safetensors comes first by name, but is not what is read"
    told = Passport(name="told", files={FILES["peft"]: proof})
    told.write(tmp_path)
    assert read_passport(tmp_path) == told
    write_lora(random_lora(seed=2), tmp_path, SMALL, "peft", passport=wash)
    assert read_passport(tmp_path) == wash, "lora.json is of the file that was there before"
    write_lora(random_lora(seed=2), tmp_path, SMALL, "peft")
    assert read_passport(tmp_path) is None
    Passport(name="by hand").write(tmp_path)
    assert read_passport(tmp_path) == Passport(name="by hand"), "it names no files"


def test_a_passport_that_is_not_utf8_is_refused(tmp_path):
    write_lora(random_lora(), tmp_path, SMALL)
    (tmp_path / "lora.json").write_bytes(b'{"name": "\xff"}')
    with pytest.raises(InputError, match=r"lora\.json: the passport is damaged"):
        read_passport(tmp_path)


def test_a_change_told_in_fp64_keeps_its_definition():
    change = LowRank(torch.ones(2, 3), torch.ones(4, 2), 1.0)
    assert change.delta(1 / 3, dtype=torch.float64).dtype == torch.float64
    assert change.delta().dtype == torch.float32
