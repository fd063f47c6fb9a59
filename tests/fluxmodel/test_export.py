"""Models written for others: what they hold there, and that a failure leaves nothing behind."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fluxmodel import export as exporting
from fluxmodel.errors import InputError
from fluxmodel.export import LEFT_BEHIND, export
from fluxmodel.lora_files import load_lora, read_lora, write_lora
from fluxmodel.weights import load_mmdit, read_mmdit_config, save_mmdit
from tests.kit import write_model

from .tiny_loras import assert_same_deltas, random_lora

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers and transformers deprecate themselves

THEIRS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("ours") / "model")


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of all parts, by part and name."""
    found = {}
    for path in sorted(directory.rglob("*.safetensors")):
        part = path.parent.relative_to(directory)
        found |= {f"{part}: {name}": tensor for name, tensor in load_file(path).items()}
    return found


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    differ = [n for n in one if one[n].dtype != other[n].dtype or not torch.equal(one[n], other[n])]
    assert differ == []


def velocity(model, guidance=None, theirs=False):
    """The same input for a network of either library, whatever its widths."""
    config = model.config
    g = torch.Generator().manual_seed(0)
    text_dim = config.joint_attention_dim if theirs else config.context_in_dim
    pooled_dim = config.pooled_projection_dim if theirs else config.vec_in_dim
    img, txt = torch.randn(2, 6, config.in_channels, generator=g), torch.randn(2, 3, text_dim, generator=g)
    y, t = torch.randn(2, pooled_dim, generator=g), torch.tensor([0.3, 0.9])
    img_ids, txt_ids = torch.arange(18.0).reshape(6, 3), torch.zeros(3, 3)
    told = None if guidance is None else torch.full((2,), guidance)
    with torch.inference_mode():
        if theirs:
            return model(img, txt, y, t, img_ids, txt_ids, told, return_dict=False)[0]
        return model(img, img_ids.expand(2, -1, -1), txt, txt_ids.expand(2, -1, -1), t, y, told)


@pytest.mark.parametrize("name", ["dev", "schnell"])
def test_export_diffusers_save_and_export_again_change_no_bit(flux_directory, tmp_path, name):
    import diffusers

    source = flux_directory(name)
    made = export(source, tmp_path / "out")
    assert_same(tensors(source), tensors(tmp_path / "out"))
    assert made.note == ""
    assert set(made.files) == {p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file()}
    assert made.num_bytes == sum((tmp_path / "out" / each).stat().st_size for each in made.files)
    diffusers.FluxPipeline.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "saved")
    export(tmp_path / "saved", tmp_path / "back")
    assert_same(tensors(source), tensors(tmp_path / "back"))


@pytest.mark.parametrize("name", ["dev", "schnell"])
def test_the_single_file_is_the_network_under_the_original_names_and_leads_back(
    flux_directory, tmp_path, name
):
    source = flux_directory(name)
    made = export(source, tmp_path / "flux", layout="flux")
    assert made.files == (f"flux1-{name}.safetensors",)
    file = tmp_path / "flux" / made.files[0]
    assert "double_blocks.0.img_attn.qkv.weight" in load_file(file)
    state, other = (load_mmdit(path).state_dict() for path in (file, source / "transformer"))
    assert_same(dict(state), dict(other))
    alone = export(file, tmp_path / "back")
    assert alone.files == ("transformer/config.json", THEIRS)
    assert "network alone" in alone.note
    assert_same(load_file(tmp_path / "back" / THEIRS), load_file(source / THEIRS))
    before = json.loads((source / "transformer/config.json").read_text())
    after = json.loads((tmp_path / "back/transformer/config.json").read_text())
    told = [key for key in after if key != "out_channels"]  # null where it is as many as go in
    assert {key: before[key] for key in told} == {key: after[key] for key in told}


def test_of_our_own_model_diffusers_loads_the_network_alone(ours, tmp_path):
    import diffusers

    for variant, folder in (("", "transformer"), ("base", "transformer_base")):
        made = export(ours, tmp_path / f"out-{variant}", variant=variant)
        assert made.files == ("transformer/config.json", THEIRS)
        assert made.note == LEFT_BEHIND
        theirs = diffusers.FluxTransformer2DModel.from_pretrained(
            tmp_path / f"out-{variant}", subfolder="transformer"
        )
        expected = velocity(load_mmdit(ours / folder))
        torch.testing.assert_close(velocity(theirs, theirs=True), expected, rtol=1e-4, atol=1e-5)
        assert expected.std() > 0.05
    assert export(ours, tmp_path / "file", "flux").files == ("rectified.safetensors",)
    again = load_mmdit(tmp_path / "file/rectified.safetensors")
    assert_same(dict(again.state_dict()), dict(load_mmdit(ours / "transformer").state_dict()))


@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_a_lora_is_merged_at_its_strength(flux_directory, tmp_path, scale):
    import diffusers

    plain = load_mmdit(flux_directory("dev") / "transformer")
    path = tmp_path / "style.safetensors"
    write_lora(random_lora(plain.config, rank=2, alpha=4.0), path, plain.config, "kohya")
    export(flux_directory("dev"), tmp_path / "out", lora=path, lora_scale=scale)
    theirs = diffusers.FluxPipeline.from_pretrained(tmp_path / "out").transformer
    before = velocity(plain, 3.5)
    expected = velocity(load_lora(plain, path, scale), 3.5)
    torch.testing.assert_close(velocity(theirs, 3.5, theirs=True), expected, rtol=1e-4, atol=1e-4)
    assert (before - expected).abs().max() > 0.05
    kept = {n: t for n, t in tensors(flux_directory("dev")).items() if not n.startswith("transformer:")}
    made = {n: t for n, t in tensors(tmp_path / "out").items() if not n.startswith("transformer:")}
    assert_same(kept, made)


@pytest.mark.parametrize("layout", ["peft", "kohya", "comfy"])
def test_a_lora_can_lie_beside_a_network_that_stays_as_it_is(flux_directory, tmp_path, layout):
    source = flux_directory("dev")
    config = read_mmdit_config(source)
    write_lora(random_lora(config, rank=2, alpha=4.0), tmp_path / "style.safetensors", config, "comfy")
    lora = tmp_path / "style.safetensors"
    files = export(source, tmp_path / "out", lora=lora, lora_layout=layout).files
    (written,) = (name for name in files if name.startswith("loras/style/"))
    assert_same(load_file(source / THEIRS), load_file(tmp_path / "out" / THEIRS))
    change = read_lora(tmp_path / "out" / written, config)
    assert_same_deltas(change, random_lora(config, rank=2, alpha=4.0))


def test_diffusers_draws_with_the_lora_beside_as_we_do_with_it_merged(flux_directory, tmp_path):
    import diffusers

    config = read_mmdit_config(flux_directory("dev"))
    path = tmp_path / "style.safetensors"
    write_lora(random_lora(config, rank=2, alpha=4.0), path, config, "kohya")
    export(flux_directory("dev"), tmp_path / "out", lora=path, lora_layout="peft")
    pipe = diffusers.FluxPipeline.from_pretrained(tmp_path / "out")
    pipe.load_lora_weights(tmp_path / "out/loras/style")
    ours = load_lora(load_mmdit(flux_directory("dev")), path)
    theirs = velocity(pipe.transformer, 3.5, theirs=True)
    torch.testing.assert_close(theirs, velocity(ours, 3.5), rtol=1e-4, atol=1e-4)


def test_the_dtype_is_the_networks(flux_directory, tmp_path):
    export(flux_directory("schnell"), tmp_path / "out", dtype="bf16")
    found = tensors(tmp_path / "out")
    assert {t.dtype for n, t in found.items() if n.startswith("transformer:")} == {torch.bfloat16}
    assert {t.dtype for n, t in found.items() if n.startswith("vae:")} == {torch.float32}


def test_the_licence_goes_with_the_weights_and_pickles_stay(flux_directory, tmp_path):
    source = shutil.copytree(flux_directory("schnell"), tmp_path / "source")
    (source / "LICENSE.md").write_text("terms")
    (source / "flux1-schnell.safetensors").write_bytes(b"the same weights in the original layout")
    (source / "text_encoder_2/pytorch_model.bin").write_bytes(b"pickled")
    files = export(source, tmp_path / "out").files
    assert "LICENSE.md" in files
    assert not [name for name in files if name.endswith(".bin") or name.startswith("flux1")]


@pytest.mark.parametrize("has_config", [True, False], ids=["with config.json", "without"])
@pytest.mark.parametrize("file", ["flux1-dev.safetensors", "diffusion_pytorch_model.safetensors"])
def test_a_network_in_the_original_layout_is_written_as_diffusers_has_it(
    flux_directory, tmp_path, file, has_config
):
    import diffusers

    source = shutil.copytree(flux_directory("dev"), tmp_path / "source")
    network = load_mmdit(source / "transformer")
    (source / THEIRS).unlink()
    save_mmdit(network, source / "transformer" / file, "flux")
    if not has_config:
        (source / "transformer/config.json").unlink()
    export(source, tmp_path / "out")
    pipe = diffusers.FluxPipeline.from_pretrained(tmp_path / "out")
    assert_same(tensors(flux_directory("dev")), tensors(tmp_path / "out"))
    torch.testing.assert_close(
        velocity(pipe.transformer, 3.5, theirs=True), velocity(network, 3.5), rtol=1e-4, atol=1e-5
    )


def test_a_network_of_ours_in_diffusers_names_gets_their_config(flux_directory, tmp_path):
    import diffusers

    source = shutil.copytree(flux_directory("dev"), tmp_path / "source")
    config = read_mmdit_config(source)
    (source / "transformer/config.json").write_text(config.model_dump_json())
    export(source, tmp_path / "out")
    diffusers.FluxPipeline.from_pretrained(tmp_path / "out")
    assert_same(tensors(source), tensors(tmp_path / "out"))


@pytest.mark.parametrize("said", [".", "../net-v1.5", "{here}"])
def test_a_file_is_named_after_the_folder_it_came_from(ours, tmp_path, monkeypatch, said):
    here = shutil.copytree(ours / "transformer", tmp_path / "net-v1.5")
    monkeypatch.chdir(here)
    assert export(said.format(here=here), tmp_path / "out", "flux").files == ("net-v1.5.safetensors",)


def test_a_lora_is_named_after_its_file_or_folder(flux_directory, tmp_path):
    config = read_mmdit_config(flux_directory("dev"))
    (tmp_path / "ink-v1.5").mkdir()
    for number, path in enumerate((tmp_path / "ink-v1.5", tmp_path / "wash-v1.5.safetensors")):
        write_lora(random_lora(config, rank=2, alpha=4.0), path, config)
        made = export(flux_directory("dev"), tmp_path / str(number), "flux", lora=path, lora_layout="peft")
        name = path.name.removesuffix(".safetensors")
        assert f"loras/{name}/pytorch_lora_weights.safetensors" in made.files


def test_copying_tells_how_far_it_is(flux_directory, tmp_path):
    told = []
    export(flux_directory("schnell"), tmp_path / "out", progress=lambda *each: told.append(each))
    done, totals, parts = zip(*told, strict=True)
    assert list(done) == sorted(done)
    assert set(totals) == {done[-1]}
    assert {"transformer", "vae", "text_encoder_2"} <= set(parts)


def test_an_empty_directory_is_taken(flux_directory, tmp_path):
    (tmp_path / "out").mkdir()
    export(flux_directory("schnell"), tmp_path / "out", "flux")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "failure", [InputError("no"), KeyboardInterrupt(), OSError(28, "No space left on device")]
)
def test_what_fails_half_way_leaves_nothing(flux_directory, tmp_path, monkeypatch, failure):
    def fail(model, path, layout):
        Path(path).mkdir()
        raise failure

    monkeypatch.setattr(exporting, "save_mmdit", fail)
    expected = InputError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected, match="No space left" if isinstance(failure, OSError) else None):
        export(flux_directory("schnell"), tmp_path / "out", dtype="bf16")
    assert list(tmp_path.iterdir()) == []


def _full(place):
    (place / "out").mkdir()
    (place / "out" / "mine.txt").write_text("mine")


@pytest.mark.parametrize(
    ("arguments", "prepare", "named"),
    [
        ({}, _full, "out is not empty; name a directory that is missing or empty"),
        ({}, lambda place: (place / "out").write_text("mine"), "out is a file"),
        ({"layout": "gguf"}, None, "layout is 'gguf'; it is diffusers or flux"),
        ({"dtype": "int8"}, None, "dtype is 'int8'; it is one of fp32, bf16, fp16"),
        ({"variant": "rectified"}, None, "variant is 'rectified'; this model is schnell and has no other"),
        ({"lora": "nothing.safetensors"}, None, "nothing.safetensors"),
        (
            {"lora": "a", "lora_layout": "xlabs"},
            None,
            "lora_layout is 'xlabs'; it is one of peft, kohya, comfy",
        ),
        ({"lora": "a", "lora_scale": float("nan")}, None, "lora_scale is nan; give a finite number"),
        ({"lora": "a", "lora_scale": float("inf")}, None, "lora_scale is inf; give a finite number"),
        ({"lora_layout": "peft"}, None, "lora_layout is 'peft', but there is no lora"),
        ({"lora": "a", "lora_layout": "peft", "lora_scale": 0.5}, None, "scaled by who loads it"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(flux_directory, tmp_path, arguments, prepare, named):
    if prepare:
        prepare(tmp_path)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(InputError, match=named):
        export(flux_directory("schnell"), tmp_path / "out", **arguments)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_the_model_itself_is_no_place_to_export_to(ours):
    with pytest.raises(InputError, match="lies in the model itself"):
        export(ours, ours / "transformer" / "out")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"variant": "other"}, "this model has rectified, base"), ({"variant": ""}, "nowhere")],
)
def test_a_model_that_is_not_there_is_refused(ours, tmp_path, arguments, named):
    source = ours if arguments["variant"] else tmp_path / "nowhere"
    with pytest.raises(InputError, match=named):
        export(source, tmp_path / "out", **arguments)
