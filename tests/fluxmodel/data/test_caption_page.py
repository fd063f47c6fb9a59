"""The page of old and new captions: bounded, the same again, and nothing in it is taken for markup."""

import re

import numpy as np

from fluxmodel.data.caption_flags import AGREES_LESS, REFUSAL
from fluxmodel.data.caption_page import Selection, write_page
from fluxmodel.data.caption_rows import CaptionRow
from fluxmodel.data.caption_writers import CaptionFailure

NUM = 400
REPORT = {
    "provenance": {"captioner": "<vlm>", "revision": "r", "revision_is": "digest", "prompt": "What?"},
    "metrics": {"num_images": NUM, "num_captioned": NUM, "flagged": 0.5},
    "flags": {REFUSAL: NUM // 2, AGREES_LESS: 3},
    "failures": {"num": 1, "reasons": {"timeout": 1}},
}


def page(path, order):
    selection = Selection()
    for number in order:
        flags = (REFUSAL,) if number % 2 else ()
        text = "<script>alert(1)</script>" + "x" * 5000
        row = CaptionRow(
            f"{number}.png", "train", text, "detailed", "m", "r", "p", 3, -0.1, flags, number / NUM
        )
        selection.note(row, np.full((300, 200, 3), number % 256, np.uint8), "an old <b>caption</b>", 0.5)
    selection.note_failure(
        "late.png", np.zeros((8, 8, 3), np.uint8), None, CaptionFailure("timeout", "<late>")
    )
    write_page(path, REPORT, selection)
    return path.read_text(), selection


def test_it_is_bounded_and_does_not_depend_on_the_order(tmp_path):
    text, selection = page(tmp_path / "a.html", range(NUM))
    assert page(tmp_path / "b.html", reversed(range(NUM)))[0] == text
    assert [len(selection.group(name)) for name in ("random", REFUSAL, "agreement", "failed")] == [
        24,
        8,
        12,
        1,
    ]
    assert [pair.id for pair in selection.group("agreement")] == [f"{number}.png" for number in range(12)]
    assert len(text) < 500_000


def test_it_holds_no_markup_of_others_and_asks_for_nothing(tmp_path):
    text, _ = page(tmp_path / "a.html", range(20))
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;late&gt;" in text
    assert "&lt;vlm&gt;" in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
