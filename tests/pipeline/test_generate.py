"""`fluxline generate` with what a run registered."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # MLflow, SQLAlchemy and Prefect warn of their own deprecations
]

PROMPT = "a red circle top left"


def test_generate_draws_with_the_champions_rectified_model_and_with_its_lora(finished, tmp_path):
    from fluxmodel import TextToImage

    command, stages, _, _ = finished

    def pixels(*arguments: str) -> np.ndarray:
        drawn, _ = command.run("generate", PROMPT, *arguments, "--out", str(tmp_path), "--json")
        return read(drawn["images"][0]["path"])

    rectified = TextToImage.from_pretrained(command.artifact(stages["rectify"]))
    base = TextToImage.from_pretrained(command.artifact(stages["train"]))
    lora = command.artifact(stages["finetune"])
    one: dict[str, Any] = {"num_steps": 1, "seed": 0}
    assert np.array_equal(pixels("--steps", "1"), np.asarray(rectified([PROMPT], **one)[0]))
    assert np.array_equal(pixels(), np.asarray(rectified([PROMPT], **one)[0]))  # one step is its default
    assert np.array_equal(pixels("--variant", "base"), np.asarray(base([PROMPT], seed=0)[0]))
    styled = np.asarray(rectified.with_lora(lora)([PROMPT], **one)[0])
    assert np.array_equal(pixels("--lora", "wash"), styled)
    assert np.array_equal(pixels("--lora", str(lora)), styled)
    assert not np.array_equal(styled, np.asarray(rectified([PROMPT], **one)[0]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "nobody"], "There is no registered model 'nobody'; `fluxline run` makes one."),
        (
            ["--lora", "charcoal"],
            "--lora charcoal: this model has wash; name one of its LoRAs, or the path of another.",
        ),
    ],
)
def test_what_there_is_not_is_one_sentence(finished, tmp_path, arguments, said):
    _, err = finished[0].run("generate", PROMPT, *arguments, "--out", str(tmp_path / "out"), code=2)
    assert err == f"fluxline: {said}\n"
    assert not Path(tmp_path / "out").exists()


def read(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)
