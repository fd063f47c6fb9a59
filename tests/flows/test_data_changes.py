"""A curated dataset against one before it, as the command says and shows it."""

import pyarrow.parquet as pq
import pytest

from flows.data_changes import check_dataset, show_changes
from fluxmodel.data.curation import CurationRules, curate
from fluxmodel.errors import InputError


def test_what_is_no_dataset_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(InputError, match=r"--against .*no curated dataset there"):
        check_dataset(tmp_path)


def test_the_counts_are_said_and_the_page_is_where_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FLUXLINE_HOME", str(tmp_path / "home"))
    for name, num in (("old", 8), ("new", 11)):
        (tmp_path / name).mkdir()
        curate(f"procedural:shapes?level=demo&n={num}&seed=0", CurationRules(), tmp_path / name)
    told = show_changes(tmp_path / "old", tmp_path / "new")
    assert (told["added"], told["removed"], told["same"]) == (3, 0, 8)
    assert "3 added, 0 removed" in capsys.readouterr().err
    page = tmp_path / "home" / "reports" / "dataset-new-against-old.html"
    assert told["report"] == str(page)
    assert "Added: 3" in page.read_text()


def curated(place):
    place.mkdir()
    curate("procedural:shapes?level=demo&n=60&seed=0", CurationRules(), place)
    return place


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def damage(path):
    """Overwrite the pages of the ids, which only reading them shows."""
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + 30] = bytes(30)
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["decisions.parquet", "shard-00000.parquet"])
@pytest.mark.parametrize("harm", [lambda path: path.unlink(), cut, damage], ids=["gone", "cut", "damaged"])
def test_a_damaged_dataset_is_refused_before_anything_starts(tmp_path, name, harm):
    old = curated(tmp_path / "old")
    check_dataset(old)
    harm(old / name)
    with pytest.raises(InputError, match=rf"--against {old}"):
        check_dataset(old)
