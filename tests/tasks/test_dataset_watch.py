"""Looking at a folder: what counts as a change, when it is told, and that it is told once."""

import json
import os
import shutil
from pathlib import Path

import pytest

from fluxmodel.data.image_folder import FolderSource
from fluxmodel.errors import InputError, StageError
from tasks import dataset_watch
from tasks.curate import identify_source
from tasks.dataset_watch import Change, Look, look
from tasks.home import Home
from tests.fluxmodel.data.tiny_shards import write_tar

QUIET = 600.0
START = 2e9
"""Later than any file is made."""


class Watch:
    """A watched folder, a clock that is set, and what was told."""

    def __init__(self, home: Home, folder: Path):
        self.home, self.folder = home, folder
        self.told: list[Change] = []
        self.now = START

    def look(self, after: float = QUIET, quiet: float = QUIET) -> Look:
        self.now += after
        return look(self.home, str(self.folder), quiet, self.told.append, self.now)

    def add(self, name: str, content: str = "x") -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.fixture
def watch(home: Home, tmp_path: Path) -> Watch:
    made = Watch(home, tmp_path / "images")
    for name in ("a.png", "b.png", "b.txt", "deep/c.jpg"):
        made.add(name, name)
    return made


def test_the_first_look_tells_nothing_and_a_later_one_reads_nothing_anew(watch):
    first = watch.look()
    assert (first.state, first.num_read) == ("first", 4)
    again = watch.look()
    assert (again.state, again.num_read, again.change) == ("same", 0, None)
    assert watch.told == []


def test_a_change_is_told_once_it_is_quiet_and_once_only(watch):
    watch.look()
    watch.add("d.png")
    watch.add("b.png", "other")
    (watch.folder / "a.png").unlink()
    restless = watch.look()
    assert (restless.state, restless.num_read, watch.told) == ("restless", 2, [])
    assert "it is told once nothing changes for 10 min" in restless.said
    assert watch.look(after=QUIET - 1).state == "restless"
    told = watch.look(after=1)
    assert (told.state, told.change) == ("changed", watch.told[0])
    change = watch.told[0]
    assert (change.added, change.removed, change.changed, change.num_files) == (1, 1, 1, 4)
    for _ in range(3):
        assert watch.look().state == "same"
    assert len(watch.told) == 1


def test_an_upload_that_goes_on_starts_the_wait_again(watch):
    watch.look()
    for number in range(5):
        watch.add(f"new/{number}.png")
        assert watch.look().state == "restless"
    assert watch.look().state == "changed"
    assert watch.told[0].added == 5


def test_the_fingerprint_is_the_one_the_pipeline_finds(watch):
    watch.look()
    watch.add("ä ö.png")
    watch.look(quiet=0)
    assert watch.told[0].fingerprint == identify_source(str(watch.folder)).fingerprint
    assert watch.told[0].data == identify_source(str(watch.folder)).data


def test_the_same_content_is_never_told_twice(watch):
    """There and back and there again: neither the first content nor the second is news a second time."""
    watch.look()
    watch.add("d.png")
    assert watch.look(quiet=0).state == "changed"
    (watch.folder / "d.png").unlink()
    assert watch.look(quiet=0).state == "known"
    watch.add("d.png")
    assert watch.look(quiet=0).state == "known"
    assert len(watch.told) == 1


def test_content_is_looked_at_not_times(watch):
    watch.look()
    os.utime(watch.folder / "a.png", (1, 1))  # such as `cp -p` leaves
    touched = watch.look()
    assert (touched.state, touched.num_read) == ("same", 1)
    same_size = (watch.folder / "b.png").stat()
    watch.add("b.png", "p.gnb")
    os.utime(watch.folder / "b.png", ns=(same_size.st_atime_ns, same_size.st_mtime_ns))
    assert watch.look(quiet=0).state == "changed"


def test_a_file_written_just_before_a_look_is_read_again(watch, monkeypatch):
    """Within one tick of a clock a file can change without a trace in its times."""
    newest = max(path.stat().st_ctime for path in watch.folder.rglob("*.*"))
    watch.now = newest + 0.5
    assert watch.look(after=0).num_read == 4
    assert watch.look(after=0).num_read == 4
    assert watch.look(after=10).num_read == 4
    assert watch.look(after=10).num_read == 0


@pytest.mark.parametrize(
    ("ruin", "said"),
    [
        (shutil.rmtree, "there is no such folder; check the path"),
        (lambda folder: [path.unlink() for path in folder.rglob("*.*")], "no image in the folder"),
    ],
    ids=["vanished", "emptied"],
)
def test_a_folder_that_is_gone_is_one_sentence_and_no_change(watch, ruin, said, tmp_path):
    watch.look()
    shutil.copytree(watch.folder, tmp_path / "kept")
    ruin(watch.folder)
    for _ in range(2):
        with pytest.raises(InputError, match=said) as raised:
            watch.look(quiet=0)
        assert "\n" not in str(raised.value)
    shutil.copytree(tmp_path / "kept", watch.folder, dirs_exist_ok=True)  # mounted again
    assert watch.look(quiet=0).state == "same"
    assert watch.told == []


def test_a_folder_that_cannot_be_listed_whole_is_no_change(watch, monkeypatch):
    watch.look()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"the folder 'deep' in it cannot be read \(Permission denied\)"):
        watch.look(quiet=0)
    assert watch.told == []


def test_a_file_that_cannot_be_read_for_once_is_no_change(watch, monkeypatch):
    watch.look()
    os.utime(watch.folder / "a.png", (1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(FolderSource, "digest", lambda *_: "unreadable 5")
        assert watch.look(quiet=0).state == "same"
    assert watch.look(quiet=0).state == "same"


def test_what_could_not_be_told_is_told_next_time(watch, monkeypatch):
    watch.look()
    watch.add("d.png")

    def away(_):
        raise StageError("Prefect did not take the event")

    for _ in range(2):
        with pytest.raises(StageError):
            look(watch.home, str(watch.folder), 0, away, watch.now)
    assert watch.look(quiet=0).state == "changed"
    assert len(watch.told) == 1


class Killed(BaseException):
    """The process ended here."""


def test_a_look_cut_off_after_telling_tells_the_very_same_event(watch, monkeypatch):
    watch.look()
    watch.add("d.png")
    with monkeypatch.context() as patch:
        patch.setattr(dataset_watch, "write_whole", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            watch.look(quiet=0)
    assert watch.look(quiet=0).state == "changed"
    assert watch.told[0] == watch.told[1]  # the event's id is made of it, and Prefect knows it by that


def test_two_looks_at_once_do_not_both_tell(watch):
    watch.look()
    watch.add("d.png")

    def tell(change: Change) -> None:
        watch.told.append(change)
        with pytest.raises(InputError, match="is being looked at by another run"):
            watch.look(quiet=0)

    assert look(watch.home, str(watch.folder), 0, tell, watch.now).state == "changed"
    assert len(watch.told) == 1


def test_what_never_changes_is_not_watched(home):
    with pytest.raises(InputError, match="which never changes; name a folder of images"):
        look(home, "procedural:shapes?level=demo&n=4", 0, lambda _: None)


def test_a_ruined_note_is_one_sentence(watch):
    watch.look()
    place = next(watch.home.watches.glob("*.json"))
    place.write_text(place.read_text()[:-9])
    with pytest.raises(InputError, match="remove it, and the next look counts as the first"):
        watch.look()
    json.dumps(watch.told)


def nobody(change: Change) -> None:
    pytest.fail(f"there was nothing to tell: {change}")


def image_table(path, *images):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": list(images)}), path)


def image_tar(path, *images):
    path.parent.mkdir(exist_ok=True)
    write_tar(path, *((f"{number}.png", image) for number, image in enumerate(images)))


@pytest.mark.parametrize(("write", "suffix"), [(image_table, "parquet"), (image_tar, "tar")])
def test_shards_are_watched_as_a_folder_is(home, tmp_path, write, suffix):
    told, shards = [], tmp_path / "shards"

    def seen(now, quiet=0.0):
        found = look(home, str(shards), quiet, told.append, now)
        return found.state, found.num_read

    write(shards / f"a.{suffix}", b"1", b"2")
    write(shards / f"b.{suffix}", b"3")
    assert seen(START) == ("first", 2)
    assert seen(START + 1) == ("same", 0)
    write(shards / f"b.{suffix}", b"3", b"4")
    write(shards / f"c.{suffix}", b"5")
    assert seen(START + 2, QUIET) == ("restless", 2)
    assert seen(START + 2 + QUIET, QUIET) == ("changed", 0)
    assert [(each.added, each.changed, each.num_files) for each in told] == [(1, 1, 3)]
    assert (told[0].data, told[0].fingerprint) == (str(shards), identify_source(str(shards)).fingerprint)
    assert seen(START + 9e3) == ("same", 0)


def test_a_folder_of_shards_that_cannot_be_listed_whole_is_no_change(home, tmp_path, monkeypatch):
    image_tar(tmp_path / "shards" / "a.tar", b"1")
    image_tar(tmp_path / "shards" / "deep" / "b.tar", b"2")
    look(home, str(tmp_path / "shards"), 0, nobody, START)
    real = os.scandir

    def scandir(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"the folder 'deep' in it cannot be read \(Permission denied\)"):
        look(home, str(tmp_path / "shards"), 0, nobody, START + 1)


@pytest.mark.parametrize("name", ["a.png", "a.parquet", "a.tar"])
def test_a_storage_is_watched_by_what_it_tells_of_its_objects(home, tmp_path, name):
    """fsspec's storage in memory tells size and time of writing of its objects; they are never read."""
    import fsspec

    files, told = fsspec.filesystem("memory"), []
    place = f"memory://{tmp_path.name}-{name}"
    here = tmp_path / "here" / name
    here.parent.mkdir()

    def put(path, *images):
        if path.endswith(".png"):
            here.write_bytes(images[0])
        else:
            (image_tar if path.endswith(".tar") else image_table)(here, *images)
        files.pipe(f"{place}/{path}", here.read_bytes())

    put(name, b"one")
    assert look(home, place, 0, told.append, START).state == "first"
    assert look(home, place, 0, told.append, START).state == "same"
    put(name, b"two")
    assert look(home, place, QUIET, told.append, START).state == "restless"
    assert look(home, place, QUIET, told.append, START + QUIET).state == "changed"
    put(f"more-{name}", b"three")
    assert look(home, place, 0, told.append, START).state == "changed"
    assert [(each.added, each.changed, each.num_files) for each in told] == [(0, 1, 1), (1, 0, 2)]
    assert told[1].fingerprint == identify_source(place).fingerprint
    files.rm(place, recursive=True)
    with pytest.raises(InputError, match="memory://"):
        look(home, place, 0, told.append, START)


def test_what_is_not_watched_is_told_with_the_cure(home, tmp_path):
    image_table(tmp_path / "a.parquet", "a.png")
    (tmp_path / "a.png").write_bytes(b"1")
    image_tar(tmp_path / "b.tar", b"1")
    (tmp_path / "mix.yaml").write_text("sources:\n- data: b.tar\n")
    for name in ("a.parquet", "mix.yaml"):
        with pytest.raises(
            InputError, match="no hub, mixture or curated data set and no table of paths; put `retrain`"
        ):
            look(home, str(tmp_path / name), 1, nobody)
