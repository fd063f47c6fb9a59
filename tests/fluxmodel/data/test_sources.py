"""What --data may name: folders and scenes are read, everything else is one clear sentence."""

import os
import sys

import numpy as np
import pytest

from fluxmodel.data.decode import decode
from fluxmodel.data.image_folder import FolderSource
from fluxmodel.data.records import Caption, RawSample, Reason, UnreadableFile
from fluxmodel.data.sources import open_source
from fluxmodel.errors import InputError
from tests.fluxmodel.data.pictures import encoded, picture


@pytest.fixture
def folder(tmp_path):
    """One picture with a sidecar, in a folder of its own."""
    root = tmp_path / "photos"
    root.mkdir()
    add(root, "a.png", "a first picture")
    return root


def add(root, name: str, caption: str | None = None, seed: int = 0) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture(seed)))
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")


def read(root) -> tuple[dict[str, RawSample], list[UnreadableFile]]:
    items = list(open_source(str(root)))
    samples = {item.id: item for item in items if isinstance(item, RawSample)}
    return samples, [item for item in items if isinstance(item, UnreadableFile)]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "is empty"),
        ("wds:shards", "scheme 'wds' is unknown"),
        ("photos.parquet", "there is no such file"),
        ("shard-000.tar", "there is no such file"),
        ("no/such/folder", "there is no such folder"),
        ("procedural:noise", "procedural:shapes"),
        ("procedural:shapes?level=none", "none"),
        ("procedural:shapes?n=0", "n"),
    ],
)
def test_what_is_not_read_is_said_in_one_sentence(data, said):
    with pytest.raises(InputError, match=said):
        open_source(data)


def test_a_file_is_no_folder(folder):
    with pytest.raises(InputError, match="this is a file"):
        open_source(str(folder / "a.png"))


@pytest.mark.parametrize(
    ("names", "said"), [([], "it is empty"), (["a.csv", "b.csv"], "2 .csv"), (["x"], "1 without")]
)
def test_a_folder_without_images_says_what_it_holds(tmp_path, names, said):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=said):
        open_source(str(tmp_path))


def test_captions_of_all_kinds_are_found_and_kept(folder):
    add(folder, "deep/er/b.jpg")
    (folder / "deep" / "metadata.jsonl").write_text(
        '{"file_name": "er/b.jpg", "text": ["one", "two"], "license": "MIT", "source": "camera"}\n'
    )
    (folder / "metadata.csv").write_text("file_name,text\na.png,from a table\ndeep/er/b.jpg,three\n")
    samples, refused = read(folder)
    assert refused == []
    assert [c.text for c in samples["a.png"].captions] == ["from a table", "a first picture"]
    assert {c.text for c in samples["deep/er/b.jpg"].captions} == {"one", "two", "three"}
    assert samples["deep/er/b.jpg"].licence == "MIT"
    assert samples["deep/er/b.jpg"].source == "camera"
    assert samples["a.png"].captions[0] == Caption("from a table", "given")


def test_images_come_in_the_order_of_their_paths(folder):
    for name in ("z.png", "B.png", "sub/c.png", "b.PNG"):
        add(folder, name)
    assert list(read(folder)[0]) == ["B.png", "a.png", "b.PNG", "sub/c.png", "z.png"]


@pytest.mark.parametrize(
    ("row", "reason", "said"),
    [
        ('{"file_name": "absent.png", "text": "a"}', Reason.MISSING_FILE, "line 2: no image 'absent.png'"),
        (
            '{"file_name": "../outside.png", "text": "a"}',
            Reason.MISSING_FILE,
            "line 2: no image '../outside.png'",
        ),
        ("{oops", Reason.BAD_METADATA_ROW, "line 2: not a JSON object"),
    ],
)
def test_a_useless_metadata_row_is_refused_by_line(folder, row, reason, said):
    add(folder.parent, "outside.png")
    (folder / "metadata.jsonl").write_text(f'{{"file_name": "a.png", "text": "x"}}\n{row}\n')
    samples, [refused] = read(folder)
    assert (refused.reason, refused.path, refused.is_image) == (reason, "metadata.jsonl", False)
    assert said in refused.detail
    assert len(samples["a.png"].captions) == 2


def test_a_metadata_file_that_is_useless_ends_the_run_with_its_line(folder):
    (folder / "metadata.csv").write_text("name;words\na.png;b\n")
    with pytest.raises(InputError, match=r"metadata.csv, line 1: no column 'file_name'"):
        open_source(str(folder))


def test_a_caption_that_is_no_text_is_refused_and_its_image_read(folder):
    (folder / "a.txt").write_bytes(b"caf\xe9")
    samples, [refused] = read(folder)
    assert (refused.path, refused.reason, refused.is_image) == ("a.txt", Reason.BAD_CAPTION_FILE, False)
    assert samples["a.png"].captions == ()


def test_links_in_a_circle_are_walked_once(folder):
    add(folder, "sub/b.png")
    (folder / "sub" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "again").symlink_to(folder / "sub", target_is_directory=True)
    assert len(read(folder)[0]) == 2


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.symlink_to(path), Reason.NOT_A_FILE),
        (lambda path: path.symlink_to(path.with_name("gone")), Reason.NOT_A_FILE),
        (os.mkfifo, Reason.NOT_A_FILE),
        (lambda path: path.write_bytes(bytes(3_000)), Reason.FILE_TOO_LARGE),
        pytest.param(
            lambda path: path.symlink_to("/proc/self/mem"),
            Reason.UNREADABLE,
            marks=pytest.mark.skipif(sys.platform != "linux", reason="a file that opens but cannot be read"),
        ),
    ],
    ids=["link to itself", "link to nothing", "pipe", "too large", "unreadable"],
)
def test_what_cannot_be_read_is_refused_by_name(folder, make, reason):
    (folder / "a.png").write_bytes(encoded(np.zeros((16, 16, 3), np.uint8)))
    make(folder / "b.png")
    items = list(FolderSource(folder, max_file_bytes=2_000))
    assert isinstance(items[0], RawSample)
    assert isinstance(items[1], UnreadableFile)
    assert (items[1].path, items[1].reason) == ("b.png", reason)
    assert items[1].detail


@pytest.mark.parametrize(
    ("name", "reason"), [("a.png", Reason.UNREADABLE), ("sub", Reason.UNREADABLE_FOLDER)]
)
def test_missing_permission_is_refused_by_name(folder, name, reason):
    add(folder, "sub/b.png")
    (folder / name).chmod(0)
    try:
        if os.access(folder / name, os.R_OK):
            pytest.skip("this user reads everything")
        _, refused = read(folder)
    finally:
        (folder / name).chmod(0o755)
    assert [(item.path, item.reason) for item in refused] == [(name, reason)]


def test_a_file_that_vanishes_after_the_listing_is_refused(folder):
    add(folder, "b.png")
    source = open_source(str(folder))
    (folder / "b.png").unlink()
    assert [type(item) for item in source] == [RawSample, UnreadableFile]


def test_a_name_that_is_no_text_still_has_an_id(folder):
    path = os.fsencode(folder) + b"/caf\xe9.png"
    try:
        with open(path, "wb") as file:
            file.write(encoded(picture(0)))
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    assert "caf\\xe9.png" in read(folder)[0]


def test_files_of_other_kinds_are_counted_and_hidden_ones_passed_over(folder):
    for name in (".hidden.png", "notes.md", "more.md", ".git/c.png"):
        add(folder, name)
    source = FolderSource(folder)
    assert dict(source.ignored) == {".md": 2}
    assert len(source) == 1


def test_the_fingerprint_follows_the_content_and_nothing_else(folder):
    before = open_source(str(folder)).fingerprint()
    os.utime(folder / "a.png", (1, 1))
    assert open_source(str(folder)).fingerprint() == before
    (folder / "a.txt").write_text("another caption")
    changed = open_source(str(folder)).fingerprint()
    assert changed != before
    size, times = (folder / "a.png").stat().st_size, (1, 1)
    (folder / "a.png").write_bytes(bytes(size))
    os.utime(folder / "a.png", times)
    assert open_source(str(folder)).fingerprint() not in (before, changed)


def test_scenes_are_the_same_every_time_and_carry_their_truth():
    source = open_source("procedural:shapes?level=demo&n=5&seed=3")
    first, second = list(source), list(source)
    assert first == second
    assert len(first) == len(source) == 5
    assert len({item.id for item in first}) == 5
    for item in first:
        assert isinstance(item, RawSample)
        assert [caption.kind for caption in item.captions] == ["detailed", "short", "alt"]
        assert item.scene
        assert decode(item.image).shape == (32, 32, 3)


def test_a_spec_opens_the_same_source_again():
    source = open_source("procedural:shapes?n=5")
    assert open_source(source.spec).fingerprint() == source.fingerprint()
    assert open_source("procedural:shapes?n=6").fingerprint() != source.fingerprint()
