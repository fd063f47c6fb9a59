"""Tables and tars in every form: the same pictures, the same refusals, in constant memory."""

import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fluxmodel.data.records import RawSample, Reason, UnreadableFile
from fluxmodel.data.sources import open_source
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


@pytest.fixture(
    params=[
        "parquet",
        "arrow file",
        "arrow stream",
        "save_to_disk",
        "bytes column",
        "paths",
        "tar",
        "tar.gz",
        "hub",
    ]
)
def source_of_six(request, tmp_path):
    """The same six captioned pictures in each form."""
    texts = [f"picture {number}" for number in range(6)]
    table = pa.table({"image": structs(), "text": texts})
    if request.param == "parquet":
        return write_table(tmp_path / "a.parquet", image=structs(), caption=texts)
    if request.param == "arrow file":
        with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    elif request.param == "arrow stream":
        with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    elif request.param == "save_to_disk":
        import datasets

        datasets.disable_progress_bars()
        columns = {"image": structs(), "text": texts}
        features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
        datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path)
        (tmp_path / "cache-0123.arrow").write_bytes((tmp_path / "data-00000-of-00001.arrow").read_bytes())
    elif request.param == "bytes column":
        write_table(tmp_path / "deep" / "a.parquet", blob=PICTURES, captions=[[text] for text in texts])
    elif request.param == "paths":
        for number, data in enumerate(PICTURES):
            (tmp_path / f"{number}.dat").write_bytes(data)
        return write_table(tmp_path / "a.parquet", file_name=[f"{i}.dat" for i in range(6)], prompt=texts)
    elif request.param == "hub":
        write_table(tmp_path / "train.parquet", image=structs(), caption=texts)
        return f"hf:{tmp_path}"
    else:
        members = [
            pair for i in range(6) for pair in ((f"{i}.png", PICTURES[i]), (f"{i}.txt", texts[i].encode()))
        ]
        mode = "w:gz" if request.param == "tar.gz" else "w"
        write_tar(tmp_path / f"a.{request.param}", *members, mode=mode)
    return str(tmp_path)


def test_every_form_gives_the_same_pictures_and_captions_again_and_again(source_of_six):
    source = opened(source_of_six)
    first, second = list(source), list(source)
    assert first == second == list(opened(source.spec))
    assert all(isinstance(item, RawSample) for item in first)
    assert [item.image for item in first] == PICTURES
    assert [item.captions[0].text for item in first] == [f"picture {number}" for number in range(6)]
    assert len({item.id for item in first}) == 6
    assert len(source) == (0 if source.spec.startswith("hf:") else 6)
    assert opened(source.spec).fingerprint() == source.fingerprint()


def test_a_source_can_be_read_shard_by_shard(tmp_path):
    for number in range(3):
        write_table(tmp_path / f"{number}.parquet", image=structs(PICTURES[number * 2 : number * 2 + 2]))
        write_tar(tmp_path / f"{number}.tar", ("a.png", PICTURES[number]))
    for pattern in ("{0..2}.parquet", "{0..2}.tar"):
        source = opened(str(tmp_path / pattern))
        assert len(source.shards) == 3
        assert [item for shard in source.shards for item in source.read_shard(shard)] == list(source)


def test_the_fingerprint_of_a_table_follows_the_images_it_names(tmp_path):
    (tmp_path / "a.dat").write_bytes(PICTURES[0])
    data = write_table(tmp_path / "a.parquet", image_path=["a.dat"])
    before = opened(data).fingerprint()
    (tmp_path / "a.dat").write_bytes(PICTURES[1])
    assert opened(data).fingerprint() != before


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../outside.png", Reason.UNSAFE_PATH),
        ("/etc/passwd", Reason.UNSAFE_PATH),
        ("https://example.org/a.png", Reason.UNSAFE_PATH),
        ("deep/../../outside.png", Reason.UNSAFE_PATH),
        ("absent.png", Reason.MISSING_FILE),
        ("", Reason.NOTHING_THERE),
        (None, Reason.NOTHING_THERE),
        (".", Reason.UNREADABLE),
        ("large.png", Reason.FILE_TOO_LARGE),
    ],
)
@pytest.mark.parametrize("as_struct", [False, True])
def test_a_row_that_gives_no_image_is_refused_by_its_row(tmp_path, path, reason, as_struct):
    (tmp_path / "outside.png").write_bytes(PICTURES[0])
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "large.png").write_bytes(bytes(100_000))
    values = [{"bytes": None, "path": path}] if as_struct else pa.array([path], pa.string())
    data = write_table(folder / "a.parquet", image=values, image_id=[1])
    [item] = list(open_source(data, max_file_bytes=50_000))
    assert isinstance(item, UnreadableFile)
    assert (item.id, item.reason, item.is_image) == ("a.parquet#000000000", reason, True)


def test_captions_of_a_wrong_kind_lose_no_image(tmp_path):
    data = write_table(tmp_path / "a.parquet", image=structs(), text=list(range(6)))
    assert [item.image for item in samples(data)] == PICTURES
    assert {item.reason for item in refused(data)} == {Reason.BAD_METADATA_ROW}


def test_rows_of_a_damaged_row_group_are_refused_one_by_one_and_the_rest_is_read(tmp_path):
    data = tmp_path / "a.parquet"
    write_table(data, image=structs(), text=["x"] * 6)
    pages = pq.ParquetFile(data).metadata.row_group(1).column(0)
    damaged = bytearray(data.read_bytes())
    damaged[pages.data_page_offset : pages.data_page_offset + 40] = bytes(40)
    data.write_bytes(damaged)
    assert [item.image for item in samples(data)] == PICTURES[:2] + PICTURES[4:]
    assert [(item.id, item.reason) for item in refused(data)] == [
        (f"a.parquet#{row:09d}", Reason.DAMAGED_SHARD) for row in (2, 3)
    ]


def test_a_file_that_is_no_table_is_refused_by_name_and_its_neighbours_are_read(tmp_path):
    write_table(tmp_path / "b.parquet", image=structs())
    (tmp_path / "a.parquet").write_bytes((tmp_path / "b.parquet").read_bytes()[:-100])
    write_table(tmp_path / "c.parquet", number=[1, 2])
    assert len(samples(tmp_path)) == 6
    problems = refused(tmp_path)
    assert [(item.path, item.is_image) for item in problems[:2]] == [
        ("a.parquet", False),
        ("c.parquet", False),
    ]
    assert [item.id for item in problems[2:]] == ["c.parquet#000000000", "c.parquet#000000001"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda p: write_table(p / "a.parquet", number=[1]),
            r"no column holds images.*columns number \(int64\)",
        ),
        (lambda p: (p / "a.parquet").write_bytes(b"PAR1"), "no file of the table can be read"),
        (lambda p: (p / "a.arrow").write_bytes(b""), "no file of the table can be read"),
        (lambda p: (p / "a.tar").write_bytes(b"<html>" * 200), "cannot be read as a tar file"),
        (lambda p: (p / "a.tgz").write_bytes(b"no gzip"), "cannot be read as a tar file"),
        (lambda p: [write_tar(p / "a.tar"), write_table(p / "a.parquet", image=structs())], "name one kind"),
    ],
)
def test_a_folder_of_wrong_files_is_one_sentence(tmp_path, make, said):
    make(tmp_path)
    with pytest.raises(InputError, match=said):
        opened(str(tmp_path))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("absent.parquet", "there is no such file"),
        ("shard-{00..03}.tar", "4 of the 4 files are missing, the first .*shard-00.tar"),
        ("shard-{03..00}.tar", "runs backwards"),
        ("{0..99999}{0..99999}.tar", "more than 1000000"),
        ("mix.yaml", "there is no such file"),
        ("hf:", "no data set"),
        ("hf:org/name?spilt=test", "unknown field 'spilt'"),
        ("hf:org/name?split=", "'split' is empty"),
        ("s4://bucket/images", "protocol 's4' is unknown"),
        ("ftp://me:secret@host/images", "a password in a URI would be recorded"),
        ("wds:shards", "scheme 'wds' is unknown"),
        ("memory://nothing/here", "there is nothing there"),
    ],
)
def test_what_cannot_be_opened_is_said_in_one_sentence(data, said):
    with pytest.raises(InputError, match=said) as caught:
        opened(data)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_storage_package_is_named_with_its_cure(monkeypatch):
    import fsspec

    def fail(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", fail)
    with pytest.raises(
        InputError, match=r"s3:// needs a package that is missing \(Install s3fs.*fluxline\[store\]"
    ):
        opened("s3://bucket/images")


@pytest.mark.parametrize("form", ["parquet", "tar"])
def test_memory_does_not_grow_with_the_source(tmp_path, form):
    import numpy as np

    random = np.random.default_rng(0)
    peaks = []
    for count in (64, 512):
        blobs = [random.bytes(20_000) for _ in range(count)]
        if form == "parquet":
            data = write_table(tmp_path / f"{count}.parquet", rows_a_group=64, image=blobs)
        else:
            data = write_tar(tmp_path / f"{count}.tar", *((f"{i}.png", each) for i, each in enumerate(blobs)))
        del blobs
        source = opened(data)
        tracemalloc.start()
        pool = pa.default_memory_pool()
        before, most = pool.bytes_allocated(), 0
        for _ in source:
            most = max(most, pool.bytes_allocated() - before)
        peaks.append(tracemalloc.get_traced_memory()[1] + most)
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 1_000_000
