import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image

from evaluation import EvaluationSettings, evaluate, write_report
from evaluation.charts import measured_metrics, panel_svg
from tests.evaluation.story_documents import (
    PNG,
    captions_document,
    decision,
    measured_lora,
    measured_straightness,
)

VOID = {"meta", "link", "img", "br", "path", "use", "polyline", "circle", "rect"}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, drawing_pipe, model_directory, scenes_dataset, evaluators):
    settings = EvaluationSettings(
        num_images=50, steps=(1, 2), num_held_out=6, num_latency_trials=1, num_calibration=10, grid_size=6,
        thresholds={"attr_acc": 0.5, "all_correct": 1.01},
    )  # fmt: skip
    out = tmp_path_factory.mktemp("out")
    return evaluate(model_directory, scenes_dataset, evaluators, settings, out, pipe=drawing_pipe("demo"))


class Outline(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.links, self.images_without_alt, self.headings = [], [], 0, []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.links += [
            value for name, value in attrs if name in ("src", "href", "action", "srcset", "xlink:href")
        ]
        self.images_without_alt += tag == "img" and not found.get("alt")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def test_the_page_is_whole_and_asks_nothing_of_the_outside(evaluated):
    text = evaluated.html.read_text()
    words = re.sub(r"data:image/png;base64,[^\"]*", "", text)
    assert not re.search(r"https?:|//[a-z]|<script|@import|url\((?!#)", words)
    outline = Outline()
    outline.feed(text)
    assert outline.open == []
    assert outline.images_without_alt == 0
    assert all(link.startswith(("data:", "#")) for link in outline.links)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert outline.headings[1:] == [
        "What it learned from", "What it draws", "How many steps it takes", "Other ways of asking",
        "Where it is strong and weak", "Floors and ceilings", "Does it draw all of them?",
        "Can the judge be trusted?", "What these numbers are",
    ]  # fmt: skip


def test_thresholds_are_shown_as_met_or_missed(evaluated):
    text = evaluated.html.read_text()
    assert "asked: at least 50.0%, met" in text
    assert "asked: at least 101.0%, missed" in text


def test_what_people_wrote_is_escaped(evaluated, tmp_path):
    copy = shutil.copytree(evaluated.directory, tmp_path / "copy")
    gallery = json.loads((copy / "gallery.json").read_text())
    gallery["samples"][0]["prompt"] = '<script>alert("x")</script>'
    (copy / "gallery.json").write_text(json.dumps(gallery))
    curation = {
        "seen": 2,
        "kept": 1,
        "dropped": {"<b x>": 1},
        "refused": [{"path": "<i>", "reason": "r", "detail": "d"}],
    }
    stages = [{"name": "<u>", "seconds": 1.0, "reused": False, "gave": "<s>"}]
    page = write_report(copy, tmp_path / "r.html", "<em>", curation, stages, facts={"m": "<a>"})
    text = page.read_text()
    for tag in ("<script", "<b x", "<em>", "<s>", "<a>", "<u>", "<i>:"):
        assert tag not in text


def test_stages_tell_what_was_reused(evaluated, tmp_path):
    stages = [
        {"name": "curate", "seconds": 12.4, "reused": False, "gave": "19 000 images"},
        {"name": "train", "seconds": 0.1, "reused": True, "gave": None},
    ]
    text = write_report(evaluated.directory, tmp_path / "r.html", stages=stages).read_text()
    assert "12 s" in text
    assert "reused" in text


def test_grids_are_pictures_with_room_for_captions(evaluated):
    with Image.open(evaluated.directory / "grid.png") as grid:
        assert grid.width > 1000
        assert grid.height > 200
    for name in ("held_out.png", "steps.png", "curves.png"):
        with Image.open(evaluated.directory / name) as image:
            assert min(image.size) > 150


def test_the_page_is_the_same_each_time(evaluated, tmp_path):
    first = write_report(evaluated.directory, tmp_path / "a.html").read_bytes()
    assert write_report(evaluated.directory, tmp_path / "b.html").read_bytes() == first


def test_panels_are_drawn_for_what_was_measured(evaluated):
    assert measured_metrics(evaluated.document) == ["attr_acc", "all_correct", "fd", "clip"]
    svg = panel_svg(evaluated.document, "fd")
    assert svg.startswith('<svg role="img" aria-label="Frechet distance" viewBox')
    assert "http" not in svg


@pytest.fixture(scope="module")
def told(evaluated, tmp_path_factory):
    """The page of a whole run; what the later stages left is read from their directories."""
    root = tmp_path_factory.mktemp("run")
    copy = shutil.copytree(evaluated.directory, root / "evaluation")
    more = {"straightness": measured_straightness(), "lora": measured_lora()}
    (copy / "evaluation.json").write_text(json.dumps({**evaluated.document, **more}))
    left = {
        "captions": ("captions.json", captions_document()),
        "decision": ("decision.json", decision()),
        "lora": ("story.json", {"images": [{"png": PNG, "prompt": "a bar in glowline"}]}),
        "registration": ("registration.json", {"name": "m", "version": "3", "aliases": ["challenger"]}),
    }
    for kind, (name, document) in left.items():
        (root / kind).mkdir()
        (root / kind / name).write_text(json.dumps(document))
    curation = {"seen": 2, "kept": 2, "dropped": {}}
    stages = [{"name": "curate", "seconds": 1.0}]
    return write_report(
        copy, root / "report.html", curation=curation, stages=stages, **{kind: root / kind for kind in left}
    )


def test_a_run_is_told_in_the_order_of_its_stages(told):
    outline = Outline()
    outline.feed(told.read_text())
    assert outline.open == []
    assert outline.images_without_alt == 0
    assert outline.headings[1:] == [
        "What it learned from", "What the images are called", "What it draws", "Straightening",
        "How many steps it takes", "Other ways of asking", "A style from a few images", "The verdict",
        "Where it is strong and weak", "Floors and ceilings", "Does it draw all of them?",
        "Can the judge be trusted?", "How the run went",
        "What these numbers are",
    ]  # fmt: skip
    ids = re.findall(r'<section id="([^"]+)"', told.read_text())
    assert [link for link in outline.links if link.startswith("#") and link[1:] in ids] == [
        f"#{i}" for i in ids
    ]


def test_what_a_stage_did_not_leave_is_left_out(evaluated, tmp_path):
    absent = tmp_path / "absent"
    page = write_report(
        evaluated.directory, tmp_path / "a.html", captions=absent, decision=absent, lora=absent
    )
    assert page.read_bytes() == write_report(evaluated.directory, tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize("width", [500, 1200])
def test_a_browser_shows_the_page_without_sideways_scrolling(told, chromium, tmp_path, width):
    probe = tmp_path / "probe.html"
    fits = "document.documentElement.scrollWidth <= window.innerWidth"
    script = f"<script>document.title = {fits} ? 'fits' : 'wide'</script>"
    probe.write_text(told.read_text().replace("</body>", f"{script}</body>"))
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "<title>fits</title>" in done.stdout
