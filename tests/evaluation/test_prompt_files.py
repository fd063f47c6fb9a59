"""Prompts out of files: read as they stand, refused in one sentence that names file, line and field."""

import json

import pytest

from evaluation.prompt_files import FilePrompt, Task, read_prompts
from fluxmodel.errors import InputError
from tests.kit import loaded_after

GENEVAL = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {
        "tag": "counting",
        "include": [{"class": "clock", "count": 2}],
        "exclude": [{"class": "clock", "count": 3}],
        "prompt": "a photo of two clocks",
    },
    {
        "tag": "position",
        "include": [{"class": "dog", "count": 1}, {"class": "tie", "count": 1, "position": ["right of", 0]}],
        "prompt": "a photo of a tie right of a dog",
    },
    {
        "tag": "color_attr",
        "include": [
            {"class": "cup", "count": 1, "color": "red"},
            {"class": "car", "count": 1, "color": "blue"},
        ],
        "prompt": "a photo of a red cup and a blue car",
    },
]
"""In the form of GenEval's own evaluation_metadata.jsonl."""


@pytest.fixture
def write(tmp_path):
    def call(name: str, content: str | bytes):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return call


def test_lines_of_text_are_prompts(write):
    found = read_prompts(write("a.txt", "\ufeffa red circle\r\n\n  ein großer Hund, bitte \n"))
    assert found == [FilePrompt(prompt="a red circle"), FilePrompt(prompt="ein großer Hund, bitte")]


def test_json_lines_have_seed_and_group(write):
    lines = [{"prompt": "a", "seed": 3, "group": "x"}, {"prompt": "a", "seed": 4}, {"prompt": "b"}]
    found = read_prompts(write("a.jsonl", "\n".join(map(json.dumps, lines))))
    assert [(each.prompt, each.seed, each.group) for each in found] == [
        ("a", 3, "x"),
        ("a", 4, ""),
        ("b", None, ""),
    ]


def test_csv_has_a_header_and_quoted_commas(write):
    found = read_prompts(write("a.csv", 'group,prompt,seed\nx,"a cat, a dog",7\n,b,\n'))
    assert [(each.prompt, each.seed, each.group) for each in found] == [
        ("a cat, a dog", 7, "x"),
        ("b", None, ""),
    ]


def test_genevals_own_metadata_is_read_and_grouped_by_tag(write):
    found = read_prompts(write("m.jsonl", "\n".join(map(json.dumps, GENEVAL))))
    assert [each.group for each in found] == ["single_object", "counting", "position", "color_attr"]
    task = found[2].task
    assert isinstance(task, Task)
    assert task.include[1].kind == "tie"
    assert task.include[1].position == ("right of", 0)
    assert found[1].task is not None
    assert found[1].task.exclude[0].count == 3


def _task(**fields) -> str:
    return json.dumps({"tag": "t", "include": [{"class": "dog"}], "prompt": "p", **fields})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.md", "x", r"a\.md: the name ends in \.md; prompts are read from \.txt, \.csv and \.jsonl files"),
        ("a", "x", r"a: the name ends in nothing; prompts are read"),
        ("a.txt", "", r"a\.txt: holds no prompts; write one a line"),
        ("a.txt", "  \n\n", r"a\.txt: holds no prompts"),
        ("a.txt", b"fine\n\xff\xfe\n", r"a\.txt, line 2: is not UTF-8"),
        ("a.txt", "x" * 4001, r"a\.txt, line 1: prompt: .*at most 4000"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt":\n', r"a\.jsonl, line 2: is no JSON"),
        ("a.jsonl", "[1]", r"a\.jsonl, line 1: is no object; write one like"),
        ("a.jsonl", '{"seed": 1}', r"a\.jsonl, line 1: prompt: Field required"),
        ("a.jsonl", '\n\n{"prompt": "  "}', r"a\.jsonl, line 3: prompt: .*at least 1"),
        ("a.jsonl", '{"prompt": 7}', r"a\.jsonl, line 1: prompt: .*string"),
        ("a.jsonl", '{"prompt": "a", "seed": -1}', r"a\.jsonl, line 1: seed: .*greater than or equal to 0"),
        ("a.jsonl", '{"prompt": "a", "seed": "7"}', r"a\.jsonl, line 1: seed: .*integer"),
        ("a.jsonl", '{"prompt": "a", "seed": 9223372036854775808}', r"line 1: seed: .*less than or equal"),
        ("a.jsonl", '{"prompt": "a", "sead": 1}', r"a\.jsonl, line 1: sead: Extra inputs"),
        (
            "a.jsonl",
            '{"prompt": "a", "seed": 1}\n{"prompt": "a", "seed": 1}',
            r"line 2: seed: 1 stands with the same prompt on line 1",
        ),
        ("a.jsonl", _task(include=[]), r"a\.jsonl, line 1: include: .*at least 1"),
        ("a.jsonl", _task(include=[{"count": 1}]), r"a\.jsonl, line 1: include\.0\.class: Field required"),
        ("a.jsonl", _task(include=[{"class": "dog", "count": 0}]), r"line 1: include\.0\.count: .*greater"),
        ("a.jsonl", _task(include=[{"class": "dog", "colour": "red"}]), r"line 1: include\.0\.colour: Extra"),
        (
            "a.jsonl",
            _task(include=[{"class": "dog"}, {"class": "cat", "position": ["behind", 0]}]),
            r"line 1: include\.1\.position\.0: .*'left of', 'right of', 'above' or 'below'",
        ),
        (
            "a.jsonl",
            _task(include=[{"class": "dog", "position": ["above", 0]}]),
            r"line 1: include\.0\.position: is related to entry 0; name one that stands before it",
        ),
        ("a.jsonl", json.dumps({"tag": "t", "prompt": "p"}), r"a\.jsonl, line 1: include: Field required"),
        ("a.csv", "text,seed\na,1\n", r"a\.csv, line 1: there is no column prompt; begin with a header"),
        ("a.csv", "", r"a\.csv, line 1: there is no column prompt"),
        ("a.csv", "prompt,seed\na,1\nb,c,2\n", r"a\.csv, line 3: has not the header's 2 fields"),
        ("a.csv", "prompt,seed\na\n", r"a\.csv, line 2: has not the header's 2 fields"),
        ("a.csv", "prompt,seed\na,x\n", r"a\.csv, line 2: seed: .*integer"),
        ("a.csv", 'prompt,seed\n"a,1\n', r"a\.csv, line 2: is no CSV"),
        ("a.csv", "prompt,style\na,b\n", r"a\.csv, line 2: style: Extra inputs"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(write, name, content, said):
    with pytest.raises(InputError, match=said) as caught:
        read_prompts(write(name, content))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt: cannot be read \(No such file"):
        read_prompts(tmp_path / "none.txt")


def test_files_are_read_without_torch():
    assert loaded_after("import evaluation.prompt_files", ("torch", "numpy")) == []
