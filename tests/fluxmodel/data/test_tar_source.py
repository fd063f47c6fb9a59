"""Hostile and truncated tars: every member is accounted for and nothing is written."""

import json
import tarfile
import tracemalloc
from typing import Any

import pytest

from fluxmodel.data.records import RawSample, Reason, UnreadableFile
from fluxmodel.data.sources import open_source
from tests.fluxmodel.data.tiny_shards import (
    PICTURES,
    opened,
    refused,
    samples,
    special,
    write_tar,
)


def test_every_member_of_a_hostile_tar_is_accounted_for_and_nothing_is_written(tmp_path, monkeypatch):
    shards = tmp_path / "shards"
    shards.mkdir()
    monkeypatch.chdir(tmp_path)
    write_tar(
        shards / "a.tar",
        ("../evil.png", PICTURES[0]),
        (f"{tmp_path}/evil.png", PICTURES[0]),
        special("link.png", tarfile.SYMTYPE),
        special("hard.png", tarfile.LNKTYPE),
        special("device.png", tarfile.CHRTYPE),
        special("pipe.png", tarfile.FIFOTYPE),
        special("folder", tarfile.DIRTYPE),
        ("large.png", bytes(60_000)),
        ("large.txt", b"its caption"),
        ("x" * 300 + ".png", PICTURES[0]),
        ("twice.png", PICTURES[1]),
        ("twice.jpg", PICTURES[2]),
        ("alone.txt", b"no image"),
        ("bad.png", PICTURES[3]),
        ("bad.json", b"{oops"),
        ("bad.txt", b"caf\xe9"),
        ("._hidden.png", b"1"),
        ("data.npy", b"1"),
        ("twice.png", PICTURES[1]),
    )
    write_tar(
        shards / "b.tar",
        ("good.png", PICTURES[4]),
        ("good.json", json.dumps({"caption": "ok", "url": "web"}).encode()),
    )
    before = sorted(tmp_path.rglob("*"))
    source: Any = open_source(str(shards), max_file_bytes=50_000)
    items = list(source)
    assert sorted(tmp_path.rglob("*")) == before
    reasons = {
        item.id.removeprefix("a.tar/"): item.reason for item in items if isinstance(item, UnreadableFile)
    }
    assert reasons == {
        "../evil.png": Reason.UNSAFE_PATH,
        f"{tmp_path}/evil.png": Reason.UNSAFE_PATH,
        "link.png": Reason.NOT_A_FILE,
        "hard.png": Reason.NOT_A_FILE,
        "device.png": Reason.NOT_A_FILE,
        "pipe.png": Reason.NOT_A_FILE,
        "large.png": Reason.FILE_TOO_LARGE,
        "twice.jpg": Reason.DUPLICATE_ID,
        "alone": Reason.MISSING_FILE,
        "bad.json": Reason.BAD_CAPTION_FILE,
        "bad.txt": Reason.BAD_CAPTION_FILE,
    }
    read = [item for item in items if isinstance(item, RawSample)]
    assert [item.image for item in read] == [PICTURES[place] for place in (0, 1, 3, 1, 4)]
    assert [item.id for item in read].count(
        "a.tar/twice"
    ) == 2  # the second is refused by curation as a duplicate id
    assert (read[-1].captions[0].text, read[-1].source) == ("ok", "web")
    assert dict(source.ignored) == {"hidden": 1, ".npy": 1}


@pytest.mark.parametrize("cut", [700, 1100, 3000])
def test_a_truncated_tar_is_read_up_to_the_damage_and_the_rest_of_the_shards_still(tmp_path, cut):
    write_tar(tmp_path / "a.tar", ("first.txt", b"x"), ("first.png", PICTURES[0]))
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: min(cut, 1024 + 512 + len(PICTURES[0]) - 1)])
    write_tar(tmp_path / "b.tar", ("good.png", PICTURES[1]))
    found = refused(tmp_path)
    assert (found[-1].id, found[-1].reason, found[-1].is_image) == ("a.tar", Reason.DAMAGED_SHARD, False)
    assert [item.image for item in samples(tmp_path)] == [PICTURES[1]]
    if cut == 3000:
        assert found[0].reason == Reason.TRUNCATED


def test_a_tar_without_its_end_mark_is_read_whole_and_noted(tmp_path):
    write_tar(tmp_path / "a.tar", ("first.txt", b"x"), ("first.png", PICTURES[0]))
    whole = (tmp_path / "a.tar").read_bytes()
    size = 1024 + 512 + len(PICTURES[0]) + -len(PICTURES[0]) % 512
    (tmp_path / "a.tar").write_bytes(whole[:size])
    write_tar(tmp_path / "b.tar", ("good.png", PICTURES[1]))
    (note,) = refused(tmp_path)
    assert (note.id, note.reason, note.is_image) == ("a.tar", Reason.MISSING_END, False)
    assert [item.image for item in samples(tmp_path)] == PICTURES[:2]
    (tmp_path / "a.tar").write_bytes(b"")
    assert [each.reason for each in refused(tmp_path)] == [Reason.DAMAGED_SHARD], "nothing at all is no tar"


def test_what_was_refused_beside_images_is_told_of_earlier_records_too():
    from fluxmodel.data.curation_tables import headline, refused_section

    note = {"path": "a.tar", "reason": "missing_end", "detail": "byte 2048"}
    record = {"seen": 1, "kept": 1, "dropped": {}, "refused": [note], "num_refused": 1}
    pages = [
        headline(record | {name: {"missing_end": 1}}) + refused_section(record | {name: {"missing_end": 1}})
        for name in ("problems", "caption_problems")
    ]
    assert pages[0] == pages[1]
    assert "Captions, rows of metadata, folders, shards" in pages[0]


@pytest.mark.parametrize("num_extensions", [0, 1, 2])
def test_what_follows_a_sparse_member_is_read(tmp_path, num_extensions):
    # Of old GNU tar: where the header's four extents do not suffice, blocks with more of them come before the data.
    info = tarfile.TarInfo("holes.bin")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 700
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[482] = num_extensions > 0
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(b" " * 8) + sum(header[156:]))
    blocks = [bytearray(b"7" * 504 + bytes(8)) for _ in range(num_extensions)]
    for block in blocks[:-1]:
        block[504] = 1
    rest = (tmp_path / "rest.bin", ("z.png", PICTURES[1]), ("z.txt", b"a caption"))
    write_tar(*rest)
    (tmp_path / "a.tar").write_bytes(b"".join([header, *blocks, bytes(1024), rest[0].read_bytes()]))
    [problem] = refused(tmp_path / "a.tar")
    assert (problem.id, problem.reason) == ("a.tar/holes.bin", Reason.NOT_A_FILE)
    [sample] = samples(tmp_path / "a.tar")
    assert (sample.id, sample.image, sample.captions[0].text) == ("a.tar/z", PICTURES[1], "a caption")


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_member_that_declares_a_terabyte_takes_no_memory(tmp_path, kind):
    info = tarfile.TarInfo("bomb.png")
    info.type, info.size = kind, 10**12
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(5_000_000))
    write_tar(tmp_path / "b.tar", ("good.png", PICTURES[1]))
    tracemalloc.start()
    items = list(opened(str(tmp_path)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000
    assert items[-1].id == "b.tar/good"
    assert isinstance(items[-2], UnreadableFile)
    assert items[-2].reason == Reason.DAMAGED_SHARD
