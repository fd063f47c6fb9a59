"""The chain on folders of pictures with captions beside them, some of them broken."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fluxmodel.data.captioning import NO_CAPTIONER
from tasks import registry
from tasks.home import Home
from tests.kit import wait_until

COLORS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 220), "yellow": (230, 210, 40)}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # MLflow, SQLAlchemy and Prefect warn of their own deprecations
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pictures"
    made.mkdir()
    generator = np.random.default_rng(0)
    for number in range(160):
        color, value = list(COLORS.items())[number % len(COLORS)]
        pixels = generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        side, top = 12 + number % 5, number % 20
        pixels[top : top + side, 8 : 8 + side] = value
        Image.fromarray(pixels).save(made / f"{number:03}.png")
        (made / f"{number:03}.txt").write_text(f"a {color} patch number {number % 7}")
    whole = (made / "000.png").read_bytes()
    (made / "torn.png").write_bytes(whole[: len(whole) // 2])
    (made / "torn.txt").write_text("a torn picture")
    return made


@pytest.fixture
def style(tmp_path: Path) -> Path:
    made = tmp_path / "sketches"
    made.mkdir()
    for number, (color, value) in enumerate([*COLORS.items()] * 2):
        pixels = np.zeros((36, 36, 3), dtype=np.uint8)
        pixels[8 + number : 20 + number, 8:24] = np.asarray(value) // 2
        Image.fromarray(pixels).save(made / f"{number}.png")
        (made / f"{number}.txt").write_text(f"a {color} patch")
    return made


def test_a_folder_is_learned_and_then_a_style_of_a_folder(finished, ran, folder, style, tmp_path, kill_tree):
    command = type(finished[0])(tmp_path / "home", finished[0].environment)
    stages, outcome, err = command.pipeline("--data", str(folder), "--name", "patches")
    assert set(finished[1]) - set(stages) == {
        *("prepare-detector", "prepare-captioner"),  # nobody knows what a photograph shows
        *("prepare-style_classifier", "finetune"),  # no style was asked for
    }
    assert list(stages)[-1] == "register"
    assert "torn.png: truncated" in err
    assert (outcome["model_name"], outcome["verdict"]) == ("patches", "promote")
    captions = json.loads((command.artifact(stages["caption"]) / "captions.json").read_text())
    assert captions["provenance"]["reason"] == NO_CAPTIONER
    assert stages["caption"]["gave"] == NO_CAPTIONER
    assert "lora.digest" not in registry.find_version(Home(command.home), "patches").tags
    _, err = command.run("generate", "a red patch", "--lora", "glow", "--out", str(tmp_path), code=2)
    assert err.startswith("fluxline: --lora glow: this model has none;")

    moved = folder.rename(tmp_path / "the-same-elsewhere")
    asked = ["--data", str(moved), "--name", "patches"]
    styled, outcome, _ = command.pipeline(*asked, "--style", str(style), "--trigger", "sketchy")
    again = ["prepare-style_classifier", "finetune", "evaluate", "gate", "register"]
    assert sorted(ran(styled)) == sorted(again)
    assert styled["finetune"]["gave"].startswith('"sketchy" from 8 images')
    assert styled["gate"]["reason"].startswith("re-ran because champion changed none -> version 1")
    assert styled["gate"]["reason"].endswith(", input evaluation changed")
    assert registry.find_version(Home(command.home), "patches", "2").tags["lora.name"] == "sketches"
    asked_for = ["--model", "patches@2", "--lora", "sketches", "--out", str(tmp_path / "out"), "--json"]
    drawn, _ = command.run("generate", "a red patch in sketchy", *asked_for)
    assert Path(drawn["images"][0]["path"]).is_file()

    (moved / "001.txt").write_text("a green patch indeed")
    process, artifacts = command.start("run", "--preset", "smoke", *asked), command.home / "artifacts"
    wait_until(
        lambda: process.poll() is not None or len([*(artifacts / "dataset").glob("[!.]*")]) == 2, seconds=300
    )
    kill_tree(process)
    why, _ = command.run("why", "curate", "--json")
    assert why["stages"][0]["reason"].startswith("re-ran because source.fingerprint changed")
