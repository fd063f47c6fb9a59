"""What people point --data at by accident or habit: links, pipes, odd columns and names, each read or said in words."""

import io
import os
import threading

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fluxmodel.data import steady_file
from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.data.curation import curate, curate_source
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.dataset_diff import diff_datasets
from fluxmodel.data.records import Reason, UnreadableFile
from fluxmodel.data.table_source import TableSource
from fluxmodel.errors import ArtifactError, InputError
from tests.fluxmodel.data.pictures import Listed
from tests.fluxmodel.data.tiny_shards import (
    PICTURES,
    opened,
    refused,
    samples,
    structs,
    write_table,
    write_tar,
)

RULES = CurationRules(min_side=16, near_duplicate_distance=None)
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


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


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("~nosuchuser", "~nosuchuser: there is no such folder"),
        ("~nosuchuser/x.parquet", "there is no such file"),
        ("~nosuchuser/mix.yaml", "there is no such file"),
        ("a" * 5000, "there is no such folder"),
        ("a" * 5000 + ".tar", "there is no such file"),
        ("a" * 5000 + ".yaml", "File name too long"),
        ("hf:" + "a" * 5000, "cannot be reached|cannot be opened"),
        ("a\0b", "zero byte"),
        ("a\0b.parquet", "zero byte"),
        ("http://127.0.0.1:1/x.parquet", r"http://127.0.0.1:1/x.parquet: cannot be .*Cannot connect"),
        ("http://127.0.0.1:1/x/", "there is nothing there"),
    ],
)
def test_a_name_of_nothing_is_one_sentence(data, said, monkeypatch):
    monkeypatch.setattr(steady_file, "_PAUSES", ())
    with pytest.raises(InputError, match=said) as caught:
        opened(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "sources: !!timestamp x",
        "sources: !!bool x",
        'sources: !!int ""',
        'sources: [{data: "a\\0b"}]',
        'sources: [{data: "~nosuchuser"}]',
        "sources: [{data: a\0b}]",
        "[" * 5000,
        "? [a]\n: b",
    ],
)
def test_a_mixture_of_nonsense_is_one_sentence(tmp_path, text):
    (tmp_path / "mix.yaml").write_text(text)
    with pytest.raises(InputError, match=r"mix\.yaml: ") as caught:
        opened(tmp_path / "mix.yaml")
    assert "\n" not in str(caught.value)


class Failing(fsspec.AbstractFileSystem):
    """A storage whose package raises errors of its own."""

    protocol = "failing"
    error: Exception = ValueError()

    def _fail(self, *_, **__):
        raise self.error

    info = ls = isdir = exists = find = _open = _fail


@pytest.mark.parametrize("error", [ValueError("Invalid endpoint"), KeyError("token"), PermissionError("403")])
@pytest.mark.parametrize("name", ["a.parquet", "a.tar", "mix.yaml", "folder"])
def test_whatever_a_storage_raises_is_one_sentence(monkeypatch, error, name):
    monkeypatch.setattr(steady_file, "_PAUSES", ())
    monkeypatch.setattr(Failing, "error", error)
    monkeypatch.setattr(fsspec, "url_to_fs", lambda url: (Failing(), url.removeprefix("s3://")))
    with pytest.raises(InputError, match=rf"--data s3://bucket/{name}: cannot be .*{error.args[0]}"):
        opened(f"s3://bucket/{name}")


STRUCT_OF_NUMBERS = pa.struct([("bytes", pa.binary()), ("path", pa.int64())])


@pytest.mark.parametrize(
    ("columns", "names", "said"),
    [
        ([pa.array([{"bytes": b"x", "path": 3}], STRUCT_OF_NUMBERS)], ["image"], "no column holds images"),
        ([pa.array([b"x"])] * 2, ["image", "image"], "'image' is there 2 times; rename"),
        (
            [pa.array([b"x"]), pa.array(["a"]), pa.array(["b"])],
            ["image", "text", "text"],
            "'text' is there 2",
        ),
    ],
    ids=["path is a number", "two images", "two texts"],
)
@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_columns_that_cannot_be_read_are_one_sentence(tmp_path, columns, names, said, suffix):
    table, data = pa.Table.from_arrays(columns, names), tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, data)
    else:
        with pa.ipc.new_file(str(data), table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(InputError, match=said):
        opened(data)


@pytest.mark.parametrize(
    "times",
    [
        pa.array([10**8] * 6, pa.date32()),
        pa.array([10**18] * 6, pa.timestamp("us")),
        pa.array([10**18 + 1] * 6, pa.timestamp("ns")),
        pa.array([None] * 6, pa.timestamp("us", tz="Mars/Olympus")),
    ],
)
def test_a_time_in_place_of_a_text_loses_no_image(tmp_path, times):
    data = write_table(tmp_path / "a.parquet", image=structs(), url=times, source=times, text=times)
    assert [item.source for item in samples(data)] == ["table:a.parquet"] * 6
    assert {item.reason for item in refused(data)} <= {Reason.BAD_METADATA_ROW}
    lists = pa.ListArray.from_arrays([0, 1, 2, 3, 4, 5, 6], times)
    data = write_table(tmp_path / "b.parquet", image=structs(), text=lists)
    assert len(list(opened(data))) >= 6


def curated(folder):
    write_table(folder / "a.parquet", image=structs(), text=["some text"] * 6)
    (folder / "curated").mkdir()
    curate(str(folder / "a.parquet"), RULES, folder / "curated")
    return folder / "curated"


@pytest.mark.parametrize("record", ["[]", "null", '"x"', "7", "{", "{}"])
def test_a_record_that_is_none_is_one_sentence(tmp_path, record):
    (tmp_path / "curation.json").write_text(record)
    with pytest.raises(InputError, match="no curated dataset there"):
        opened(tmp_path)
    with pytest.raises(ArtifactError, match="no curated dataset there"):
        diff_datasets(tmp_path, tmp_path)


@pytest.mark.parametrize("column", ["scene", "pixel_sha256", "captions", "split"])
def test_a_shard_without_a_column_is_one_sentence(tmp_path, column):
    folder = curated(tmp_path)
    [shard] = folder.glob("shard-*")
    pq.write_table(pq.read_table(shard).drop_columns([column]), shard)
    with pytest.raises(ArtifactError, match=rf"{shard}: .*no column '{column}'"):
        CuratedDataset(folder).columns("train", ["id", column] if column != "split" else ["id"])
    if column in ("pixel_sha256", "captions"):
        with pytest.raises(ArtifactError, match=rf"{shard}: .*no column '{column}'"):
            diff_datasets(folder, folder)
    elif column == "scene":
        items = list(opened(folder))
        assert [(item.reason, item.is_image) for item in items] == [
            (Reason.DAMAGED_SHARD, False),
            *[(Reason.DAMAGED_SHARD, True)] * 6,
        ]


@pytest.mark.parametrize("whole", [False, True])
def test_rows_of_a_damaged_shard_of_a_curated_data_set_are_counted(tmp_path, whole):
    folder = curated(tmp_path)
    [shard] = folder.glob("shard-*")
    table = pq.read_table(shard)
    pq.write_table(table, shard, row_group_size=2)
    data = bytearray(shard.read_bytes())
    if whole:
        data = data[:-50]
    else:
        start = pq.ParquetFile(shard).metadata.row_group(1).column(1).data_page_offset
        data[start : start + 40] = bytes(40)
    shard.write_bytes(data)
    items = list(opened(folder))
    images = [item for item in items if getattr(item, "is_image", True)]
    lost = [item for item in images if hasattr(item, "reason")]
    assert len(images) == len({item.id for item in images}) == 6
    assert len(lost) == (6 if whole else 2)
    assert {item.reason for item in lost} == {Reason.DAMAGED_SHARD}


class Counting(MemoryFileSystem):
    """The storage in memory, which counts the bytes that are read."""

    num_bytes = 0

    def open(self, path, mode="rb", **more):
        return super().open(path, mode, **more) if mode != "rb" else CountedFile(self.cat_file(path))


class CountedFile(io.BytesIO):
    def read(self, *size):
        data = super().read(*size)
        Counting.num_bytes += len(data)
        return data


BLOB = bytes(range(256)) * 4000


def images_of(kind: str) -> list[dict]:
    inside = {"bytes": BLOB, "path": None}
    named, outside = inside | {"path": "x.png"}, {"bytes": None, "path": "a.dat"}
    return {"inside": [inside] * 4, "named": [named] * 4, "some": [named] * 2 + [outside] * 2}[kind]


@pytest.mark.parametrize("form", ["parquet", "no statistics", "arrow"])
@pytest.mark.parametrize("kind", ["inside", "named", "some"])
def test_the_fingerprint_of_a_remote_table_asks_for_no_image_that_is_inside(
    monkeypatch, tmp_path, form, kind
):
    table = pa.table({"image": pa.array(images_of(kind), IMAGE), "text": ["a"] * 4})
    data = tmp_path / ("a.arrow" if form == "arrow" else "a.parquet")
    if form == "arrow":
        with pa.ipc.new_file(str(data), table.schema) as writer:
            writer.write_table(table)
    else:
        pq.write_table(
            table,
            data,
            row_group_size=2,
            compression="none",
            use_dictionary=False,
            write_statistics=form == "parquet",
        )
    (tmp_path / "a.dat").write_bytes(PICTURES[0])
    storage = Counting()
    for path in (data, tmp_path / "a.dat"):
        storage.pipe_file(f"/{tmp_path.name}/{path.name}", path.read_bytes())
    monkeypatch.setattr(fsspec, "url_to_fs", lambda url: (storage, url.removeprefix("s3:/")))
    Counting.num_bytes = 0
    source = opened(f"s3://{tmp_path.name}/{data.name}")
    before = source.fingerprint()
    if form == "parquet" or (form, kind) == ("no statistics", "inside"):
        assert Counting.num_bytes < len(BLOB)
    storage.pipe_file(f"/{tmp_path.name}/a.dat", PICTURES[1])
    assert (source.fingerprint() == before) == (kind != "some")
    assert len(list(source)) == 4
    Counting.num_bytes = 0
    assert len(opened(source.spec)) == 4
    assert Counting.num_bytes < len(BLOB)


def test_rows_are_counted_once(tmp_path, monkeypatch):
    write_table(tmp_path / "a.parquet", image=structs())
    source, asked = opened(tmp_path), []
    whole = TableSource._num_rows
    monkeypatch.setattr(TableSource, "_num_rows", lambda self, path: asked.append(path) or whole(self, path))
    assert (len(source), len(source), asked) == (6, 6, ["a.parquet"])


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_table_without_rows_says_so(tmp_path, suffix):
    table = pa.table({"image": pa.array([], IMAGE)})
    data, output = tmp_path / f"a.{suffix}", tmp_path / "out"
    output.mkdir()
    if suffix == "parquet":
        pq.write_table(table, data)
    else:
        with pa.ipc.new_stream(str(data), table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(InputError, match=rf"a.{suffix}: the table has no rows"):
        curate(str(data), RULES, output)


def test_a_source_without_one_image_says_so(tmp_path):
    with pytest.raises(InputError, match="there is no image in it"):
        curate_source(Listed([]), RULES, tmp_path)
    damaged = UnreadableFile("a.tar", "a.tar", Reason.DAMAGED_SHARD, "cut off", False)
    with pytest.raises(InputError, match=r"there is no image in it; the first trouble: a.tar \(cut off\)"):
        curate_source(Listed([damaged]), RULES, tmp_path)


def test_rows_of_a_file_with_columns_of_one_name_are_refused_one_by_one(tmp_path):
    blobs = pa.array(PICTURES)
    for name, names in (("a", ["image", "text"]), ("b", ["image", "image"]), ("c", [])):
        table = pa.Table.from_arrays([blobs, pa.array(["x"] * 6)][: len(names)], names)
        with pa.ipc.new_file(str(tmp_path / f"{name}.arrow"), table.schema) as writer:
            writer.write_table(table)
    source = opened(tmp_path)
    assert len(source) == 12
    assert [item.image for item in samples(tmp_path)] == PICTURES
    assert [item.path for item in refused(tmp_path) if not item.is_image] == ["b.arrow", "c.arrow"]
    assert [item.id for item in refused(tmp_path) if item.is_image] == [
        f"b.arrow#{row:09d}" for row in range(6)
    ]


@pytest.mark.parametrize("name", ["curation.json", "shard-00000.parquet", "decisions.parquet"])
def test_a_pipe_in_a_curated_data_set_is_never_opened(tmp_path, name):
    folder = curated(tmp_path)
    (folder / name).unlink()
    os.mkfifo(folder / name)

    def told():
        with pytest.raises(ArtifactError):
            diff_datasets(folder, folder)
        return True

    assert in_time(told)
