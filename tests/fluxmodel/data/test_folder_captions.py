"""Captions of images, wherever they are written: none is lost, and a blank one is none."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fluxmodel.data import measurements, spool
from fluxmodel.data.curation import curate, curate_source
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.measurements import MEASUREMENTS, read_measurements
from fluxmodel.data.metadata_rows import describe
from fluxmodel.data.records import Caption, RawSample, Reason
from fluxmodel.data.spool import Spool
from tests.fluxmodel.data.pictures import Listed
from tests.fluxmodel.data.tiny_shards import PICTURES, opened, refused, samples, write_table

RULES = CurationRules(near_duplicate_distance=None)


def texts_of(data) -> list[list[str]]:
    return [[caption.text for caption in item.captions] for item in samples(data)]


@pytest.mark.parametrize(
    ("record", "texts"),
    [
        ({"text": "a", "caption": "b"}, ("a", "b")),
        ({"text": "a", "caption": "a", "prompt": ["c", "a"]}, ("a", "c")),
        ({"text": " \n", "caption": "b"}, ("b",)),
        ({"text": ""}, ()),
        ({"text": None, "captions": ["", "b"]}, ("b",)),
        ({"text": "a", "prompt": 3}, ("a",)),
    ],
)
def test_every_field_counts_and_a_blank_one_is_none(tmp_path, record, texts):
    assert describe(record).texts == texts
    columns: dict[str, Any] = {name: [value] for name, value in record.items()}
    data = write_table(tmp_path / "a.parquet", image=PICTURES[:1], **columns)
    assert texts_of(data) == [list(texts)]


def test_a_blank_licence_or_source_gives_way_to_the_next():
    found = describe({"licence": " ", "license": "MIT", "source": "", "url": "https://a.example"})
    assert (found.licence, found.source) == ("MIT", "https://a.example")


def test_a_row_without_text_is_a_missing_caption(tmp_path):
    for number in (0, 1):
        (tmp_path / f"{number}.png").write_bytes(PICTURES[number])
    (tmp_path / "metadata.csv").write_text("file_name,text,caption\n0.png,,a picture\n1.png,,\n")
    (tmp_path / "out").mkdir()
    report = curate(str(tmp_path), RULES.model_copy(update={"test_fraction": 0}), tmp_path / "out")
    assert (report.kept, report.dropped) == (1, {"missing_caption": 1})


def test_a_sidecar_is_found_in_any_case_and_one_without_an_image_is_counted(tmp_path):
    for name in ("a.png", "B.PNG"):
        (tmp_path / name).write_bytes(PICTURES[0])
    for name in ("a.TXT", "a.txt", "B.Txt", "README.txt", "gone.TXT"):
        (tmp_path / name).write_text(f"words of {name}")
    source = opened(tmp_path)
    assert texts_of(tmp_path) == [["words of B.Txt"], ["words of a.TXT", "words of a.txt"]]
    assert source.ignored == {".txt without an image": 2}


def test_a_long_sidecar_that_is_cut_within_a_character_is_text(tmp_path):
    (tmp_path / "a.png").write_bytes(PICTURES[0])
    (tmp_path / "a.txt").write_text("x" + "é" * 600_000, encoding="utf-8")
    assert refused(tmp_path) == []
    (tmp_path / "a.txt").write_bytes("é".encode() * 20 + b"\xc3")
    assert [item.reason for item in refused(tmp_path)] == [Reason.BAD_CAPTION_FILE]


def test_of_an_endless_caption_its_beginning_is_stored_and_all_its_words_are_counted(tmp_path):
    endless = Caption("word " * 200_000, "given")
    items = [RawSample("a", PICTURES[0], "listed", captions=(endless, Caption("a picture", "given")))]
    curate_source(Listed(items), RULES.model_copy(update={"test_fraction": 0}), tmp_path)
    [row] = read_measurements(tmp_path).to_pylist()
    assert [len(each["text"]) for each in row["captions"]] == [10_001, 9]
    assert row["caption_words"] == [200_000, 2]
    assert row["caption_refusals"] == ["caption_too_long", None]


def test_rows_with_many_captions_are_written_before_they_fill_the_memory(tmp_path):
    captions = [{"text": f"{n} " * 2_000, "kind": "given", "model": None} for n in range(500)]
    writer = measurements.MeasurementWriter(tmp_path)
    kept = Spool(tmp_path / "spool")
    for number in range(12):
        writer.add({"id": str(number), "captions": captions})
        kept.add({"id": str(number), "image": {"bytes": b"", "path": ""}, "captions": captions})
    writer.close()
    kept.finish()
    assert pq.ParquetFile(tmp_path / MEASUREMENTS).num_row_groups > 1
    with pa.OSFile(str(tmp_path / "spool")) as file:
        assert pa.ipc.open_file(file).num_record_batches > 1
    assert max(measurements._BYTES_A_GROUP, spool._BATCH_BYTES) < 50_000_000


def test_a_metadata_row_with_both_texts_gives_both(tmp_path):
    (tmp_path / "a.png").write_bytes(PICTURES[0])
    row = {"file_name": "a.png", "text": "one", "caption": "two"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    assert texts_of(tmp_path) == [["one", "two"]]
