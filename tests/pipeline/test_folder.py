"""The chain on a folder of pictures with captions beside them, some of them broken."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLORS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 220), "yellow": (230, 210, 40)}

pytestmark = pytest.mark.slow


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


def test_a_folder_is_learned_without_a_detector_and_refused_files_are_named(finished, folder, tmp_path):
    command = type(finished[0])(tmp_path / "home", finished[0].environment)
    stages, outcome, err = command.pipeline("--data", str(folder), "--name", "patches")
    assert "prepare-detector" not in stages
    assert list(stages)[-1] == "register"
    assert "torn.png: truncated" in err
    assert outcome["model_name"] == "patches"
    moved = folder.rename(tmp_path / "the-same-elsewhere")
    (moved / "001.txt").write_text("a green patch indeed")
    again, _, _ = command.pipeline("--data", str(moved), "--name", "patches")
    assert again["curate"]["reason"].startswith("re-ran because source.fingerprint changed")
