from types import SimpleNamespace
from typing import Any

from evaluation.contamination import contamination
from evaluation.report_coverage import coverage
from fluxmodel.data.caption_rows import ROWS, CaptionRow, write_rows
from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.data.curation import CurationRules, curate
from tests.fluxmodel.data.pictures import encoded, picture


def metric(name, value, low, high):
    return {"name": name, "value": value, "ci_low": low, "ci_high": high, "n": 100, "method": ""}


DOCUMENT = {
    "metrics": [
        metric("precision", 0.9, 0.85, 0.95),
        metric("coverage", 0.31, 0.25, 0.37),
        metric("mind", 4.5, 4, 5),
    ],
    "baselines": {"real_against_real": {"coverage": metric("coverage", 0.97, 0.95, 0.99)}},
    "nearest": {"num_training": 19000, "of_real": 0.009, "nearer_than_real": 0.62},
}


def test_coverage_stands_beside_the_real_images():
    text = coverage(DOCUMENT)
    assert "31.0%" in text
    assert "97.0%" in text
    assert "recall</th>" not in text
    assert "by heart" not in text


def test_what_is_learnt_by_heart_is_told_with_what_chance_would_give():
    document = DOCUMENT | {"metrics": [*DOCUMENT["metrics"], metric("memorised", 0.05, 0.03, 0.08)]}
    text = coverage(document)
    assert "5.0% (3.0 to 8.0) of its images" in text
    assert "19,000 training images" in text
    assert "62%" in text


def test_an_older_evaluation_has_no_such_section():
    assert coverage({"metrics": [metric("fd", 1, 0, 2)], "baselines": {}}) == ""


def test_leakage_is_told_with_its_counts():
    found = {
        "num_images": 500, "num_training": 19000, "num_prompts": 400, "same_pixels": 2, "near_images": 1,
        "same_captions": 7, "near_captions": 4, "note": "A <grammar>.",
    }  # fmt: skip
    text = coverage(DOCUMENT | {"leakage": found})
    assert "3 of 500 evaluation images" in text
    assert "11 of 400 prompts" in text
    assert "A &lt;grammar&gt;." in text
    assert "Leakage" not in coverage(DOCUMENT)


def test_leakage_is_looked_for_in_the_captions_of_the_training_split_alone(tmp_path):
    folder, output, captions = tmp_path / "in", tmp_path / "out", tmp_path / "captions"
    for each in (folder, output, captions):
        each.mkdir()
    for seed in range(30):
        (folder / f"{seed}.png").write_bytes(encoded(picture(seed)))
        (folder / f"{seed}.txt").write_text(f"old words {seed}")
    curate(str(folder), CurationRules(test_fraction=0.3), output)
    rows = [
        CaptionRow("a", "train", "two grey owls", "model"),
        CaptionRow("b", "test", "one red boat", "model"),
    ]
    write_rows(rows, captions / ROWS)
    prompts = SimpleNamespace(prompts=["two grey owls", "one red boat"])
    benchmark: Any = SimpleNamespace(prompts=prompts, level=None)
    found = contamination(CuratedDataset(output), benchmark, captions)
    assert (found["same_captions"], found["examples"][-1]["evaluated"]) == (1, "two grey owls")
    assert contamination(CuratedDataset(output), benchmark)["same_captions"] == 0
