import base64
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evaluation.versus_data import Learned, data_change
from fluxmodel.data.curation import curate
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.errors import ArtifactError

RULES = CurationRules(image_size=16, near_duplicate_distance=None, test_fraction=0)


def curated(place, images: dict[str, tuple[int, str]], captions: dict[str, str] | None = None) -> Learned:
    """A dataset of noise images by name: (number of the noise, caption); `captions` are those of a caption stage."""
    folder = place / "folder"
    folder.mkdir(parents=True)
    for name, (number, caption) in images.items():
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(caption)
    (place / "dataset").mkdir()
    curate(str(folder), RULES, place / "dataset")
    if captions is None:
        return Learned(place / "dataset")
    (place / "captions").mkdir()
    ids = [next(name for name in _ids(place) if name.startswith(each)) for each in captions]
    table = pa.table({"id": ids, "text": list(captions.values())})
    pq.write_table(table, place / "captions" / "captions.parquet")
    return Learned(place / "dataset", place / "captions")


def _ids(place) -> list[str]:
    return pq.read_table(place / "dataset" / "shard-00000.parquet")["id"].to_pylist()


BEFORE = {
    "a": (1, "one"),
    "b": (2, "two"),
    "c": (3, "three"),
    "d": (4, "four"),
    "e": (5, "five"),
    "f": (6, "six"),
}


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    return curated(tmp_path_factory.mktemp("before"), BEFORE)


def test_images_are_told_apart_by_content(before, tmp_path):
    after = {
        "b": (20, "two"),  # replaced under its name
        "c": (3, "another three"),  # captioned anew
        "d_renamed": (4, "four"),
        "e": (5, "five"),
        "f": (6, "six"),
        "g": (7, "seven"),
        "h": (8, "eight"),
    }
    found = data_change(before, curated(tmp_path, after))
    assert (found.num_old, found.num_new) == (6, 7)
    assert (found.added, found.removed, found.replaced) == (3, 2, 1)
    assert (found.recaptioned, found.resplit, found.unchanged) == (1, 0, 3)
    assert found.unchanged + found.recaptioned + found.added == found.num_new
    assert not found.is_same
    assert {each.new for each in found.shown["added"]} == {"two", "seven", "eight"}
    assert {each.old for each in found.shown["removed"]} == {"one", "two"}
    [anew] = found.shown["recaptioned"]
    assert (anew.old, anew.new) == ("three", "another three")
    with Image.open(io.BytesIO(base64.b64decode(anew.png))) as picture:
        expected = np.random.default_rng(3).integers(0, 256, (16, 16, 3), np.uint8)
        assert np.array_equal(np.array(picture.convert("RGB")), expected)


def test_what_the_caption_stage_wrote_counts_as_captions(before, tmp_path):
    again = curated(tmp_path, BEFORE, {"e": "a green five", "f": "six"})
    found = data_change(before, again)
    assert (found.added, found.removed, found.recaptioned) == (0, 0, 1)
    [anew] = found.shown["recaptioned"]
    assert (anew.old, anew.new) == ("five", "a green five")


def test_the_same_data_are_the_same_and_nothing_is_shown(before):
    found = data_change(before, before)
    assert found.is_same
    assert (found.unchanged, found.shown) == (6, {})


def test_images_that_move_to_the_test_split_are_counted(before, tmp_path):
    moved = curated(tmp_path, BEFORE)
    shard = moved.dataset / "shard-00000.parquet"
    table = pq.read_table(shard)
    splits = ["test", "test", *table["split"].to_pylist()[2:]]
    pq.write_table(table.set_column(table.column_names.index("split"), "split", pa.array(splits)), shard)
    found = data_change(before, moved)
    assert (found.resplit, found.unchanged, found.recaptioned) == (2, 4, 0)


def test_only_the_first_of_many_are_shown(before, tmp_path):
    found = data_change(before, curated(tmp_path, {f"n{i}": (100 + i, "new") for i in range(5)}), num_shown=2)
    assert (found.added, found.removed) == (5, 6)
    assert {kind: len(images) for kind, images in found.shown.items()} == {"added": 2, "removed": 2}


def test_a_damaged_dataset_is_named(before, tmp_path):
    other = curated(tmp_path, BEFORE)
    (other.dataset / "shard-00000.parquet").write_bytes(b"no parquet")
    with pytest.raises(ArtifactError, match=r"shard-00000\.parquet cannot be read"):
        data_change(before, other)
