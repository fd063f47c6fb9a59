"""`fluxline plan` as it is typed."""

import json
import math
import shlex
from types import SimpleNamespace

import pytest

from flows.cli import run_command
from fluxmodel.tensor_files import TensorFiles
from fluxmodel.weight_places import find_weights
from tasks import sizing
from tests.kit import loaded_after, write_model
from tests.tiny_pipelines import save_pipeline

OFFLINE = ["--gpu-memory", "80"]
"""A GPU of no name: nothing is timed."""


def planned(capfd, *arguments: str) -> tuple[int, dict]:
    code = run_command(["plan", *arguments, "--json"])
    return code, json.loads(capfd.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "what is missing"),
        (["nowhere"], "'nowhere' is neither a preset (demo, smoke, flux_dev, flux_schnell) nor a directory"),
        (["demo", "--size", "33"], "--size is 33, not a multiple of the 8 pixels a token covers; give 32."),
        (["demo", "--batch", "63"], "--batch is 63, which 2 processes cannot share; give 64."),
        (["demo", "--batch", "-1"], "--batch is -1; give 0 or more."),
        (["demo", "--gpu-memory", "nan"], "--gpu-memory is nan; give 0 or more."),
        (["demo", "--gpus", "2"], "--gpus is 2, of an unknown kind; name it with --gpu or --gpu-memory."),
        (["demo", "--gpu", "gtx"], "--gpu is 'gtx'; choose one of l4, "),
        (["demo", "--dtype", "fp8"], "--dtype is 'fp8'; choose one of auto, fp32, bf16."),
        (["demo", "--rank", "4"], "--rank is 4, which is a LoRA's; add --lora."),
        (["demo", "--size", "big"], "--size is 'big', which is not a whole number"),
    ],
)
def test_bad_usage_is_one_sentence(arguments, said, capfd):
    assert run_command(["plan", *arguments]) == 2
    printed = capfd.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "weights"),
        ({"config.json": '{"hidden": 3}'}, "config.json: hidden"),
        ({"model_index.json": "no"}, "model_index.json: cannot be read"),
        ({"model_index.json": '{"_class_name": "StableDiffusionPipeline"}'}, "of a StableDiffusionPipeline"),
        ({"model_index.json": "{}"}, "image_size"),
    ],
)
def test_a_directory_that_is_no_model_is_refused(files, said, tmp_path, capfd):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert run_command(["plan", str(tmp_path)]) == 2
    printed = capfd.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1


def test_a_job_that_cannot_fit_is_refused_with_one_that_does(capfd):
    arguments = ["demo", "--size", "256", "--batch", "8", "--dtype", "fp32", "--gpu-memory", "0.75"]
    code, found = planned(capfd, *arguments)
    assert (code, found["fits"]) == (2, False)
    assert found["memory"]["need"] > found["memory"]["room"]
    assert run_command(["plan", *arguments]) == 2
    refusal = capfd.readouterr().err
    assert refusal.startswith("fluxline: demo, all of it trained, 256 px, batch 8, fp32, needs ")
    _, _, command = refusal.partition("fluxline plan ")
    code, nearest = planned(capfd, *shlex.split(command))
    assert (code, nearest["fits"]) == (0, True)
    assert nearest["job"] | {"train_steps": None} == found["nearest"] | {"train_steps": None}


def test_the_command_for_what_fits_can_be_pasted_whatever_the_folder_is_called(tmp_path, capfd):
    place = str(write_model(tmp_path / "my model v1.5"))
    arguments = [place, "--size", "512", "--batch", "64", "--dtype", "fp32", "--gpu-memory", "0.75"]
    assert run_command(["plan", *arguments]) == 2
    _, _, command = capfd.readouterr().err.partition("fluxline plan ")
    assert shlex.split(command)[0] == place
    assert planned(capfd, *shlex.split(command))[0] == 0


@pytest.mark.parametrize("part", ["", "transformer"])
def test_a_job_is_called_as_its_folder_is(part, tmp_path, monkeypatch, capfd):
    place = write_model(tmp_path / "net-v1.5") / part
    monkeypatch.chdir(place)
    assert planned(capfd, ".", *OFFLINE)[1]["name"] == place.name


@pytest.mark.parametrize(
    ("limit", "used", "cached", "free"),
    [
        ("8000000000\n", 3_000_000_000, 1_000_000_000, 6e9),
        ("8000000000\n", 9_000_000_000, 0, 0),
        ("max\n", 3_000_000_000, 0, 10e9),
        (None, 0, 0, 10e9),
        ("80000000000\n", 3_000_000_000, 0, 10e9),
    ],
)
def test_what_a_container_uses_is_no_room(limit, used, cached, free, tmp_path, monkeypatch):
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text(f"{used}\n")
        (tmp_path / "memory.stat").write_text(f"anon 7\ninactive_file {cached}\nactive_file 5\n")
    monkeypatch.setattr(sizing, "CGROUP", tmp_path)
    monkeypatch.setattr(sizing.psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000_000_000))
    assert sizing.room(sizing.AskedPlan("demo")).num_bytes == free


def test_where_nothing_fits_the_least_is_named(capfd):
    assert run_command(["plan", "demo", "--gpu-memory", "0.3"]) == 2
    printed = capfd.readouterr()
    assert (
        "nothing near fits: even demo, a LoRA of rank 16, 32 px, batch 1, bf16, needs 0.6 GB." in printed.err
    )
    assert "does not fit" in printed.out


def test_a_preset_is_planned_as_it_is_trained(capfd):
    code, found = planned(capfd, "demo", *OFFLINE)
    assert code == 0
    assert found["job"] == {
        "size": 32,
        "image_tokens": 16,
        "text_tokens": 16,
        "batch": 64,
        "processes": 1,
        "rank": 0,
        "precision": "bf16",
        "steps": 8,
        "passes": 2,
        "target": "gpu",
        "train_steps": 1600,
    }
    assert found["speed"] is None


def test_a_named_gpu_is_priced_by_its_published_peak(capfd):
    _, found = planned(capfd, "demo", "--lora", "--gpu", "h100", "--gpus", "2", "--hours-price", "3")
    speed = found["speed"]
    assert speed["step_mfu"] == 0.4
    assert speed["step_seconds"] == pytest.approx(found["flops"]["step"] / (2 * 0.4 * 989e12))
    assert speed["cost"] == pytest.approx(3 * speed["hours"])
    assert speed["hours"] == pytest.approx(2 * 500 * speed["step_seconds"] / 3600)


@pytest.mark.slow
def test_this_machine_is_tried(capfd):
    code, found = planned(capfd, "smoke")
    assert code == 0
    assert found["speed"]["peak_said"] == "measured, one thread"
    assert 0 < found["speed"]["step_mfu"] < 1
    assert found["speed"]["step_said"] == "the step itself"


def test_our_own_directory_is_read(tmp_path, capfd):
    code, found = planned(capfd, str(write_model(tmp_path / "model")), *OFFLINE)
    assert code == 0
    assert found["job"]["image_tokens"] == 4
    assert (found["job"]["text_tokens"], found["job"]["steps"], found["job"]["passes"]) == (6, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "text_tokens", "steps"), [("flux-dev", 512, 28), ("flux-schnell", 256, 4)])
def test_a_directory_of_flux_is_read(name, text_tokens, steps, tmp_path, capfd):
    place = save_pipeline(name, tmp_path / name)
    code, found = planned(capfd, str(place), "--size", "64", *OFFLINE)
    assert code == 0
    assert (found["job"]["text_tokens"], found["job"]["steps"]) == (text_tokens, steps)
    folder = place / "transformer"
    assert found["parameters"]["network"] == sum(
        math.prod(shape) for shape in TensorFiles(find_weights(folder)).shapes.values()
    )
    (place / "transformer" / "config.json").unlink()  # the shapes tell most of it, but not the rotary axes
    assert run_command(["plan", str(place)]) == 2
    assert "axes_dim" in capfd.readouterr().err


@pytest.mark.slow
def test_flux_dev_fits_a_large_gpu_as_a_lora_only(capfd):
    code, found = planned(capfd, "flux_dev", "--gpu-memory", "80")
    assert (code, found["parameters"]["network"]) == (2, 11_901_408_320)
    assert (found["nearest"]["rank"], found["nearest"]["size"]) == (16, 1024)


def test_its_help_loads_nothing_heavy():
    heavy = ("torch", "prefect", "mlflow", "pandas", "transformers", "datasets", "peft")
    assert loaded_after("import flows.cli\nflows.cli.run_command(['plan', '--help'])", heavy) == []
