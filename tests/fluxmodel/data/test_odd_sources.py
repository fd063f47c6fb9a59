"""What people point --data at by accident or habit: links, pipes, odd columns and names, each read or said in words."""

import os
import threading

import pytest

from fluxmodel.data.records import Reason
from fluxmodel.errors import InputError
from tests.fluxmodel.data.tiny_shards import (
    PICTURES,
    opened,
    refused,
    samples,
    structs,
    write_table,
    write_tar,
)


@pytest.mark.parametrize("suffix", ["parquet", "tar"])
def test_a_link_into_a_folder_of_blobs_is_read_by_its_own_name(tmp_path, suffix):
    blob = tmp_path / "blobs" / "0123abcd"
    blob.parent.mkdir()
    if suffix == "parquet":
        write_table(blob, image=structs())
    else:
        write_tar(blob, *((f"{number}.png", data) for number, data in enumerate(PICTURES)))
    link = tmp_path / "snapshots" / "main" / "data" / f"x.{suffix}"
    link.parent.mkdir(parents=True)
    link.symlink_to(f"../../../blobs/{blob.name}")
    for data in (link, link.parent, str(link).replace("x", "{x,x}")):
        source = opened(data)
        assert [item.image for item in source] == PICTURES
        assert next(iter(source)).id.startswith(f"x.{suffix}")
    assert opened(link).spec == str(link)


def in_time(act, seconds: float = 20):
    """Return what `act` returns; a failure where it hangs, as opening a pipe does."""
    found: list = []
    thread = threading.Thread(target=lambda: found.append(act()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it hangs"
    return found[0]


def test_a_pipe_is_never_opened(tmp_path):
    (tmp_path / "a.png").write_bytes(PICTURES[0])
    for name in ("a.txt", "b.png", "metadata.jsonl", "metadata.csv"):
        os.mkfifo(tmp_path / name)
    source = in_time(lambda: opened(tmp_path))
    assert in_time(source.fingerprint) == in_time(lambda: opened(tmp_path)).fingerprint()
    items = in_time(lambda: list(source))
    assert [item.path for item in items if not hasattr(item, "reason")] == ["a.png"]
    problems = {item.path: (item.reason, item.is_image) for item in items if hasattr(item, "reason")}
    assert problems == {
        "b.png": (Reason.NOT_A_FILE, True),
        "metadata.csv": (Reason.NOT_A_FILE, False),
        "metadata.jsonl": (Reason.NOT_A_FILE, False),
        "a.txt": (Reason.BAD_CAPTION_FILE, False),
    }


def test_pipes_among_tables_and_tars_are_refused_by_name(tmp_path):
    write_table(tmp_path / "tables" / "a.parquet", image=structs())
    write_tar(tmp_path / "a.tar", ("a.png", PICTURES[0]))
    for name in ("tables/b.parquet", "tables/c.arrow", "b.tar", "mix.yaml"):
        os.mkfifo(tmp_path / name)
    found = in_time(lambda: refused(tmp_path / "tables"))
    assert [(item.path, item.reason) for item in found] == [
        ("b.parquet", Reason.DAMAGED_SHARD),
        ("c.arrow", Reason.DAMAGED_SHARD),
    ]
    assert [item.path for item in in_time(lambda: refused(tmp_path / "{a,b}.tar"))] == ["b.tar"]
    assert len(in_time(lambda: samples(tmp_path / "tables"))) == 6
    with pytest.raises(InputError, match="a pipe, socket or device"):
        opened(tmp_path / "mix.yaml")
