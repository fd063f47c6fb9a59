"""What a network loses in passing is read again, and what stays lost ends the run: no data set is made without it."""

import io

import pyarrow as pa
import pytest

from fluxmodel.data import hub_source, steady_file
from fluxmodel.data.records import RawSample, Reason, UnreadableFile
from fluxmodel.errors import InputError
from tests.fluxmodel.data.tiny_shards import PICTURES, opened, samples, structs, write_table, write_tar

NETWORK_ERRORS = [
    TimeoutError("timed out"),
    ConnectionResetError(104, "reset"),
    RuntimeError("503"),
    OSError("cut"),
]


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The seconds that were waited, without waiting."""
    waited = []
    monkeypatch.setattr(steady_file.time, "sleep", waited.append)
    return waited


class Lines:
    """A storage in memory of which some reads fail: `fail` says how often, for a path that ends in `name`."""

    def __init__(self, files, monkeypatch):
        self.files, self.left, self.name, self.error = files, 0, "", None
        opens = type(files)._open
        lines = self

        class Cut(io.BytesIO):
            name = ""

            def read(self, size=-1, /):
                if lines.left and self.name.endswith(lines.name):
                    lines.left -= 1
                    super().read(7)  # part of it was on the way
                    raise lines.error  # pyright: ignore[reportGeneralTypeIssues]
                return super().read(size)

        def cut(self, path, *args, **options):
            file = Cut(opens(self, path, *args, **options).getvalue())
            file.name = path
            return file

        monkeypatch.setattr(type(files), "_open", cut)

    def fail(self, name, times, error):
        self.name, self.left, self.error = name, times, error


@pytest.fixture
def lines(monkeypatch, tmp_path):
    """A bucket with the same two pictures as a folder, a table and a tar."""
    import fsspec

    files = fsspec.filesystem("memory")
    files.store.clear()
    write_table(tmp_path / "a.parquet", image=structs(PICTURES[:2]), text=["one", "two"])
    files.pipe("/bucket/table/a.parquet", (tmp_path / "a.parquet").read_bytes())
    schema = pa.table({"image": structs(PICTURES[:2])})
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), schema.schema) as writer:
        writer.write_table(schema)
    files.pipe("/bucket/arrow/a.arrow", (tmp_path / "a.arrow").read_bytes())
    for kind in ("tar", "tar.gz"):
        mode = "w:gz" if kind == "tar.gz" else "w"
        tar = write_tar(tmp_path / f"a.{kind}", ("0.png", PICTURES[0]), ("1.png", PICTURES[1]), mode=mode)
        with open(tar, "rb") as file:
            files.pipe(f"/bucket/{kind}/a.{kind}", file.read())
    for number in range(2):
        files.pipe(f"/bucket/folder/{number}.png", PICTURES[number])
        files.pipe(f"/bucket/folder/{number}.txt", f"picture {number}".encode())
    yield Lines(files, monkeypatch)
    files.store.clear()


FORMS = [
    ("folder", "1.png"),
    ("folder", "1.txt"),
    ("table", "a.parquet"),
    ("arrow", "a.arrow"),
    ("tar", "a.tar"),
    ("tar.gz", "a.tar.gz"),
]


@pytest.mark.parametrize(("form", "name"), FORMS)
@pytest.mark.parametrize("error", NETWORK_ERRORS, ids=lambda error: type(error).__name__)
def test_a_read_that_fails_in_passing_is_tried_again(lines, pauses, form, name, error):
    source = opened(f"memory://bucket/{form}")
    whole = list(source)
    lines.fail(name, 3, error)
    assert list(source) == whole
    assert [item.image for item in whole] == PICTURES[:2]
    assert len(pauses) == 3
    assert sorted(pauses) == pauses


@pytest.mark.parametrize(("form", "name"), FORMS)
@pytest.mark.parametrize("error", NETWORK_ERRORS, ids=lambda error: type(error).__name__)
def test_a_read_that_keeps_failing_ends_the_run(lines, form, name, error):
    source = opened(f"memory://bucket/{form}")
    lines.fail(name, 1000, error)
    with pytest.raises(InputError, match=rf"memory://bucket/{form}/{name}: cannot be read .*tried 4 times"):
        list(source)


def test_an_object_that_is_gone_is_refused_by_name_at_once(lines, pauses):
    source = opened("memory://bucket/folder")
    lines.files.rm("/bucket/folder/1.png")
    assert [item.reason for item in source if isinstance(item, UnreadableFile)] == [Reason.UNREADABLE]
    assert pauses == []


def test_a_fingerprint_is_never_that_of_a_lost_answer(lines, monkeypatch):
    source = opened("memory://bucket/folder")
    before = source.fingerprint()

    def lose(self, path, **options):
        raise TimeoutError("timed out")

    monkeypatch.setattr(type(lines.files), "info", lose)
    with pytest.raises(InputError, match="tried 4 times"):
        source.fingerprint()
    monkeypatch.undo()
    assert source.fingerprint() == before


class CutRows:
    """Rows of a hub data set that break off at the third, so many times."""

    def __init__(self, rows, times, error):
        self.rows, self.times, self.error = rows, times, error

    def skip(self, number):
        return _cut(self, self.rows.skip(number), 3 - number)

    def __iter__(self):
        return _cut(self, self.rows, 3)


def _cut(rows, inner, place):
    for number, row in enumerate(inner):
        if number == place and rows.times:
            rows.times -= 1
            raise rows.error
        yield row


@pytest.mark.parametrize(("times", "is_read"), [(3, True), (4, False)])
def test_a_stream_of_the_hub_goes_on_where_it_broke_off_or_ends_the_run(
    tmp_path, monkeypatch, times, is_read
):
    write_table(tmp_path / "train.parquet", image=structs())
    undecoded = hub_source._undecoded
    error = ConnectionError("server disconnected")
    monkeypatch.setattr(hub_source, "_undecoded", lambda *a: CutRows(undecoded(*a), times, error))
    if is_read:
        assert [item.image for item in samples(f"hf:{tmp_path}")] == PICTURES
        return
    with pytest.raises(InputError, match=r"row 3: cannot be read \(server disconnected\)"):
        list(opened(f"hf:{tmp_path}"))


def test_a_damaged_row_of_the_hub_is_a_refusal_that_says_where(tmp_path, monkeypatch, pauses):
    write_table(tmp_path / "train.parquet", image=structs())
    undecoded = hub_source._undecoded
    error = OSError("Corrupt snappy compressed data.")
    monkeypatch.setattr(hub_source, "_undecoded", lambda *a: CutRows(undecoded(*a), 9, error))
    items = list(opened(f"hf:{tmp_path}"))
    assert [item.image for item in items if isinstance(item, RawSample)] == PICTURES[:3]
    assert [(item.id, item.reason) for item in items[3:]] == [("train#000000003", Reason.DAMAGED_SHARD)]
    assert pauses == []
