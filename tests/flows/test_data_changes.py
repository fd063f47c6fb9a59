"""A curated dataset against one before it, as the command says and shows it."""

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
