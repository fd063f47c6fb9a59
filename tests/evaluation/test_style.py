"""The judge reads a style it is told of, and a LoRA's figures are paired."""

import numpy as np
import torch

from evaluation.scene_judge import SceneJudge
from evaluation.verdicts import AskedScenes, compare
from fluxmodel.data.procedural import LEVELS, draw_scene, parse_caption, render, short_caption
from fluxmodel.data.styles import STYLES

SCENES = [draw_scene(LEVELS["full"], 778, index) for index in range(150)]
ASKED = AskedScenes.of([parse_caption(short_caption(scene), LEVELS["full"]) for scene in SCENES], "full")


def accuracy(style, judge):
    images = torch.from_numpy(render(SCENES, style)).permute(0, 3, 1, 2).contiguous()
    return float(np.mean(compare(ASKED, judge.read(images)).accuracy))


def test_the_judge_reads_clean_styled_renders():
    style = STYLES["glow"]
    assert accuracy(style, SceneJudge("full", style)) > 0.97


def test_an_unstyled_judge_keeps_its_name():
    assert "style" not in SceneJudge("full").name
    assert "glow" in SceneJudge("full", STYLES["glow"]).name


def test_each_image_is_read_in_the_look_that_fits_it():
    from evaluation.style import Reader
    from fluxmodel.data.styles import PLAIN
    from fluxmodel.encoders.style_classifier import StyleClassifier, StyleClassifierConfig

    reader = Reader(StyleClassifier(StyleClassifierConfig(width=8)), "full", "wash")
    for style in (PLAIN, STYLES["wash"]):
        images = torch.from_numpy(render(SCENES, style)).permute(0, 3, 1, 2).contiguous()
        assert reader.accuracy(images, ASKED).mean() > 0.97
