"""The diff of two curated datasets: exactly what was done to the source is told, each change once."""

import dataclasses
import shutil

import pytest

from fluxmodel.data.curation import curate
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.dataset_diff import DatasetDiff, diff_datasets
from fluxmodel.data.dataset_diff_page import document
from fluxmodel.errors import ArtifactError
from tests.fluxmodel.data.pictures import encoded, picture

RULES = CurationRules(near_duplicate_distance=None, min_caption_words=1)


def write(folder, name: str, seed: int, caption: str = "a picture") -> None:
    (folder / f"{name}.png").write_bytes(encoded(picture(seed)))
    (folder / f"{name}.txt").write_text(caption)


def curated(folder, output, rules: CurationRules = RULES):
    output.mkdir()
    curate(str(folder), rules, output)
    return output


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    root = tmp_path_factory.mktemp("diff")
    (root / "pictures").mkdir()
    for number in range(12):
        write(root / "pictures", f"p{number:02d}", number)
    curated(root / "pictures", root / "old")
    return root


def changed(before, tmp_path, change, rules: CurationRules = RULES) -> DatasetDiff:
    folder = tmp_path / "pictures"
    shutil.copytree(before / "pictures", folder)
    change(folder)
    return diff_datasets(before / "old", curated(folder, tmp_path / "new", rules))


def replace_add_and_recaption(folder):
    write(folder, "p00", 100)
    write(folder, "p01", 1, "another caption")
    for number in range(10):
        write(folder, f"new{number}", 200 + number)


def remove_and_rename(folder):
    (folder / "p02.png").unlink()
    (folder / "p02.txt").unlink()
    for suffix in ("png", "txt"):
        (folder / f"p03.{suffix}").rename(folder / f"q03.{suffix}")


@pytest.mark.parametrize(
    ("change", "expected", "same"),
    [
        (lambda folder: None, {}, 12),
        (replace_add_and_recaption, {"replaced": 1, "recaptioned": 1, "added": 10}, 10),
        (remove_and_rename, {"removed": 1, "renamed": 1}, 10),
    ],
)
def test_exactly_what_was_done_is_told(before, tmp_path, change, expected, same):
    diff = changed(before, tmp_path, change)
    assert {kind: num for kind, num in diff.counts.items() if num} == expected
    assert diff.same == same
    assert diff.is_same == (not expected)
    both = diff.same + sum(diff.counts[kind] for kind in ("replaced", "renamed", "recaptioned"))
    assert (diff.num_old, diff.num_new) == (both + diff.counts["removed"], both + diff.counts["added"])


def test_examples_hold_both_sides(before, tmp_path):
    diff = changed(before, tmp_path, replace_add_and_recaption)
    [replaced] = diff.shown["replaced"]
    assert (replaced.old, replaced.new) == (encoded(picture(0)), encoded(picture(100)))
    [recaptioned] = diff.shown["recaptioned"]
    assert (recaptioned.old_caption, recaptioned.new_caption) == ("a picture", "another caption")
    assert len(diff.shown["added"]) == 8


def test_a_new_rule_tells_which_decisions_it_changed(before, tmp_path):
    def shorten(folder):
        write(folder, "p05", 5, "a picture of five")

    diff = changed(before, tmp_path, shorten, RULES.model_copy(update={"min_caption_words": 3}))
    assert diff.rules == {"min_caption_words": (1, 3)}
    [change] = diff.decisions
    assert (change.before, change.after, change.num_images) == ("kept", "caption", 11)
    assert len(change.examples) == 4
    assert diff.counts["removed"] == 11
    assert {each.verdict for each in diff.shown["removed"]} == {"caption"}


def test_what_left_the_source_is_no_decision_of_a_rule(before, tmp_path):
    diff = changed(before, tmp_path, remove_and_rename)
    assert {(each.before, each.after, each.num_images) for each in diff.decisions} == {
        ("kept", "not in the source", 2),
        ("not in the source", "kept", 1),
    }


def test_the_page_shows_each_kind_and_asks_for_nothing(before, tmp_path):
    page = document(changed(before, tmp_path, replace_add_and_recaption), "<old>", "new")
    assert all(words in page for words in ("Replaced: 1", "Added: 10", "Recaptioned: 1", "the first 8 of 10"))
    assert "was: a picture" in page
    assert "&lt;old&gt;" in page
    assert page.count("<img") == 2 + 8 + 1
    assert "http" not in page
    assert "<script" not in page
    same = diff_datasets(before / "old", before / "old")
    assert "Nothing differs" in document(same, "old", "old")


def test_a_directory_that_is_no_dataset_is_refused(before, tmp_path):
    with pytest.raises(ArtifactError, match="no curated dataset there"):
        diff_datasets(before / "old", tmp_path)


def test_a_dataset_without_decisions_is_refused_with_the_cure(before, tmp_path):
    shutil.copytree(before / "old", tmp_path / "old")
    (tmp_path / "old" / "decisions.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"decisions.parquet cannot be read .*curate the data again"):
        diff_datasets(tmp_path / "old", before / "old")


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:-300] + bytes(300)]
)
def test_a_damaged_shard_is_named(before, tmp_path, damage):
    shutil.copytree(before / "old", tmp_path / "old")
    shard = tmp_path / "old" / "shard-00000.parquet"
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(ArtifactError, match=r"shard-00000.parquet cannot be read"):
        diff_datasets(tmp_path / "old", before / "old")


def test_a_damaged_image_has_no_picture_and_stops_nothing(before, tmp_path):
    diff = changed(before, tmp_path, replace_add_and_recaption)
    [replaced] = diff.shown["replaced"]
    torn = dataclasses.replace(
        diff, shown={**diff.shown, "replaced": (dataclasses.replace(replaced, old=b"torn"),)}
    )
    assert document(torn, "old", "new").count("no picture") == 1
