"""Tables, tars, hub data sets, curated data sets and mixtures as sources: everything in them is accounted for."""

import io
import json
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fluxmodel.data.curation import curate
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.records import RawSample, Reason, UnreadableFile
from fluxmodel.data.sources import open_source
from fluxmodel.errors import InputError
from tests.fluxmodel.data.pictures import encoded, picture

PICTURES = [encoded(picture(seed)) for seed in range(6)]


def structs(pictures=PICTURES) -> list[dict]:
    return [{"bytes": each, "path": None} for each in pictures]


def write_table(path, rows_a_group: int = 2, **columns) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=rows_a_group)
    return str(path)


def write_tar(path, *members, mode: Literal["w", "w:gz"] = "w") -> str:
    """Members are (name, data) or TarInfo without data."""
    with tarfile.open(path, mode) as tar:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            if not isinstance(member, tarfile.TarInfo):
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
            else:
                tar.addfile(info)
    return str(path)


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def opened(data) -> Any:
    return open_source(str(data))


def samples(data) -> list[RawSample]:
    return [item for item in open_source(str(data)) if isinstance(item, RawSample)]


def refused(data) -> list[UnreadableFile]:
    return [item for item in open_source(str(data)) if isinstance(item, UnreadableFile)]


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


@pytest.mark.parametrize("cut", [700, 1024, 1100, 3000])
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


RULES = CurationRules(min_side=16, near_duplicate_distance=None)


def test_a_curated_data_set_is_a_source_with_captions_and_provenance(tmp_path):
    data = write_table(
        tmp_path / "a.parquet", image=[*structs(), *structs()], text=["some text"] * 12, license=["MIT"] * 12
    )
    (tmp_path / "curated").mkdir()
    report = curate(data, RULES, tmp_path / "curated")
    assert (report.seen, report.kept, report.dropped) == (12, 6, {"exact_duplicate": 6})
    source = opened(str(tmp_path / "curated"))
    assert [item.image for item in source] == PICTURES
    first = next(iter(source))
    assert (first.captions[0].text, first.licence, first.source) == ("some text", "MIT", "table:a.parquet")
    assert len(source) == 6
    (tmp_path / "again").mkdir()
    assert curate(source.spec, RULES, tmp_path / "again").kept == 6
    next((tmp_path / "curated").glob("shard-*")).unlink()
    with pytest.raises(InputError, match="0 shards where 1"):
        opened(source.spec)


def mixture(folder, *sources: dict) -> str:
    (folder / "mix.yaml").write_text(json.dumps({"sources": sources}))
    return str(folder / "mix.yaml")


def test_a_mixture_reads_paths_with_any_character_and_makes_ids_unique(tmp_path):
    write_table(tmp_path / "a + b*2" / "x.parquet", image=structs())
    data = mixture(tmp_path, {"data": "a + b*2"}, {"data": "a + b*2/x.parquet", "name": "again"})
    source = opened(data)
    assert [item.id for item in source][::6] == ["1/x.parquet#000000000", "again/x.parquet#000000000"]
    assert len(source) == 12
    assert source.name == "mixture:mix.yaml"


def test_an_image_of_half_the_weight_is_learned_from_half_as_often(tmp_path):
    write_tar(tmp_path / "a.tar", *((f"{number:04d}.png", b"x") for number in range(1000)))
    data = mixture(tmp_path, {"data": "a.tar", "weight": 3}, {"data": "a.tar", "weight": 1.5})
    source = opened(data)
    ids = [item.id for item in source]
    light = sum(item.startswith("2/") for item in ids)
    assert sum(item.startswith("1/") for item in ids) == 1000
    assert 440 < light < 560  # 500, with a standard deviation of 16
    assert source.ignored == {"left out by weight: 2": 1000 - light}
    assert ids == [item.id for item in opened(data)]
    assert len(source) == 1500


def test_the_fingerprint_of_a_mixture_follows_weights_and_contents(tmp_path):
    write_tar(tmp_path / "a.tar", ("a.png", PICTURES[0]))
    plain = opened(mixture(tmp_path, {"data": "a.tar"}, {"data": "a.tar"})).fingerprint()
    assert (
        opened(
            mixture(tmp_path, {"data": "./a.tar", "weight": 7}, {"data": "a.tar", "weight": 7})
        ).fingerprint()
        == plain
    )
    assert opened(mixture(tmp_path, {"data": "a.tar"}, {"data": "a.tar", "weight": 2})).fingerprint() != plain
    write_tar(tmp_path / "a.tar", ("a.png", PICTURES[1]))
    assert opened(mixture(tmp_path, {"data": "a.tar"}, {"data": "a.tar"})).fingerprint() != plain


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "mix.yaml: .*sources:"),
        ("sources: []", "mix.yaml: sources: "),
        ("sources: [{weight: 1}]", "data: Field required"),
        ("sources: [{data: a, weight: 0}]", "weight: Input should be greater than 0"),
        ("sources: [{data: a, weight: .inf}]", "weight: Input should be a finite number"),
        ("sources: [{data: a, name: b}, {data: c, name: b}]", "two sources are named 'b'"),
        ("sources: [{data: mix.yaml}]", "source 1: .*a mixture within a mixture"),
        ("sources: [{data: absent}]", "source 1: .*absent: there is no such folder"),
        ("sources: [", "cannot be read as YAML"),
        ("sources: !!python/object/apply:os.getcwd []", "cannot be read as YAML"),
    ],
)
def test_a_wrong_mixture_is_one_sentence(tmp_path, text, said):
    (tmp_path / "mix.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        opened(str(tmp_path / "mix.yaml"))


@pytest.fixture
def memory():
    """An empty bucket in memory."""
    import fsspec

    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def test_uris_are_read_as_the_disk_is(memory, tmp_path):
    table, tar = (
        write_table(tmp_path / "a.parquet", image=structs()),
        write_tar(tmp_path / "a.tar", ("a.png", PICTURES[0])),
    )
    memory.pipe("/bucket/tables/a.parquet", Path(table).read_bytes())
    memory.pipe("/bucket/tars/a-0.tar", Path(tar).read_bytes())
    memory.pipe("/bucket/images/deep/a.png", PICTURES[0])
    memory.pipe("/bucket/images/deep/a.txt", b"a sidecar")
    memory.pipe("/bucket/images/metadata.jsonl", b'{"file_name": "deep/a.png", "text": "a row"}\n{oops\n')
    assert [item.image for item in samples("memory://bucket/tables")] == PICTURES
    assert [item.image for item in samples("memory://bucket/tars/a-{0..0}.tar")] == PICTURES[:1]
    source = opened("memory://bucket/images")
    image, problem = list(source)
    assert (image.id, [caption.text for caption in image.captions]) == ("deep/a.png", ["a row", "a sidecar"])
    assert problem.reason == Reason.BAD_METADATA_ROW
    assert list(opened(source.spec)) == list(source)
    before = source.fingerprint()
    memory.pipe("/bucket/images/deep/a.png", PICTURES[1])
    assert opened(source.spec).fingerprint() != before
    assert [item.image for item in samples(f"file://{table}")] == PICTURES


def test_a_hub_data_set_that_cannot_be_reached_is_one_sentence(monkeypatch):
    import huggingface_hub

    def fail(self, *args, **options):
        raise ConnectionError("offline")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fail)
    with pytest.raises(
        InputError, match=r"'org/name' cannot be reached on the hub \(offline\); check its name"
    ):
        opened("hf:org/name")


@pytest.mark.parametrize(
    ("query", "said"),
    [("split=test", "cannot be opened"), ("image=number", "is int64"), ("text=words", "no column 'words'")],
)
def test_a_wrong_part_of_a_hub_data_set_is_named(tmp_path, query, said):
    write_table(tmp_path / "train.parquet", image=structs(), number=list(range(6)))
    with pytest.raises(InputError, match=said):
        opened(f"hf:{tmp_path}?{query}")


def test_a_row_of_the_hub_names_no_file_outside(tmp_path):
    (tmp_path / "secret.png").write_bytes(PICTURES[0])
    values = [{"bytes": None, "path": str(tmp_path / "secret.png")}]
    write_table(tmp_path / "set" / "train.parquet", image=values)
    [item] = refused(f"hf:{tmp_path / 'set'}?image=image")
    assert item.reason == Reason.UNSAFE_PATH
