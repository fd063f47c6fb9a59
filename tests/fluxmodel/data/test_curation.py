"""Curation: nothing is lost, every drop has its reason, equal input gives equal bytes, groups never straddle."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from fluxmodel.data.curation import CuratedDataset, CurationReport, CurationRules, curate, curate_source
from fluxmodel.data.decisions import DUPLICATE_RULES, IMAGE_RULES
from fluxmodel.data.decode import decode, fit
from fluxmodel.data.records import Caption, RawSample, UnreadableFile
from fluxmodel.data.sources import open_source
from fluxmodel.errors import ArtifactError, InputError, StageError
from tests.fluxmodel.data.pictures import Listed, encoded, flipped, picture, png_declaring
from tests.kit import ROOT

RULES = CurationRules()
SCENES = "procedural:shapes?level=demo&n=120&seed=1"


def sample(name: str, image: bytes, *texts: str) -> RawSample:
    return RawSample(
        name, image, "listed", captions=tuple(Caption(text, "given") for text in texts), path=name
    )


def new(tmp_path, name: str = "out"):
    (tmp_path / name).mkdir()
    return tmp_path / name


def decisions(output) -> list[dict]:
    return pq.read_table(output / "decisions.parquet").to_pylist()


def applied(report: CurationReport) -> set[str]:
    return {*IMAGE_RULES, *DUPLICATE_RULES} - report.skipped_rules.keys()


def write_folder(root, num: int = 30) -> None:
    """Pictures 0..num-1, each with a JPEG copy and a larger one of every third."""
    root.mkdir()
    for seed in range(num):
        files = {f"{seed:03d}.png": encoded(picture(seed))}
        if seed % 3 == 0:
            files[f"{seed:03d}.z-copy.jpg"] = encoded(picture(seed), "JPEG", quality=80)
            files[f"{seed:03d}.z-same.bmp"] = encoded(picture(seed), "BMP")
        for name, data in files.items():
            (root / name).write_bytes(data)
            (root / name).with_suffix(".txt").write_text(f"picture number {seed}")


@pytest.fixture(scope="module")
def curated_scenes(tmp_path_factory) -> tuple[CurationReport, CuratedDataset]:
    output = tmp_path_factory.mktemp("scenes")
    return curate(SCENES, RULES, output), CuratedDataset(output)


@pytest.fixture(scope="module")
def curated_folder(tmp_path_factory) -> tuple[CurationReport, CuratedDataset]:
    root = tmp_path_factory.mktemp("data") / "photos"
    write_folder(root)
    output = tmp_path_factory.mktemp("curated")
    return curate(str(root), RULES, output), CuratedDataset(output)


GOOD = encoded(picture(0))
BAD_FILES = {
    "truncated": (encoded(picture(1))[:900], ["a"]),
    "corrupt": (flipped(encoded(picture(1)), 700), ["a"]),
    "not_an_image": (b"<html>", ["a"]),
    "empty_file": (b"", ["a"]),
    "too_large": (png_declaring(50_000, 50_000), ["a"]),
    "too_small": (encoded(np.zeros((1, 1, 3), np.uint8)), ["a"]),
    "too_elongated": (encoded(np.zeros((20, 100, 3), np.uint8)), ["a"]),
    "unknown_range": (encoded(np.full((32, 32), np.inf, np.float32), "TIFF"), ["a"]),
    "missing_caption": (encoded(picture(2)), []),
    "empty_caption": (encoded(picture(3)), [" \t\n"]),
    "control_characters": (encoded(picture(4)), ["a\x00b"]),
    "caption_too_long": (encoded(picture(5)), ["word " * 78]),
    "exact_duplicate": (encoded(picture(0), "BMP"), ["a"]),
    "near_duplicate": (encoded(picture(0), "JPEG"), ["a"]),
}


@pytest.mark.parametrize("reason", BAD_FILES)
def test_one_bad_file_is_dropped_for_its_reason_and_the_good_one_kept(tmp_path, reason):
    data, texts = BAD_FILES[reason]
    source = Listed([sample("a-good", GOOD, "a good picture"), sample("b-bad", data, *texts)])
    report = curate_source(source, RULES, new(tmp_path))
    assert (report.seen, report.kept, report.dropped) == (2, 1, {reason: 1})
    [refused] = report.refused
    assert (refused.path, refused.reason) == ("b-bad", reason)
    [decision] = [row for row in decisions(tmp_path / "out") if row["passed"] is False]
    assert (decision["id"], decision["reason"]) == ("b-bad", reason)


def test_the_second_sample_of_an_id_is_dropped(tmp_path):
    items = [sample("x", encoded(picture(seed)), "a caption") for seed in (0, 1)]
    report = curate_source(Listed(items), RULES, new(tmp_path))
    assert (report.kept, report.dropped) == (1, {"duplicate_id": 1})


def test_all_bad_files_together_lose_nothing(tmp_path):
    items = [sample(f"bad-{reason}", data, *texts) for reason, (data, texts) in BAD_FILES.items()]
    report = curate_source(Listed([sample("a", GOOD, "good"), *items]), RULES, new(tmp_path))
    assert report.seen == 1 + len(items)
    assert report.dropped == dict.fromkeys(sorted(BAD_FILES), 1)
    assert {refused.path for refused in report.refused} == {item.id for item in items}


def test_seen_is_kept_plus_dropped_and_each_image_has_one_decision_a_rule(curated_folder):
    report, dataset = curated_folder
    assert report.seen == report.kept + sum(report.dropped.values()) == 50
    assert report.kept == dataset.num("train") + dataset.num("test") == 30
    rows = decisions(dataset.directory)
    assert len(rows) == report.seen * len(applied(report))
    assert len({(row["id"], row["rule"]) for row in rows}) == len(rows)
    failed = [row for row in rows if row["passed"] is False]
    assert len(failed) == sum(report.dropped.values())
    assert all(row["reason"] for row in failed)


def test_duplicates_are_dropped_for_the_largest_then_the_first(tmp_path):
    large = np.repeat(np.repeat(picture(0), 2, 0), 2, 1)
    items = [
        sample("a-small", encoded(picture(0)), "a"),
        sample("b-large", encoded(large), "b"),
        sample("c-large", encoded(large, "BMP"), "c"),
    ]
    report = curate_source(Listed(items), RULES, new(tmp_path))
    assert [(refused.path, refused.detail) for refused in report.refused] == [
        ("c-large", "of b-large"),
        ("a-small", "of b-large"),
    ]


def test_near_duplicates_stay_where_the_rule_is_off_and_the_record_says_so(tmp_path):
    items = [sample("a", GOOD, "a"), sample("b", encoded(picture(0), "JPEG"), "b")]
    report = curate_source(Listed(items), CurationRules(near_duplicate_distance=None), new(tmp_path))
    assert report.kept == 2
    assert "near_duplicate_distance" in report.skipped_rules["near_duplicate"]
    rules = {row["rule"] for row in decisions(tmp_path / "out")}
    assert rules == applied(report) >= {"readable", "decodable", "min_side", "max_aspect", "caption"}


def test_neighbouring_scenes_are_not_taken_for_duplicates(curated_scenes):
    report, dataset = curated_scenes
    assert report.kept >= 119
    assert "procedural" in report.skipped_rules["near_duplicate"]
    assert all(dataset.scenes("train"))


def test_a_split_depends_on_the_pixels_not_on_order_name_or_company(tmp_path):
    rules = CurationRules(test_fraction=0.4)
    sides = []
    for place, seeds in (("all", range(40)), ("some", range(38, 0, -2))):
        items = [sample(f"{place}-{seed:02d}", encoded(picture(seed)), "a") for seed in seeds]
        curate_source(Listed(items), rules, new(tmp_path, place))
        dataset = CuratedDataset(tmp_path / place)
        sides.append({split: {name[-2:] for name in dataset.ids(split)} for split in ("train", "test")})
    everything, some = sides
    assert some["test"]
    assert some["test"] <= everything["test"]
    assert some["train"] <= everything["train"]


def test_no_near_duplicate_lies_on_both_sides_of_the_split(tmp_path):
    items = []
    for seed in range(60):
        items += [
            sample(f"{seed:02d}-{kind}", encoded(picture(seed), kind, **options), "a")
            for kind, options in (("PNG", {}), ("JPEG", {"quality": 70}), ("WEBP", {"quality": 80}))
        ]
    curate_source(Listed(items), CurationRules(test_fraction=0.5), new(tmp_path))
    dataset = CuratedDataset(tmp_path / "out")
    sides = [{name[:2] for name in dataset.ids(split)} for split in ("train", "test")]
    assert sides[0].isdisjoint(sides[1])
    assert min(map(len, sides)) >= 15


@pytest.mark.parametrize(("num", "fraction", "expected"), [(20, 1e-9, 1), (19, 1e-9, 0), (30, 0.0, 0)])
def test_a_small_dataset_still_has_a_test_image(tmp_path, num, fraction, expected):
    items = [sample(f"{seed}", encoded(picture(seed)), "a") for seed in range(num)]
    report = curate_source(Listed(items), CurationRules(test_fraction=fraction), new(tmp_path))
    assert report.splits == {"train": num - expected, "test": expected}


def test_the_same_input_gives_the_same_bytes_wherever_it_lies(tmp_path):
    outputs = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        write_folder(tmp_path / place / "photos", 12)
        for path in (tmp_path / place / "photos").iterdir():
            os.utime(path, (len(place), 7))
        outputs.append(new(tmp_path, f"out-{place}"))
        curate(str(tmp_path / place / "photos"), RULES, outputs[-1])
    first, second = ({path.name: path.read_bytes() for path in output.iterdir()} for output in outputs)
    assert first == second
    tables = {"decisions.parquet", "measurements.parquet", "shard-00000.parquet"}
    assert set(first) == {"curation.json", "report.html", *tables}


def test_pixels_are_the_decoded_and_fitted_originals(curated_folder):
    _, dataset = curated_folder
    pixels = dataset.pixels("train")
    assert pixels.shape == (dataset.num("train"), 32, 32, 3)
    for name, shown in zip(dataset.ids("train")[:5], pixels, strict=False):
        assert np.array_equal(shown, fit(decode(encoded(picture(int(name[:3])))), 32))
    assert np.array_equal(dataset.pixels("train", limit=3), pixels[:3])


def test_columns_of_a_split_belong_together(curated_scenes):
    _, dataset = curated_scenes
    samples = {item.id: item for item in open_source(SCENES) if isinstance(item, RawSample)}
    for split in ("train", "test"):
        rows = zip(
            dataset.ids(split),
            dataset.captions(split),
            dataset.scenes(split),
            dataset.pixels(split),
            strict=True,
        )
        for name, captions, scene, pixels in rows:
            assert captions == list(samples[name].captions)
            assert scene == samples[name].scene
            assert np.array_equal(pixels, decode(samples[name].image))


def test_the_record_and_the_report_say_the_same(curated_folder):
    report, dataset = curated_folder
    record = json.loads((dataset.directory / "curation.json").read_text())
    for name in ("seen", "kept", "dropped", "splits", "skipped_rules", "num_refused", "data"):
        assert record[name] == getattr(report, name)
    assert CurationRules(**record["rules"]) == RULES
    assert len(record["refused"]) == report.num_refused


def test_the_list_of_refused_is_bounded_and_rare_reasons_come_first(tmp_path):
    items = [sample(f"{i:03d}", b"no image", "a") for i in range(300)] + [
        sample("last", b"", "a"),
        sample("ok", GOOD, "a"),
    ]
    report = curate_source(Listed(items), RULES, new(tmp_path))
    assert (len(report.refused), report.num_refused) == (200, 301)
    assert report.refused[0].path == "last"


def test_progress_ends_at_the_total(tmp_path):
    calls = []
    curate(SCENES, RULES, new(tmp_path), progress=lambda *call: calls.append(call))
    assert calls[-1][:2] == (120, 120)


def test_nothing_usable_is_one_sentence_and_leaves_no_spool(tmp_path):
    output = new(tmp_path)
    with pytest.raises(InputError, match="none of the 2 images can be used"):
        curate_source(Listed([sample("a", b"", "a"), sample("b", b"x", "a")]), RULES, output)
    assert not list(output.glob(".spool*"))


def test_problems_beside_the_images_are_counted_apart(tmp_path):
    from fluxmodel.data.records import Reason

    row = UnreadableFile(
        "metadata.csv:3", "metadata.csv", Reason.BAD_METADATA_ROW, "line 3: ...", is_image=False
    )
    gone = UnreadableFile("b.png", "b.png", Reason.UNREADABLE, "Permission denied")
    report = curate_source(Listed([sample("a", GOOD, "a"), gone, row]), RULES, new(tmp_path))
    assert (report.seen, report.kept, report.dropped) == (2, 1, {"unreadable": 1})
    assert report.problems == {"bad_metadata_row": 1}
    assert report.num_refused == 2


@pytest.mark.parametrize(
    "values", [{"image_size": 0}, {"max_aspect": 0.5}, {"unknown": 1}, {"test_fraction": 1.0}]
)
def test_rules_refuse_what_makes_no_sense(values):
    with pytest.raises(ValidationError):
        CurationRules(**values)


@pytest.mark.parametrize("damage", ["no record", "no shard", "damaged shard"])
def test_a_damaged_dataset_is_said_to_be_one(tmp_path, damage):
    output = new(tmp_path)
    curate_source(Listed([sample("a", GOOD, "a")]), RULES, output)
    if damage == "no record":
        (output / "curation.json").unlink()
    elif damage == "no shard":
        (output / "shard-00000.parquet").unlink()
    else:
        (output / "shard-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match="curate the data again"):
        CuratedDataset(output).num("train")


def test_the_shards_are_images_to_datasets(curated_folder):
    _, dataset = curated_folder
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_parquet(
        str(dataset.directory / "shard-00000.parquet"), cache_dir=str(dataset.directory / "..")
    )
    assert table.features["image"] == datasets.Image()
    assert table[0]["image"].size == (80, 64)
    assert table[0]["captions"][0]["kind"] == "given"


def test_the_page_asks_for_nothing_outside_and_names_every_refused_file(tmp_path):
    items = [sample(f"bad-{reason}<b>", data, *texts) for reason, (data, texts) in BAD_FILES.items()]
    report = curate_source(Listed([sample("a", GOOD, "<script>good</script>"), *items]), RULES, new(tmp_path))
    page = report.report.read_text()
    assert all(f"bad-{reason}&lt;b&gt;" in page for reason in BAD_FILES)
    assert "<script" not in page
    assert all(part.startswith("data:image/webp") for part in page.split('src="')[1:])
    assert "http" not in page


def test_the_page_is_shown_by_a_browser(tmp_path, chromium):
    items = [sample(f"bad-{reason}", data, *texts) for reason, (data, texts) in BAD_FILES.items()]
    report = curate_source(Listed([sample("a", GOOD, "good"), *items]), RULES, new(tmp_path))
    shot = tmp_path / "page.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    place = [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}", "--window-size=1200,1600"]
    command = [str(chromium), *options, *place, report.report.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = decode(shot.read_bytes())
    assert pixels.shape == (1600, 1200, 3)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100


def test_a_split_that_leaves_nothing_to_train_on_is_one_sentence(tmp_path):
    items = [sample(f"{seed}", encoded(picture(seed)), "a caption") for seed in range(2)]
    failing = []
    for seed in range(12):
        output, rules = new(tmp_path, f"{seed}"), CurationRules(test_fraction=0.5, seed=seed)
        try:
            assert curate_source(Listed(items), rules, output).splits["train"] > 0
        except InputError:
            failing.append(rules)
            assert not (output / "curation.json").exists()
    assert 0 < len(failing) < 12
    with pytest.raises(InputError, match=r"all 2 kept images are held out by rules.test_fraction 0.5"):
        curate_source(Listed(items), failing[0], new(tmp_path))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is full from the beginning")
@pytest.mark.parametrize("name", [".spool.arrow", "measurements.parquet", "decisions.parquet"])
def test_a_full_disk_is_one_sentence(tmp_path, name):
    output = new(tmp_path)
    (output / name).symlink_to("/dev/full")
    with pytest.raises(StageError, match=rf"{output}: .*No space left on device.*free some"):
        curate(SCENES, RULES, output)
    assert not (output / ".spool.arrow").exists()
    with pytest.raises(ArtifactError):
        CuratedDataset(output)


@pytest.mark.parametrize("name", ["shard-00000.parquet", "curation.json", "report.html"])
def test_a_disk_that_fills_while_the_data_set_is_written_leaves_none(tmp_path, name, monkeypatch):
    output = new(tmp_path)
    if os.path.exists("/dev/full") and name.startswith("shard"):
        (output / name).symlink_to("/dev/full")
    else:
        whole = Path.write_text

        def full(self, text, *given, **more):
            if self.name.startswith(name):
                whole(self, text[: len(text) // 2], *given, **more)
                raise OSError(errno.ENOSPC, "No space left on device")
            return whole(self, text, *given, **more)

        monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StageError, match=f"{output}: .*No space left on device"):
        curate(SCENES, RULES, output)
    assert not (output / "curation.json").exists()


def test_a_record_is_never_half_written(tmp_path, monkeypatch):
    output = new(tmp_path)

    def die(self, *_, **__):
        assert not (output / "curation.json").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        curate(SCENES, RULES, output)
    assert not (output / "curation.json").exists()


CHILD = """
import sys
from pathlib import Path
from fluxmodel.data.curation import CurationRules, curate

folder, output, cache = map(Path, sys.argv[1:])
curate(str(folder), CurationRules(), output, lambda done, *_: print(done, flush=True), cache)
"""


def test_killed_in_the_middle_it_decodes_nothing_again_that_it_kept_and_ends_as_if_undisturbed(tmp_path):
    """kill -9 leaves no more than what was not flushed yet; no byte of the dataset tells of it."""
    folder, cache, changes = tmp_path / "in", tmp_path / "cache", tmp_path / "changes.json"
    outputs = [tmp_path / name for name in ("killed", "after", "undisturbed")]
    for each in (folder, *outputs):
        each.mkdir()
    for seed in range(1600):
        (folder / f"{seed:04}.png").write_bytes(encoded(picture(seed, 24, 16)))
        (folder / f"{seed:04}.txt").write_text(f"picture {seed}")
    command = [sys.executable, "-c", CHILD, str(folder), str(outputs[0]), str(cache)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        while int(child.stdout.readline()) < 1280:
            pass
        child.kill()
    assert not (outputs[0] / "curation.json").exists()
    curate(str(folder), CurationRules(), outputs[1], cache=cache, changes=changes)
    num_decoded = int(json.loads(changes.read_text())["sentence"].split()[0])
    assert 0 < num_decoded <= 1600 - 1024
    curate(str(folder), CurationRules(), outputs[2])
    for path in sorted(outputs[2].iterdir()):
        assert path.read_bytes() == (outputs[1] / path.name).read_bytes(), path.name
