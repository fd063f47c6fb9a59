"""Metadata: each row by itself, each bad row with its line, a useless file as one sentence."""

import csv
import io
import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxmodel.data.metadata_rows import BadRow, MetadataRow, read_metadata
from fluxmodel.errors import InputError


def read(tmp_path, name: str, content: str | bytes):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_metadata(path)


GOOD = '{"file_name": "b.png", "text": "good"}\n'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{broken", "not a JSON object"),
        ("[1, 2]", "not a list"),
        ('{"text": "a"}', "'file_name' is missing"),
        ('{"file_name": 7, "text": "a"}', "'file_name' is missing or no text"),
        ('{"file_name": "a.png", "text": 7}', "'text' must be a text"),
        ('{"file_name": "a.png", "text": ["a", null]}', "'text' must be a text"),
        (b"\xff\xfe\x00", "no UTF-8"),
        ("[" * 100_000, ""),
        ('{"file_name": "a.png", "text": "a", "source": "x\\udfff"}', "half of a character"),
        ('{"file_name": "a.png", "text": "a", "licence": ' + "9" * 5000 + "}", "integer"),
    ],
    ids="broken,list,no file,file is a number,text is a number,null text,bytes,deep,half,digits".split(","),
)
def test_a_bad_json_row_is_named_and_the_others_stay(tmp_path, line, said):
    line = line if isinstance(line, bytes) else line.encode()
    rows = read(tmp_path, "metadata.jsonl", GOOD.encode() + line + b"\n" + GOOD.encode())
    assert [row.line for row in rows] == [1, 2, 3]
    assert isinstance(rows[1], BadRow)
    assert said in rows[1].detail
    assert rows[0] == MetadataRow(1, "b.png", ("good",))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.png,one, two", "3 fields where the header names 2"),
        ("a.png", "1 fields"),
        ('a.png,"never closed', "quote is opened and never closed"),
        ('a.png,"closed" badly', "double the quotes"),
        (",no file", "'file_name' is missing"),
        (b"a.png,\xe9t\xe9", "no UTF-8"),
    ],
)
def test_a_bad_csv_row_is_named_and_the_others_stay(tmp_path, line, said):
    line = line if isinstance(line, bytes) else line.encode()
    content = b"file_name,text\nb.png,good\n" + line + b'\nc.png,"also, good"\nd.png,last\n'
    rows = read(tmp_path, "metadata.csv", content)
    assert isinstance(rows[1], BadRow)
    assert rows[1].line == 3
    assert said in rows[1].detail
    assert [row.texts for row in rows if isinstance(row, MetadataRow)] == [
        ("good",),
        ("also, good",),
        ("last",),
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metadata.csv", "picture_no,words\n1,a\n", "line 1: no column 'file_name'"),
        ("metadata.csv", "file_name,title\n1,a\n", "line 1: no column 'text'"),
        ("metadata.csv", "", "no column 'file_name' among nothing"),
        ("metadata.csv", "file_name,text,text\na.png,b,c\n", "named twice"),
        ("metadata.csv", b"\xff\xfef\x00i\x00", "UTF-8"),
        ("metadata.jsonl", "nonsense\nmore\n", "line 1: not a JSON object"),
    ],
)
def test_a_useless_file_is_one_sentence_with_file_and_line(tmp_path, name, content, said):
    with pytest.raises(InputError) as caught:
        read(tmp_path, name, content)
    assert said in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_metadata(tmp_path / "metadata.csv")


def test_known_columns_are_read_under_their_usual_names(tmp_path):
    [row] = read(
        tmp_path, "metadata.csv", "\ufeffImage,Caption,License,URL\na.png,b c,MIT,https://x.example/a\n"
    )
    assert row == MetadataRow(2, "a.png", ("b c",), "MIT", "https://x.example/a")
    [row] = read(tmp_path, "metadata.jsonl", '\n{"file_name": "a", "captions": ["b", "c"], "licence": 3}\n')
    assert row == MetadataRow(2, "a", ("b", "c"))


# What a csv writer may write and a reader must give back; lone surrogates have no UTF-8.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
names = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(names, texts), min_size=1, max_size=8))
def test_what_is_written_is_read_back(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("metadata")
    stream = io.StringIO()
    csv.writer(stream).writerows([("file_name", "text"), *rows])
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
    expected = [(name, (text,) if text.strip() else ()) for name, text in rows]
    for name, content in (("metadata.csv", stream.getvalue()), ("metadata.jsonl", "\n".join(lines))):
        found = read(folder, name, content)
        assert [(row.file_name, row.texts) for row in found if isinstance(row, MetadataRow)] == expected


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=200) | st.text(',"\n\r{}[]:afile_nmtx ', max_size=120).map(str.encode))
def test_no_content_raises_anything_but_one_sentence(content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("metadata")
    for name, prefix in (("metadata.csv", b"file_name,text\nok.png,ok\n"), ("metadata.jsonl", GOOD.encode())):
        rows = read(folder, name, prefix + content)
        assert isinstance(rows[0], MetadataRow)
        with suppress(InputError):
            read(folder, name, content)
