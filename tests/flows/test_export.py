"""`fluxline export` and `fluxline generate` with a FLUX.1 directory, as a person types them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from flows.cli import run_command
from fluxmodel.encoders.flux_text import FluxTextEncoder
from fluxmodel.lora_files import write_lora
from fluxmodel.weights import read_mmdit_config
from tests.fluxmodel.tiny_loras import random_lora
from tests.kit import write_model
from tests.tiny_pipelines import save_pipeline

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers and transformers deprecate themselves


@pytest.fixture(scope="module")
def schnell(tmp_path_factory):
    return save_pipeline("flux-schnell", tmp_path_factory.mktemp("flux") / "schnell")


def test_a_flux_directory_is_drawn_with_exported_and_drawn_with_again(schnell, tmp_path, capsys):
    out = str(tmp_path / "exported")
    assert run_command(["export", str(schnell), "--to", out]) == 0
    assert capsys.readouterr().out == f"{out}: 14 files, 0.00112 GB\n"
    pixels = []
    for model in (str(schnell), out):
        drawing = ["--steps", "1", "--out", str(tmp_path / "images"), "--json"]
        assert run_command(["generate", "a red circle", "--model", model, *drawing]) == 0
        image = json.loads(capsys.readouterr().out.splitlines()[-1])["images"][0]
        with Image.open(image["path"]) as opened:
            assert opened.size == (256, 256)
            pixels.append(opened.tobytes())
    assert pixels[0] == pixels[1]


def test_a_prompt_that_was_drawn_before_reads_no_text_encoder(schnell, tmp_path, capsys, monkeypatch):
    drawing = ["--steps", "1", "--height", "16", "--width", "16", "--out", str(tmp_path / "images"), "--json"]
    asked = ["a red circle", "a blue square"]

    def drawn():
        assert run_command(["generate", *asked, "--model", str(schnell), *drawing]) == 0
        images = json.loads(capsys.readouterr().out.splitlines()[-1])["images"]
        return [Path(each["path"]).read_bytes() for each in images]

    first = drawn()
    with monkeypatch.context() as patch:
        patch.setattr(FluxTextEncoder, "from_directory", lambda *_: pytest.fail("T5 and CLIP were read"))
        assert drawn() == first
    asked[1] = "a green square"
    assert drawn()[0] == first[0]


def test_a_lora_acts_alike_merged_while_drawing_and_merged_while_exporting(schnell, tmp_path, capsys):
    config, lora = read_mmdit_config(schnell), tmp_path / "style.safetensors"
    write_lora(random_lora(config, rank=2, alpha=4.0), lora, config, "kohya")
    acting = ["--lora", str(lora), "--lora-scale", "0.5"]
    assert run_command(["export", str(schnell), "--to", str(tmp_path / "merged"), *acting]) == 0
    pixels = []
    for model, more in ((tmp_path / "merged", []), (schnell, acting), (schnell, [])):
        capsys.readouterr()
        drawing = [
            "--steps",
            "1",
            "--height",
            "32",
            "--width",
            "48",
            "--out",
            str(tmp_path / "images"),
            "--json",
        ]
        assert run_command(["generate", "a red circle", "--model", str(model), *more, *drawing]) == 0
        image = json.loads(capsys.readouterr().out.splitlines()[-1])["images"][0]
        with Image.open(image["path"]) as opened:
            pixels.append(opened.tobytes())
    assert pixels[0] == pixels[1] != pixels[2]


def test_of_our_own_model_the_command_says_what_stays(tmp_path, capsys):
    model, out = write_model(tmp_path / "model"), tmp_path / "out"
    assert run_command(["export", str(model), "--to", str(out), "--layout", "flux", "--json"]) == 0
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    size = (out / "rectified.safetensors").stat().st_size
    assert made["directory"] == str(out)
    assert (made["layout"], made["files"], made["num_bytes"]) == ("flux", ["rectified.safetensors"], size)
    assert "diffusers has no class for this model's text encoder and autoencoder" in made["note"]
    assert run_command(["export", str(model), "--to", str(tmp_path / "base"), "--variant", "base"]) == 0
    assert "network was written alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export"], "model is missing"),
        (["export", "{model}"], "to is missing"),
        (["export", "no/where", "--to", "{new}"], "no/where: there is nothing there; name a directory"),
        (["export", "{model}", "--to", "{full}"], "is not empty; name a directory that is missing or empty"),
        (["export", "{model}", "--to", "{new}", "--layout", "gguf"], "--layout is 'gguf'"),
        (["export", "{model}", "--to", "{new}", "--dtype", "int4"], "--dtype is 'int4'"),
        (["export", "{model}", "--to", "{new}", "--variant", "other"], "variant is 'other'; this model has"),
        (["export", "{model}", "--to", "{new}", "--lora", "wash"], "--lora wash: this model has none"),
        (["export", "{full}", "--to", "{new}"], "weights"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(tmp_path, capsys, arguments, said):
    places = {"model": write_model(tmp_path / "model"), "new": tmp_path / "new", "full": tmp_path / "full"}
    places["full"].mkdir()
    (places["full"] / "mine.txt").write_text("mine")
    assert run_command([each.format(**places) for each in arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not places["new"].exists()
