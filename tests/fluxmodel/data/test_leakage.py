"""Leakage: planted twins are found, whatever was done to them, and nothing else is."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.data.curation import CurationRules, curate
from fluxmodel.data.diversity import normalised
from fluxmodel.data.leakage import MIN_JACCARD, caption_twins, measure_leakage
from tests.fluxmodel.data.pictures import encoded, picture

words = st.lists(st.sampled_from("a red blue big small dog cat on the mat".split()), min_size=1, max_size=8)


def curated(tmp_path: Path, copies: int = 0, **rules) -> CuratedDataset:
    """Sixty pictures, the first `copies` of them twice (smaller, darker), curated into a new directory."""
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    output.mkdir()
    for seed in range(60):
        image = picture(seed)
        (folder / f"{seed:03d}.png").write_bytes(encoded(image))
        (folder / f"{seed:03d}.txt").write_text(f"picture {seed} of {seed * 7} discs")
        if seed < copies:
            small = Image.fromarray((image * 0.8).astype(np.uint8)).resize((60, 48))
            small.save(folder / f"{seed:03d}-copy.png")
            (folder / f"{seed:03d}-copy.txt").write_text(f"number {seed} again and {seed * 11}")
    curate(str(folder), CurationRules(**rules), output)
    return CuratedDataset(output)


def test_a_split_by_duplicate_group_leaks_nothing(tmp_path):
    found = measure_leakage(curated(tmp_path, copies=60, test_fraction=0.3), [])
    assert found.num_images >= 5
    assert (found.share, found.same_pixels, found.near_images, found.examples) == (0, 0, 0, ())


def test_a_split_that_ignores_duplicates_leaks_and_names_the_twins(tmp_path):
    dataset = curated(tmp_path, copies=60, test_fraction=0.3, near_duplicate_distance=None)
    found = measure_leakage(dataset, [])
    train, test = set(dataset.ids("train")), dataset.ids("test")

    def twin(name: str) -> str:
        return name.replace("-copy", "") if "-copy" in name else name.replace(name[:3], f"{name[:3]}-copy")

    straddling = [name for name in test if twin(name) in train]
    assert len(straddling) >= 5
    assert found.near_images >= 0.9 * len(straddling)
    assert {each.evaluated for each in found.examples} <= set(straddling)
    assert all(twin(each.evaluated) == each.training for each in found.examples)


def test_training_images_that_stand_in_are_all_leaked(tmp_path):
    assert measure_leakage(curated(tmp_path), [], is_standing_in=True).share == 1


def test_a_fresh_render_in_training_is_found_and_equal_captions_are_not_counted(tmp_path):
    dataset = curated(tmp_path)
    name = dataset.ids("train")[0]
    rendered = np.stack([picture(int(name[:3])), picture(1000)])
    found = measure_leakage(dataset, [dataset.captions("train")[0][0].text], rendered)
    assert (found.same_pixels, found.same_captions, found.share) == (1, 1, 0.5)
    assert found.examples[0].training == name
    assert "grammar" in found.note


def test_prompts_of_the_training_captions_are_leaked(tmp_path):
    dataset = curated(tmp_path)
    asked = [each[0].text.upper() + "!" for each in dataset.captions("train")[:3]] + ["something else"]
    found = measure_leakage(dataset, asked)
    assert (found.same_captions, found.share) == (3, 0.75)


def test_what_was_learned_from_new_captions_is_leaked_as_well(tmp_path):
    """A model that never saw the data's own words has seen those of the captioner."""
    dataset, asked = curated(tmp_path), ["two grey owls at night", "nothing of the kind"]
    assert measure_leakage(dataset, asked).share == 0
    found = measure_leakage(dataset, asked, learned=["Two grey owls, at night.", "a dog"])
    assert (found.same_captions, found.share) == (1, 0.5)
    assert found.examples[0].training == "Two grey owls, at night."


@pytest.mark.parametrize(
    ("left", "right"),
    [("A red  Dog.", "a red dog"), ("caf\u00e9", "cafe\u0301"), ("\uff32ed", "red"), ("dog, cat", "dog cat")],
)
def test_captions_are_equal_up_to_case_space_and_punctuation(left, right):
    assert normalised(left) == normalised(right)
    assert len(caption_twins([left], [right])[0]) == 1


@settings(max_examples=150, deadline=None)
@given(st.lists(words, max_size=12), st.lists(words, max_size=12))
def test_near_captions_are_those_of_every_pair_compared(asked, known):
    """Against the slow way: each with each."""
    texts, others = [" ".join(each) for each in asked], [" ".join(each) for each in known]
    equal, alike, beyond = caption_twins(texts, others)
    assert beyond == 0
    assert [each.evaluated for each in equal] == [text for text in texts if text in others]
    expected = [
        text
        for text in texts
        if text not in others
        and any(
            len(set(text.split()) & set(other.split()))
            >= MIN_JACCARD * len(set(text.split()) | set(other.split()))
            for other in others
        )
    ]
    assert [each.evaluated for each in alike] == expected


@pytest.mark.parametrize(
    ("left", "right", "alike"),
    [
        ("一只棕色的狗在绿色的草地上奔跑", "一只棕色的狗在绿色的草地上跑", True),
        ("一只棕色的狗在绿色的草地上奔跑", "两个红苹果放在木桌上", False),
        ("สุนัขสีน้ำตาลวิ่งบนสนามหญ้า", "สุนัขสีน้ำตาลวิ่งบนสนามหญ้าา", True),
        ("a poster that says 日本語の本", "a poster that says 日本語本", True),
    ],
)
def test_captions_without_spaces_are_compared_by_character(left, right, alike):
    equal, near, _ = caption_twins([left], [right])
    assert (len(equal), len(near)) == (0, alike)
