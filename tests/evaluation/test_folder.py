"""A folder of images has no scenes: no judge, retrieval instead, and reasons for what is missing."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation import EvaluationSettings, closing_figures, evaluate

WORDS = ["cat", "dog", "sun", "tree", "boat", "house", "star", "fish", "bird", "apple"]


@pytest.fixture(scope="module")
def folder_dataset(tmp_path_factory):
    from fluxmodel.data.curation import curate
    from fluxmodel.data.curation_rules import CurationRules

    folder, output = tmp_path_factory.mktemp("folder"), tmp_path_factory.mktemp("curated")
    rng = np.random.default_rng(0)
    for number in range(120):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(
            f"a {WORDS[number % 10]} and a {WORDS[number // 10 % 10]} number {number}"
        )
    curate(str(folder), CurationRules(), output)
    return output


class NoisePipe:
    autoencoder = None

    def sample(self, prompts, *, num_steps, guidance, seeds, batch_size=256):
        return torch.stack(
            [
                torch.randint(
                    0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
                )
                for seed in seeds
            ]
        )


@pytest.fixture(scope="module")
def report(tmp_path_factory, folder_dataset, model_directory, evaluators):
    settings = EvaluationSettings(
        num_images=150, steps=(1, 2), batch_size=64, num_latency_trials=1, grid_size=4
    )
    return evaluate(
        model_directory,
        folder_dataset,
        {"dual_encoder": evaluators["dual_encoder"]},
        settings,
        tmp_path_factory.mktemp("evaluated"),
        pipe=NoisePipe(),
    )


def test_there_is_no_judge_and_the_reason_is_recorded(report):
    assert report.document["identity"]["judge"] is None
    assert "no scene judge" in report.document["skipped"]["attr_acc"]
    assert report.document["groups"] == {}
    assert report.document["judge"] == {"name": None, "calibration": []}
    assert all(row["attr_acc"] is None for rows in report.document["curves"].values() for row in rows)


def test_retrieval_stands_in_with_its_chance_beside_it(report):
    found = next(each for each in report.document["metrics"] if each["name"] == "retrieval")
    assert report.document["chance"]["retrieval"] == 1 / 32
    assert found["ci_low"] <= 1 / 32 + 0.06
    assert "retrieval" in report.document["headline"]["chosen_by"]
    assert "own caption found" in closing_figures(report.document)


def test_a_small_test_split_is_stood_in_for_and_said(report, folder_dataset):
    assert "train split, the test split having only" in report.document["identity"]["reference"]
    splits = json.loads((folder_dataset / "curation.json").read_text())["splits"]
    assert splits["test"] < 64


def test_distances_are_labelled_with_the_dual_encoder(report):
    assert report.document["identity"]["feature_extractor"].startswith("dual encoder ")
    assert report.value("fd") > 0


def test_repeated_captions_are_bootstrapped_by_prompt(report):
    found = next(each for each in report.document["metrics"] if each["name"] == "retrieval")
    assert "bootstrap by prompt" in found["method"] or found["value"] == 0


def test_the_floor_of_the_distance_tells_of_how_many_images_it_is(report):
    ours = next(each for each in report.document["metrics"] if each["name"] == "fd")
    floor = report.document["baselines"]["real_against_real"]["fd"]
    assert floor["n"] == ours["n"] // 2
    assert closing_figures(report.document)["Frechet distance"].endswith(f", n = {floor['n']})")
    assert f"two halves of {floor['n']} each" in report.html.read_text()


def test_the_page_tells_a_folders_story(report):
    text = report.html.read_text()
    assert "Images of a folder" in text
    assert "by guessing" in text
    assert "What it never saw" not in text


def test_training_images_that_stand_in_for_a_small_test_split_are_told_as_leaked(report):
    found = report.document["leakage"]
    assert found["share"] == 1
    assert "training images are evaluated on" in found["note"]
