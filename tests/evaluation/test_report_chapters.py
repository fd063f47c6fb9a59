"""The chapters of a whole run's report, from documents small enough to read."""

import re
from itertools import pairwise

import pytest

from evaluation import closing_figures
from evaluation.charts import apart
from evaluation.gate import Champion, GateDecision, GateSettings
from evaluation.grids import save_story_grids
from evaluation.report_captions import captions
from evaluation.report_evidence import funnel
from evaluation.report_gate import verdict
from evaluation.report_lora import lora
from evaluation.report_story import summary
from evaluation.report_straightening import straightening
from tests.evaluation.story_documents import (
    PNG,
    captions_document,
    decision,
    interval,
    measured_lora,
    measured_straightness,
)

HOSTILE = '<script>alert("x")</script>'


@pytest.fixture
def caption_report():
    return captions_document()


def test_captions_are_shown_before_and_after_with_what_is_wrong_marked(caption_report):
    text = captions(caption_report)
    assert "red <mark>square,</mark> <mark>blue</mark> <mark>bar</mark>" in text
    assert "a <mark>large</mark> red circle top left" in text
    assert "moon read as ring 2×" in text
    assert "alt text silent" in text
    assert "size" not in re.sub(r"<[^>]*>", "", text)
    assert "2.0% of its captions are flagged (unsure 2)" in text


def test_captions_kept_as_they_came_are_one_sentence():
    text = captions(
        {"provenance": {"reason": "there is no captioner: the given captions are kept"}, "metrics": {}}
    )
    assert text.count("<p class") == 2
    assert "There is no captioner: the given captions are kept." in text
    assert captions(None) == ""


def test_captions_without_truth_have_no_scores(caption_report):
    for name in ("f1", "alt_f1", "exact", "test_f1", "unseen_f1"):
        del caption_report["metrics"][name]
    del caption_report["errors"]
    caption_report["examples"][0]["truth"] = None
    text = captions(caption_report)
    assert "F1" not in text
    assert "mark>" not in text
    assert text.count("<img") == 1


def test_a_path_is_drawn_for_each_image_before_and_after():
    document = {"curves": {"rectified": []}, "straightness": measured_straightness(num=5)}
    text = straightening(document)
    assert text.count("<polyline") == 2 * 5
    assert text.count("<circle") == 2 * 2 * 5
    before, after = re.findall(r"<svg.*?</svg>", text)
    assert re.findall(r'points="[^"]*"', before) == re.findall(r'points="[^"]*"', after)
    assert "guidance 2: straightness error 0.100" in text
    assert "a guided way is judged with its guidance" in text


def test_a_base_model_has_figures_but_no_drawing():
    found = {**measured_straightness(), "paths": {}}
    found["rows"] = found["rows"][:2]
    text = straightening({"curves": {}, "straightness": found})
    assert "<svg" not in text
    assert "How straight it flows" in text
    assert straightening({"curves": {}, "straightness": None}) == ""


@pytest.mark.parametrize(
    ("adopted", "said"), [(0.9, "works on the rectified model too"), (0.3, "does not work on")]
)
def test_the_lora_says_whether_it_works_on_the_rectified_model(adopted, said):
    story = {"images": [{"png": PNG, "prompt": "a bar in glowline"}] * 16}
    text = lora({"lora": measured_lora(rectified=adopted)}, story)
    assert said in text
    assert text.count("<img") == 16 + 6 * 2 * 3
    assert 'alt="a red circle; rectified, 1 step, LoRA and trigger"' in text
    assert "-0.4 points" in text


def test_no_lora_is_left_out_or_explained():
    assert lora({"lora": None, "skipped": {}}, None) == ""
    text = lora({"skipped": {"lora": "no style was named"}}, None)
    assert text.endswith('<p class="note">No style was named.</p></section>')


def test_the_verdict_stands_with_its_reasons_and_numbers():
    text = verdict(decision(), {"name": "m", "version": "3", "aliases": ["challenger", "champion"]})
    assert '<div class="verdict promote"><b>Promote</b><ul><li>Shown better.</li></ul>' in text
    assert "+10.0 points" in text
    assert text.count("<svg role") == 2
    assert "80.0 % → 10.0 %" in text
    assert "asked: at least 0.5 of the champion&#x27;s coverage" in text
    assert '<span class="miss">broken</span>' in text
    assert "Registered as m version 3, aliases challenger and champion." in text


def test_a_first_verdict_has_nothing_to_compare():
    made = GateDecision(verdict="promote", reasons=["There is no champion yet."], settings=GateSettings())
    text = verdict(made.model_dump(mode="json"))
    assert "There was no champion to compare with." in text
    assert "<table" not in text
    assert verdict(None) == ""


def test_the_funnel_counts_what_was_dropped():
    text = funnel(
        {"seen": 4, "kept": 3, "dropped": {"exact_duplicate": 1}, "splits": {"train": 3}, "data": "d"}
    )
    assert "dropped: exact duplicate" in text
    assert 'class="bad" style="width:25.00%"' in text


def test_what_people_wrote_is_escaped_in_every_chapter(caption_report):
    for name in ("new", "original", "truth"):
        caption_report["examples"][0][name] = HOSTILE
    caption_report["examples"][0]["image"] = f'"{HOSTILE}'
    caption_report["provenance"]["captioner"] = HOSTILE
    caption_report["errors"][0]["commonest"][0]["said"] = HOSTILE
    champion = Champion(name=HOSTILE, version="1").model_dump()
    parts = [
        captions(caption_report),
        lora(
            {"lora": measured_lora(trigger=HOSTILE)}, {"images": [{"png": f'"{HOSTILE}', "prompt": HOSTILE}]}
        ),
        lora({"skipped": {"lora": HOSTILE}}, None),
        verdict(decision(reasons=[HOSTILE], champion=champion), {"name": HOSTILE, "version": "1"}),
    ]
    assert all(parts)
    assert not any("<script" in part for part in parts)


def test_the_closing_figures_tell_before_and_after(caption_report):
    row = {"steps": 1, "calls": 1, "guidance": 1.0, "attr_acc": 0.5, "fd": 90.0}
    document = {
        "headline": {"curve": "rectified", "steps": 1, "guidance": 1.0},
        "metrics": [{"name": "attr_acc", **interval(0.97)}],
        "baselines": {},
        "curves": {
            "base_unguided": [row],
            "base_guided": [{**row, "steps": 8, "calls": 16, "guidance": 2.0, "attr_acc": 0.98, "fd": 7.0}],
            "rectified": [{**row, "attr_acc": 0.97, "fd": 8.0}],
        },
        "lora": measured_lora(),
    }
    figures = closing_figures(document, caption_report, decision())
    assert list(figures)[:2] == ["point", "attributes right"]
    assert figures["the base at 8 steps, guidance 2"].startswith(
        "attributes right 98.0%, Frechet distance 7.0"
    )
    assert figures["the base at 1 step, unguided"].endswith("1 network call")
    assert figures["style on the rectified model, 1 step"] == "90.0% with its trigger word, 5.0% without"
    assert figures["captions' attribute F1"] == "0.980 (alt text 0.420)"
    assert figures["verdict"] == "promote: Shown better."


def test_paths_and_tiles_are_written_as_pictures(tmp_path):
    save_story_grids(tmp_path, {"straightness": None, "lora": None})
    assert list(tmp_path.iterdir()) == []
    save_story_grids(tmp_path, {"straightness": measured_straightness(), "lora": measured_lora()})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora.png", "paths.png"]


def test_labels_are_kept_apart_about_their_middle():
    assert apart([0.0, 0.0, 5.0], 1.0) == [-0.5, 0.5, 5.0]
    spread = apart([1.0, 1.1, 1.2], 0.5)
    assert [b - a for a, b in pairwise(spread)] == pytest.approx([0.5, 0.5])
    assert sum(spread) / 3 == pytest.approx(1.1)
    assert apart([0.0, 0.0], 1.0, low=0.0) == [0.0, 1.0]
    assert apart([1.0, 1.0], 1.0, high=1.0) == [0.0, 1.0]


def test_the_first_box_says_the_gates_reason_in_plain_words():
    reason = (
        "attr_acc 0.95 -> 0.91, difference -0.04 [-0.06, -0.02], margin 0.02: shown worse than its margin."
    )
    document = {"metrics": [], "headline": {}, "lora": None}
    [(words, verdict, line)] = summary(document, None, {"verdict": "reject", "reasons": [reason]})
    assert (words, verdict) == ("The gate says", "reject")
    assert line == reason.replace("attr_acc", "attributes right").replace("->", "→")
