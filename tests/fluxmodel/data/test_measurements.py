"""Measuring apart from deciding: a threshold needs no decode, what is known by content is not measured again."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFilter

from fluxmodel.data import image_measures, measurement_pass
from fluxmodel.data.curation import CuratedDataset, CurationRules, curate, curate_source
from fluxmodel.data.curation_rules import RULE_PRESETS, choose_rules
from fluxmodel.data.decisions import decide, skipped_rules
from fluxmodel.data.image_measures import ImageMeasures, luminance_measures, measure
from fluxmodel.data.measurements import MODEL_COLUMNS, measurement_schema, numbers, read_measurements
from fluxmodel.data.records import Caption, RawSample, Reason, UnreadableFile
from fluxmodel.data.spool import Spool
from fluxmodel.data.thresholds import THRESHOLDS
from fluxmodel.errors import ArtifactError, InputError
from tests.fluxmodel.data.pictures import Listed, encoded, picture
from tests.kit import run_python

RULES = CurationRules()
LARGE = {"width": 400, "height": 320}


def sample(name, image, *texts) -> RawSample:
    return RawSample(name, image, "listed", captions=tuple(Caption(t, "given") for t in texts), path=name)


def new(place, name="out"):
    (place / name).mkdir()
    return place / name


def write_folder(root, seeds):
    root.mkdir()
    for seed in seeds:
        (root / f"{seed:03d}.png").write_bytes(encoded(picture(seed)))
        (root / f"{seed:03d}.txt").write_text(f"picture number {seed}")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    items = [sample(f"{seed:02d}", encoded(picture(seed)), "a b c", "d") for seed in range(12)]
    items += [
        sample("copy", encoded(picture(0), "JPEG"), "a copy"),
        sample("same", encoded(picture(1), "BMP"), "the same"),
        sample("bad", b"<html>", "a"),
        sample("00", encoded(picture(30)), "the same id"),
        sample("silent", encoded(picture(31))),
        sample("signs", encoded(picture(32)), "a\x00b", " "),
        UnreadableFile("gone", "gone.png", Reason.UNREADABLE, "Permission denied"),
    ]
    output = tmp_path_factory.mktemp("mixed")
    return curate_source(Listed(items), RULES, output), output


# Measures


def test_each_measure_moves_as_its_name_says():
    plain, dark = picture(0, **LARGE), (picture(0, **LARGE) * 0.1).astype(np.uint8)
    blurred = np.asarray(Image.fromarray(plain).filter(ImageFilter.GaussianBlur(4)))
    flat = np.full((50, 50, 3), 200, np.uint8)
    found = {name: luminance_measures(p) for name, p in locals().items() if isinstance(p, np.ndarray)}
    assert found["blurred"]["sharpness"] < found["plain"]["sharpness"] / 5
    assert found["dark"]["brightness"] == pytest.approx(found["plain"]["brightness"] / 10, abs=0.01)
    assert found["dark"]["contrast"] < found["plain"]["contrast"] / 5
    assert found["flat"] == {"sharpness": 0, "brightness": np.float32(200 / 255), "contrast": 0, "entropy": 0}


def test_measures_of_known_images_have_their_known_values():
    checker = np.indices((64, 64)).sum(0) % 2 * 255
    found = luminance_measures(np.repeat(checker[..., None], 3, 2).astype(np.uint8))
    assert found["sharpness"] == pytest.approx(1020**2)  # the Laplacian is 4 x 255 of either sign
    assert (found["contrast"], found["entropy"]) == (0.5, 1.0)
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2).repeat(4, 0)
    assert luminance_measures(ramp)["entropy"] == pytest.approx(8.0)
    assert luminance_measures(np.zeros((1, 1, 3), np.uint8))["sharpness"] == 0


def test_sharpness_hardly_depends_on_the_size_above_the_canonical_one():
    found = [luminance_measures(picture(3, side, side))["sharpness"] for side in (512, 768, 1536)]
    assert max(found) < 1.25 * min(found)


@pytest.mark.parametrize("data", [encoded(picture(0)), b"", b"<html>"])
def test_measures_survive_the_way_through_the_cache(data):
    found = measure(data, "ab" * 32, 10**6)
    assert ImageMeasures.from_bytes(found.to_bytes(10_000_000), 10_000_000) == found
    assert ImageMeasures.from_bytes(b"{}", 1) is None
    assert ImageMeasures.from_bytes(found.to_bytes(10_000_000)[:-9], 10_000_000) is None


def test_the_recipe_holds_all_code_that_measures():
    code = "import sys, fluxmodel.data.image_measures\nprint(*sys.modules)"
    modules = run_python("-c", code).stdout.split()
    loaded = {name.rsplit(".", 1)[-1] for name in modules if name.startswith("fluxmodel.data.")}
    assert {"decode", "perceptual_hash"} < loaded <= image_measures.sources().keys()


# The table


def test_every_item_has_its_row_in_order(mixed):
    report, output = mixed
    table = read_measurements(output)
    assert table.schema.equals(measurement_schema())
    assert table.num_rows == report.seen == report.kept + sum(report.dropped.values()) == 19
    assert table["id"].to_pylist()[-3:] == ["silent", "signs", "gone"]
    refusals = dict(zip(table["id"].to_pylist(), table["refusal"].to_pylist(), strict=True))
    assert (refusals["bad"], refusals["gone"], refusals["signs"]) == ("not_an_image", "unreadable", None)
    assert table["caption_words"].to_pylist()[0] == [3, 1]
    assert table["caption_refusals"].to_pylist()[-2] == ["control_characters", "empty_caption"]
    words = numbers(table, "caption_words")
    assert words[0] == 3
    assert np.isnan(words[-2:]).all()


def test_decisions_follow_from_the_table_alone(mixed):
    report, output = mixed
    decisions = decide(read_measurements(output), RULES, report.skipped_rules)
    assert int(decisions.kept.sum()) == report.kept
    rows = pq.read_table(output / "decisions.parquet").to_pylist()
    logged = {(row["id"], row["rule"]): row["passed"] for row in rows if row["id"] != "00"}
    for place, name in enumerate(read_measurements(output, ["id"])["id"].to_pylist()):
        for rule in decisions.rules:
            if name != "00":
                said = {1: True, 0: False, -1: None}[int(decisions.passed[rule][place])]
                assert logged[name, rule] is said
    names = read_measurements(output, ["id"])["id"].to_pylist()
    assert names[decisions.survivor[names.index("same")]] in ("01", "same")


def test_the_captions_of_a_shard_are_the_usable_ones(tmp_path):
    items = [
        sample(f"{seed}", encoded(picture(seed)), "one", "two words  here", "a\x00b", "x " * 90)
        for seed in range(5)
    ]
    rules = CurationRules(test_fraction=0, min_caption_words=2)
    curate_source(Listed([sample("none", encoded(picture(9)), "one"), *items]), rules, new(tmp_path))
    captions = CuratedDataset(tmp_path / "out").captions("train")
    assert captions == [[Caption("two words here", "given")]] * 5


def test_names_that_no_utf8_can_hold_are_written_out(tmp_path):
    items = [sample("caf\udce9.png", encoded(picture(0)), "ok", "lone \ud800"), sample("b", b"", "b")]
    report = curate_source(Listed(items), RULES, new(tmp_path))
    assert report.kept == 1
    assert CuratedDataset(tmp_path / "out").ids("train") == ["caf\\udce9.png"]


def test_damaged_measurements_are_said_to_be(tmp_path):
    (tmp_path / "measurements.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match="curate the data again"):
        read_measurements(tmp_path)


# Thresholds


@pytest.mark.parametrize("threshold", [t for t in THRESHOLDS if t.rule != "caption"], ids=lambda t: t.field)
def test_a_threshold_drops_exactly_what_lies_beyond_it(mixed, threshold):
    table = read_measurements(mixed[1])
    if threshold.column in MODEL_COLUMNS:
        scores = pa.array(np.linspace(0, 1, table.num_rows), pa.float32())
        table = table.set_column(table.schema.get_field_index(threshold.column), threshold.column, scores)
    values = numbers(table, threshold.column)
    limit = float(np.nanmedian(values))
    limit = int(limit) if threshold.field == "min_side" else limit
    rules = RULES.model_copy(update={threshold.field: limit})
    decisions = decide(table, rules, skipped_rules(rules, False, MODEL_COLUMNS))
    beyond = values < limit if threshold.side == "min" else values > limit
    assert (decisions.passed[threshold.rule] == np.where(np.isnan(values), -1, ~beyond)).all()
    assert not decisions.kept[beyond].any()


def test_every_preset_of_rules_is_valid_and_drops_what_it_is_for():
    plain = picture(0, **LARGE)
    blurred = np.asarray(Image.fromarray(plain).filter(ImageFilter.GaussianBlur(8)))
    for preset in RULE_PRESETS:
        choose_rules({}, preset, {})
    rules = choose_rules({}, "photos", {})
    assert rules.min_sharpness
    assert rules.min_entropy
    assert (
        luminance_measures(plain)["sharpness"]
        > rules.min_sharpness
        > luminance_measures(blurred)["sharpness"]
    )
    assert luminance_measures(plain)["entropy"] > rules.min_entropy
    assert choose_rules({}, "photos", {"min-sharpness": -1, "min_side": 9}).min_sharpness is None
    assert choose_rules({"image_size": 64}, "procedural", {}) == CurationRules(image_size=64)


@pytest.mark.parametrize(
    ("preset", "changed", "said"),
    [
        ("paintings", {}, "rules-preset is 'paintings'; choose one of procedural, photos, web"),
        ("", {"min-sharpnes": 1}, "rules.min-sharpnes is no rule"),
        ("", {"image_size": 64}, "rules.image_size is no rule"),
        ("", {"min_entropy": 9}, "rules.min_entropy is 9; give a number less than or equal to 8"),
        ("", {"max_aspect": float("inf")}, "rules.max_aspect is inf; give a finite number"),
        ("", {"min_side": 0}, "rules.min_side is 0"),
        ("photos", {"max_brightness": 0.01}, "lower the first or raise the second"),
        ("", {"max_caption_words": 2, "min_caption_words": 3}, "no caption is both"),
    ],
)
def test_rules_that_make_no_sense_are_one_sentence(preset, changed, said):
    with pytest.raises(InputError, match=said):
        choose_rules({}, preset, changed)


def test_a_rule_without_its_model_is_skipped_with_a_reason_and_drops_nothing(tmp_path):
    rules = CurationRules(min_agreement=0.3, max_watermark=0.1)
    items = [sample(f"{seed}", encoded(picture(seed)), "a") for seed in range(3)]
    report = curate_source(Listed(items), rules, new(tmp_path))
    assert report.kept == 3
    assert report.skipped_rules["min_agreement"] == "there is no model that measures agreement"
    assert report.skipped_rules["max_watermark"] == "there is no model that measures watermark"
    assert "min_agreement" not in pq.read_table(tmp_path / "out" / "decisions.parquet")["rule"].to_pylist()


# The cache


def test_a_new_threshold_needs_no_decoding(tmp_path, monkeypatch):
    write_folder(tmp_path / "photos", range(8))
    cache = tmp_path / "cache"
    first = curate(str(tmp_path / "photos"), RULES, new(tmp_path, "one"), cache=cache)

    def refuse(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(measurement_pass, "measure", refuse)
    monkeypatch.setattr(image_measures, "decode", refuse)
    sharpness = sorted(numbers(read_measurements(tmp_path / "one"), "sharpness"))
    rules = CurationRules(min_sharpness=sharpness[3])
    second = curate(str(tmp_path / "photos"), rules, new(tmp_path, "two"), cache=cache)
    assert (first.kept, second.kept, second.dropped) == (8, 5, {"blurred": 3})
    with pytest.raises(AssertionError, match="decoded"):
        curate(str(tmp_path / "photos"), rules, new(tmp_path, "three"))


def test_the_dataset_is_the_same_with_and_without_the_cache(tmp_path):
    write_folder(tmp_path / "photos", range(8))
    outputs = []
    for place, cache in (("cold", "cache"), ("warm", "cache"), ("without", None)):
        outputs.append(new(tmp_path, place))
        curate(str(tmp_path / "photos"), RULES, outputs[-1], cache=cache and tmp_path / cache)
    cold, warm, without = ({path.name: path.read_bytes() for path in each.iterdir()} for each in outputs)
    assert cold == warm == without


def test_exactly_what_changed_is_measured_again_and_named(tmp_path):
    photos, cache, told = tmp_path / "photos", tmp_path / "cache", tmp_path / "changes.json"
    write_folder(photos, range(20))

    def again(name):
        curate(str(photos), RULES, new(tmp_path, name), cache=cache, changes=told)
        return json.loads(told.read_text())

    assert again("first") | {"sentence": ""} == {
        "num_decoded": 20, "is_first": True, "counts": {}, "names": {}, "sentence": "",
    }  # fmt: skip
    assert again("same")["sentence"] == "0 decoded; the source is as it was"
    (photos / "003.png").write_bytes(encoded(picture(103)))
    (photos / "007.txt").write_text("other words")
    (photos / "019.png").unlink()
    (photos / "019.txt").unlink()
    for seed in range(30, 40):
        (photos / f"{seed:03d}.png").write_bytes(encoded(picture(seed)))
        (photos / f"{seed:03d}.txt").write_text("new")
    found = again("changed")
    assert found["num_decoded"] == 11
    assert found["counts"] == {"new": 10, "replaced": 1, "caption changed": 1, "gone": 1}
    assert found["names"]["replaced"] == ["003.png"]
    assert found["names"]["caption changed"] == ["007.png"]
    assert found["names"]["gone"] == ["019.png"]
    assert "1 replaced (003.png)" in found["sentence"]


def test_a_curation_cut_off_goes_on_without_decoding_again(tmp_path, monkeypatch):
    monkeypatch.setattr(measurement_pass, "_FLUSH_EVERY", 4)
    items = [sample(f"{seed:02d}", encoded(picture(seed)), "a") for seed in range(12)]

    class CutOff(Listed):
        def __iter__(self):
            yield from self.items[:9]
            raise KeyboardInterrupt

    told = tmp_path / "changes.json"
    with pytest.raises(KeyboardInterrupt):
        curate_source(CutOff(items), RULES, new(tmp_path, "cut"), cache=tmp_path / "cache", changes=told)
    assert not told.exists()
    assert not list((tmp_path / "cut").glob(".spool*"))
    curate_source(Listed(items), RULES, new(tmp_path, "whole"), cache=tmp_path / "cache", changes=told)
    found = json.loads(told.read_text())
    assert found["num_decoded"] <= 12 - 8
    assert found["is_first"]


def test_a_lower_limit_of_pixels_refuses_what_the_cache_knows(tmp_path):
    items = [
        sample("big", encoded(picture(0, 90, 90)), "a"),
        sample("small", encoded(picture(1, 40, 40)), "a"),
    ]
    reports = [
        curate_source(
            Listed(items), CurationRules(max_pixels=most), new(tmp_path, str(turn)), cache=tmp_path / "c"
        )
        for turn, most in enumerate((10_000, 5_000, 10_000))
    ]
    assert [report.dropped for report in reports] == [{}, {"too_large": 1}, {}]


def test_a_refusal_is_looked_at_again_under_a_lower_limit_of_pixels(tmp_path):
    items = [
        sample("cut", encoded(picture(0, 90, 90))[:-400], "a"),
        sample("whole", encoded(picture(1, 20, 20)), "a"),
    ]
    told = {}
    for cache in ("warm", "warm", "fresh"):
        for most in (10_000, 5_000):
            output = new(tmp_path, f"{len(told)}{cache}{most}")
            report = curate_source(
                Listed(items),
                CurationRules(max_pixels=most),
                output,
                cache=tmp_path / f"{cache}{len(told) > 2}",
            )
            told[output.name] = report.dropped
    assert [list(each) for each in told.values()] == [["truncated"], ["too_large"]] * 3


def test_an_image_there_was_no_memory_for_is_looked_at_again(tmp_path, monkeypatch):
    items = [sample("a", encoded(picture(0)), "a"), sample("b", encoded(picture(1)), "b")]
    full, reports = {"yes": True}, []
    honest = image_measures.decode

    def decode_or_fail(data, max_pixels):
        if full["yes"] and data == items[0].image:
            raise MemoryError
        return honest(data, max_pixels)

    monkeypatch.setattr(image_measures, "decode", decode_or_fail)
    for turn in range(2):
        reports.append(
            curate_source(Listed(items), RULES, new(tmp_path, str(turn)), cache=tmp_path / "cache")
        )
        full["yes"] = False
    assert [(each.kept, each.dropped) for each in reports] == [(1, {"out_of_memory": 1}), (2, {})]


def test_an_id_given_twice_is_not_told_as_replaced(tmp_path):
    items = [sample("x", encoded(picture(0)), "a"), sample("x", encoded(picture(1)), "b")]
    told = tmp_path / "changes.json"
    for turn in range(2):
        curate_source(Listed(items), RULES, new(tmp_path, str(turn)), cache=tmp_path / "cache", changes=told)
    assert json.loads(told.read_text())["sentence"] == "0 decoded; the source is as it was"


def test_a_ledger_that_cannot_be_written_ends_no_curation(tmp_path, caplog):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "sources").write_text("in the way")
    items = [sample("a", encoded(picture(0)), "a")]
    assert curate_source(Listed(items), RULES, new(tmp_path), cache=tmp_path / "cache").kept == 1
    assert "what is new in the source is not said" in caplog.text


@pytest.mark.parametrize("rule", ["max_brightness", "min_brightness"])
def test_a_measure_that_equals_its_threshold_passes(tmp_path, rule):
    pixels = np.full((20, 20, 3), 250, np.uint8)
    pixels[:2] = 249  # mean 249.9 of 255: exactly 0.98
    output = new(tmp_path)
    curate_source(Listed([sample("a", encoded(pixels), "a")]), RULES, output)
    rules = CurationRules.model_validate({rule: 0.98})
    assert decide(read_measurements(output), rules, skipped_rules(rules, is_procedural=False)).kept.all()


def test_a_spool_on_a_full_disk_is_removed_all_the_same(tmp_path, monkeypatch):
    spool = Spool(tmp_path / "spool")

    class Full:
        def close(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool, "_writer", Full())
    with pytest.raises(OSError, match="No space"):
        spool.remove()
    assert not (tmp_path / "spool").exists()
