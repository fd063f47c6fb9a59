"""Curated data sets, mixtures, storages and the hub as sources."""

import json
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fluxmodel.data.curation import curate
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.records import Reason
from fluxmodel.errors import InputError
from tests.fluxmodel.data.pictures import picture
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


def test_a_curated_data_set_and_its_shard_as_a_table_are_two_sources(tmp_path):
    data = write_table(tmp_path / "a.parquet", image=structs(), text=["some text"] * 6)
    (tmp_path / "curated").mkdir()
    curate(data, RULES, tmp_path / "curated")
    whole, shard = opened(tmp_path / "curated"), opened(tmp_path / "curated" / "shard-00000.parquet")
    assert [item.id for item in whole] != [item.id for item in shard]
    assert whole.fingerprint() != shard.fingerprint()


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


def test_drawn_scenes_that_are_neighbours_stay_wherever_they_are_read_from(tmp_path):
    rules, drawn = CurationRules(min_side=16, test_fraction=0), "procedural:shapes?level=demo&n=150&seed=0"
    for name in ("drawn", "read", "mixed", "photos"):
        (tmp_path / name).mkdir()
    first = curate(drawn, rules, tmp_path / "drawn")
    again = curate(str(tmp_path / "drawn"), rules, tmp_path / "read")
    assert (again.kept, again.dropped) == (first.kept, {})
    assert again.skipped_rules["near_duplicate"] == first.skipped_rules["near_duplicate"]
    assert again.partly_applied == {}
    for suffix in ("png", "jpg"):
        Image.fromarray(picture(1)).save(tmp_path / "photos" / f"{suffix}.{suffix}")
        (tmp_path / "photos" / f"{suffix}.txt").write_text("a photograph")
    data = mixture(tmp_path, {"data": "photos"}, {"data": "drawn"}, {"data": drawn})
    report = curate(data, rules, tmp_path / "mixed")
    assert (report.kept, report.dropped) == (
        first.kept + 1,
        {"exact_duplicate": first.seen, "near_duplicate": 1},
    )
    assert "near_duplicate" not in report.skipped_rules
    said = report.partly_applied["near_duplicate"]
    assert said.startswith(f"{first.kept + first.seen} of {report.seen} images are drawn scenes")
    assert said in (tmp_path / "mixed" / "report.html").read_text()
    rows = pq.read_table(tmp_path / "mixed" / "decisions.parquet").filter(
        pc.field("rule") == "near_duplicate"
    )
    passed = rows["passed"].to_pylist()
    assert (passed.count(True), passed.count(False)) == (1, 1), "of a scene it has nothing to say"


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


def test_images_of_a_storage_are_read_whatever_lies_beside_them(memory, tmp_path):
    table = write_table(tmp_path / "a.parquet", number=[1])
    memory.pipe("/bucket/index.parquet", Path(table).read_bytes())
    memory.pipe("/bucket/old.tar", b"")
    memory.pipe("/bucket/a.png", PICTURES[0])
    source = opened("memory://bucket")
    assert [item.image for item in source] == PICTURES[:1]
    assert source.ignored == {".parquet": 1, ".tar": 1}


def test_a_curated_data_set_of_a_storage_is_refused_with_the_cure(memory, tmp_path):
    table = write_table(tmp_path / "shard-00000.parquet", image=structs())
    memory.pipe("/bucket/curated/shard-00000.parquet", Path(table).read_bytes())
    memory.pipe("/bucket/curated/curation.json", b"{}")
    with pytest.raises(InputError, match="read from a disk only; copy the folder to a disk"):
        opened("memory://bucket/curated")


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
