"""Captions are kept as they come: whatever happens to a captioner, no image is asked about twice."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fluxmodel.data import chat_endpoint
from fluxmodel.data.caption_rows import read_rows
from fluxmodel.data.caption_writers import CaptionFailure, keep_nothing
from fluxmodel.data.captioning import CaptionSettings, caption_dataset, caption_shard
from fluxmodel.data.curation import curate
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.kept_captions import FailureBudget, KeptCaptions
from fluxmodel.encoders.captioner import Written
from fluxmodel.errors import StageError
from tests.fluxmodel.data.chat_stub import ChatStub, brightness, completion
from tests.kit import ROOT, wait_until

NUM, CONCURRENCY = 40, 3
FILES = ("captions.parquet", "captions.json", "captions.html", "card.json")


def save_images(folder: Path, num: int = NUM, first: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(first, num):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"noise number {number}")


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(chat_endpoint, "_FIRST_PAUSE", 0.001)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    save_images(folder)
    return folder


def curated(images: Path, output: Path) -> Path:
    output.mkdir()
    curate(str(images), CurationRules(test_fraction=0.2), output)
    return output


@pytest.fixture(scope="module")
def dataset(images, tmp_path_factory):
    return curated(images, tmp_path_factory.mktemp("curated") / "dataset")


def captioned(dataset, stub, output, cache, **changes):
    output.mkdir(exist_ok=True)
    settings = CaptionSettings(batch_size=16, **changes)
    caption_dataset(dataset, place(stub), output, settings, cache=cache)
    return {name: (output / name).read_bytes() for name in FILES}


def place(stub):
    return f"{stub.address}&concurrency={CONCURRENCY}&attempts=2"


def test_killed_at_any_moment_nothing_that_was_answered_is_asked_again(dataset, tmp_path):
    """At most the requests that were under way, and the bytes are those of a run that nothing disturbed."""

    def slowly(image, nth):
        return {"sleep": 0.02, **completion(brightness(image))}

    with ChatStub(slowly) as stub:
        whole = captioned(dataset, stub, tmp_path / "whole", tmp_path / "another-cache")
        assert sorted(stub.asked.values()) == [1] * NUM
        output = tmp_path / "killed"
        output.mkdir()
        code = (
            "import sys; from fluxmodel.data.captioning import CaptionSettings, caption_dataset; "
            "caption_dataset(*sys.argv[1:4], CaptionSettings(batch_size=16), cache=sys.argv[4])"
        )
        again = [str(dataset), place(stub), str(output), str(tmp_path / "cache")]
        stub.asked.clear()
        child = subprocess.Popen([sys.executable, "-c", code, *again], cwd=ROOT)
        wait_until(lambda: stub.asked.total() >= NUM // 2, "half of the questions are asked")
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        wait_until(lambda: stub.at_once == 0, "the stub has answered")
        assert stub.asked.total() < NUM
        assert not list(output.iterdir())
        assert captioned(dataset, stub, output, tmp_path / "cache") == whole
    assert len(stub.asked) == NUM
    assert stub.asked.total() - NUM <= CONCURRENCY


def test_only_what_is_new_is_captioned(images, tmp_path):
    """One image replaced in place, two added, one caption changed: three questions."""
    mine = tmp_path / "images"
    save_images(mine)
    with ChatStub() as stub:
        captioned(curated(mine, tmp_path / "before"), stub, tmp_path / "a", tmp_path / "cache")
        stub.asked.clear()
        pixels = np.random.default_rng(999).integers(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(mine / "05.png")
        (mine / "07.txt").write_text("another caption")
        save_images(mine, NUM + 2, NUM)
        captioned(curated(mine, tmp_path / "after"), stub, tmp_path / "b", tmp_path / "cache")
        assert sorted(stub.asked.values()) == [1, 1, 1]
        before, after = (
            {row.id: row.text for row in read_rows(tmp_path / name) if row.kind == "detailed"}
            for name in "ab"
        )
        assert [own for own in before if before[own] != after[own]] == ["05.png"]
        assert len(after) == NUM + 2
        captioned(tmp_path / "after", stub, tmp_path / "c", tmp_path / "cache", prompt="Which colours?")
        assert len(stub.asked) == NUM + 2  # another question is another matter


def test_shards_share_what_is_kept_and_carry_failures(dataset, tmp_path):
    def moody(image, nth):
        return {"status": 400, "body": b"no"} if image[0, 0, 0] < 4 else completion(brightness(image))

    with ChatStub(moody) as stub:
        whole = captioned(dataset, stub, tmp_path / "whole", tmp_path / "cache", max_failed_share=0.5)
        failed = json.loads(whole["captions.json"])["failures"]
        settings = CaptionSettings(batch_size=16, max_failed_share=0.5)
        places = [tmp_path / str(number) for number in range(2)]
        for number, shard in enumerate(places):
            shard.mkdir()
            caption_shard(dataset, place(stub), shard, number, 2, settings, cache=tmp_path / "cache")
        assert stub.asked.total() == NUM + failed["num"]  # failures alone are tried again
    (tmp_path / "merged").mkdir()
    caption_dataset(dataset, place(stub), tmp_path / "merged", settings, shards=places)  # the server is gone
    assert {name: (tmp_path / "merged" / name).read_bytes() for name in FILES} == whole


def test_one_failure_is_told_and_the_image_keeps_its_caption(dataset, tmp_path):
    def moody(image, nth):
        bad = image[0, 0, 0] == darkest
        return {"status": 400, "body": b"I do not like it"} if bad else completion(brightness(image))

    from fluxmodel.data.curated_dataset import CuratedDataset

    darkest = min(image[0, 0, 0] for image in CuratedDataset(dataset).pixels("train"))
    with ChatStub(moody) as stub:
        files = captioned(dataset, stub, tmp_path / "out", None)
    report = json.loads(files["captions.json"])
    failures = report["failures"]
    assert (failures["num"], failures["reasons"]) == (1, {"http_400": 1})
    (image,) = failures["images"]
    assert image["detail"] == "status 400: I do not like it"
    assert report["metrics"]["num_captioned"] == NUM - 1
    assert report["metrics"]["num_failed"] == 1
    assert [row.kind for row in read_rows(tmp_path / "out") if row.id == image["id"]] == ["given"]
    assert b"I do not like it" in files["captions.html"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"max_failed_share": 0.1},
            r"5 of 40 images could not be captioned, 4 may fail \(http_500 5.*raise --max-failed-share",
        ),
        ({"max_failed": 2, "max_failed_share": 1.0}, "3 of 40 images could not be captioned, 2 may fail"),
        ({"max_failed_share": 1.0}, r"failed 20 times in a row \(http_500 20; the last: status 500: out"),
    ],
)
def test_too_many_failures_fail_the_stage_and_what_was_written_is_kept(dataset, tmp_path, changes, match):
    """A server that breaks after ten answers; mended, it is asked about the others alone."""
    good = set()

    def breaking(image, nth):
        if len(good) < 10 or stub.mended:
            good.add(image.tobytes())
            return completion(brightness(image))
        return {"status": 500, "body": b"out of order"}

    stub: Any = ChatStub(breaking)
    with stub:
        stub.mended = False
        with pytest.raises(StageError, match=match) as caught:
            captioned(dataset, stub, tmp_path / "out", tmp_path / "cache", **changes)
        assert "What was written is kept" in str(caught.value)
        assert "\n" not in str(caught.value)
        stub.mended = True
        stub.asked.clear()
        captioned(dataset, stub, tmp_path / "out", tmp_path / "cache", **changes)
        assert len(stub.asked) == NUM - 10


class Counting:
    """A writer that counts."""

    name, revision, text, prompt_hash, content = "counting", "1", None, "2", "nothing"

    def __init__(self, **recipe):
        self.recipe, self.seen = recipe, []

    def write(self, images, ids, keep=keep_nothing):
        self.seen += ids
        results = [Written(brightness(image), -1.0, 3) for image in images]
        keep(list(enumerate(results)))
        return results

    def close(self):
        pass


def test_equal_pixels_are_asked_about_once_and_settings_part_what_is_kept(tmp_path):
    images = np.zeros((4, 2, 2, 3), np.uint8)
    images[1] += 9
    for recipe, seen in (({"a": 1}, ["0", "1"]), ({"a": 1}, []), ({"a": 2}, ["0", "1"])):
        writer: Any = Counting(**recipe)
        kept = KeptCaptions(writer, tmp_path, FailureBudget(4, 0, 0))
        assert kept.write(images, list("0123")) == [Written(brightness(i), -1.0, 3) for i in images]
        kept.close()
        assert writer.seen == seen


class Moody(Counting):
    """A writer that fails on black images."""

    def write(self, images, ids, keep=keep_nothing):
        results = [
            Written("a", None, None) if image.any() else CaptionFailure("http_400", "no") for image in images
        ]
        keep(list(enumerate(results)))
        return results


def test_images_that_always_fail_do_not_fail_every_later_run_but_the_totals_hold(tmp_path):
    good = np.full((40, 2, 2, 3), 9, np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None, None]
    shapes = [np.zeros((1, 2, 2 + side, 3), np.uint8) for side in range(25)]

    def run(share, *batches):
        writer: Any = Moody()
        kept = KeptCaptions(writer, tmp_path, FailureBudget(65, share, 1000))
        try:
            return [
                each for batch in batches for each in kept.write(batch, [str(i) for i in range(len(batch))])
            ]
        finally:
            kept.close()

    with pytest.raises(StageError, match="20 times in a row"):
        run(1.0, *shapes)  # nothing is known of this writer yet
    run(1.0, good)
    results = run(1.0, good, *shapes)
    assert sum(isinstance(result, CaptionFailure) for result in results) == 25
    with pytest.raises(StageError, match="7 of 65 images could not be captioned, 6 may fail"):
        run(0.09, good, *shapes)


def test_merging_shards_asks_nobody_so_a_row_of_failures_is_only_counted(dataset, tmp_path):
    from fluxmodel.data.curated_dataset import CuratedDataset

    train = {image.tobytes() for image in CuratedDataset(dataset).pixels("train")}

    def moody(image, nth):
        bad = image.tobytes() in train
        return {"status": 400, "body": b"no"} if bad else completion(brightness(image))

    settings = CaptionSettings(batch_size=16, max_failed_share=1.0)
    places = [tmp_path / str(number) for number in range(3)]
    with ChatStub(moody) as stub:
        for number, shard in enumerate(places):
            shard.mkdir()
            caption_shard(dataset, place(stub), shard, number, 3, settings)
    (tmp_path / "merged").mkdir()
    metrics = caption_dataset(dataset, place(stub), tmp_path / "merged", settings, shards=places)
    assert metrics["num_failed"] == len(train) > 20


@pytest.mark.parametrize(
    ("total", "share", "most", "allowed"),
    [
        (1000, 0.05, 1000, 50),
        (10, 0.05, 1000, 1),
        (100_000, 0.05, 1000, 1000),
        (10, 0.0, 9, 0),
        (10, 1.0, 0, 0),
    ],
)
def test_the_budget_is_the_smaller_of_share_and_number(total, share, most, allowed):
    assert FailureBudget(total, share, most).allowed == allowed


def test_successes_between_failures_end_a_row():
    budget = FailureBudget(1000, 1.0, 1000)
    for _ in range(10):
        budget.note([CaptionFailure("timeout")] * 19)
        budget.note([Written("a", None, None)])
    with pytest.raises(StageError, match="20 times in a row"):
        budget.note([CaptionFailure("timeout")] * 20)
