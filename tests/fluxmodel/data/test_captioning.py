"""Re-captioning a dataset: all captions kept, the truth kept out, flags, and the same bytes again."""

import json

import pytest
import torch
from PIL import Image

from fluxmodel.data import decode
from fluxmodel.data.caption_flags import EMPTY, LOW_SCORE, UNPARSABLE
from fluxmodel.data.caption_rows import CaptionRow, read_rows, trainable_captions, write_rows
from fluxmodel.data.captioning import CaptionSettings, caption_dataset, caption_shard
from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.data.curation import curate
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.procedural import Scene, detailed_caption
from fluxmodel.encoders.captioner import Captioner, CaptionerConfig, Written
from fluxmodel.encoders.tokens import build_tokenizer
from fluxmodel.errors import ArtifactError, InputError

SETTINGS = CaptionSettings(num_held_out=6, batch_size=10)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    directory = tmp_path_factory.mktemp("scenes")
    curate("procedural:shapes?level=demo&n=30&seed=0", CurationRules(test_fraction=0.4), directory)
    return directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    images, directory = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("folder")
    generator = torch.Generator().manual_seed(0)
    for i in range(6):
        pixels = torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(images / f"{i}.png")
        (images / f"{i}.txt").write_text(f"a photo of thing {i}")
    curate(str(images), CurationRules(test_fraction=0.3), directory)
    return directory


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    directory = tmp_path_factory.mktemp("captioner")
    torch.manual_seed(0)
    config = CaptionerConfig(
        image_size=16, patch_size=8, width=16, image_layers=1, text_layers=1, num_heads=2, max_tokens=8
    )
    Captioner.create(config, build_tokenizer(["a red circle top left on white"], 8)).save(directory)
    return directory


@pytest.fixture
def oracle(scenes, monkeypatch):
    """A captioner that knows the images of `scenes` by their pixels, but for two which it gets wrong."""
    source = CuratedDataset(scenes)
    known = {}
    for split in ("train", "test"):
        for image, scene in zip(source.pixels(split), source.scenes(split), strict=True):
            assert scene is not None
            known[image.tobytes()] = Written(detailed_caption(Scene.from_json(scene)), -0.001, 14)
    first, second = source.pixels("train")[:2]
    known[first.tobytes()] = Written("two dogs", -0.3, 3)
    known[second.tobytes()] = Written("", -0.4, 1)
    nothing = Written("a red circle top left on white", -0.2, 8)

    def caption(self, images, batch_size=500):
        return [known.get(i.permute(1, 2, 0).numpy().tobytes(), nothing) for i in images]

    monkeypatch.setattr(Captioner, "caption", caption)


def captioned(dataset, captioner, output, **changes):
    output.mkdir(exist_ok=True)
    metrics = caption_dataset(dataset, captioner, output, SETTINGS.model_copy(update=changes))
    return metrics, json.loads((output / "captions.json").read_text())


def test_everything_is_kept_with_its_provenance_except_the_truth(scenes, captioner, oracle, tmp_path):
    captioned(scenes, captioner, tmp_path)
    source, rows = CuratedDataset(scenes), read_rows(tmp_path)
    for split in ("train", "test"):
        for own, captions in zip(source.ids(split), source.captions(split), strict=True):
            mine = [row for row in rows if row.id == own]
            assert {row.split for row in mine} == {split}
            assert [r.text for r in mine if r.kind == "alt"] == [c.text for c in captions if c.kind == "alt"]
    written = [row for row in rows if row.kind in ("detailed", "short")]
    assert all(row.model and row.revision and row.prompt_hash and row.score is not None for row in written)
    assert {row.model for row in rows if row.kind == "detailed"} == {"blip"}
    assert {row.model for row in rows if row.kind == "short"} == {"blip+derived"}
    assert {row.model for row in rows if row.kind == "alt"} == {None}


def test_the_truth_never_gets_through(scenes, captioner, tmp_path):
    captioned(scenes, captioner, tmp_path)  # an untrained captioner: not one caption is right
    source, rows = CuratedDataset(scenes), read_rows(tmp_path)
    truth = {c.text for s in ("train", "test") for own in source.captions(s) for c in own if c.kind != "alt"}
    assert truth
    assert not truth & {row.text for row in rows}


def test_what_cannot_be_read_is_kept_flagged_and_not_learned_from(scenes, captioner, oracle, tmp_path):
    metrics, report = captioned(scenes, captioner, tmp_path)
    ids = CuratedDataset(scenes).ids("train")
    rows = read_rows(tmp_path, "train")
    flags = {row.id: row.flags for row in rows if row.kind == "detailed"}
    assert flags[ids[0]] == (UNPARSABLE, LOW_SCORE)
    assert flags[ids[1]] == (EMPTY, LOW_SCORE)
    assert {flags[i] for i in ids[2:]} == {()}
    assert report["flags"] == {UNPARSABLE: 1, EMPTY: 1, LOW_SCORE: 2}
    assert metrics["flagged"] == pytest.approx(2 / 30)
    learned = trainable_captions(rows, ids)
    assert [[r.kind for r in own] for own in learned[:3]] == [["alt"], ["alt"], ["alt", "detailed", "short"]]


def test_scores_cover_the_test_split_and_unseen_pairs_for_captioner_and_alt_text(
    scenes, captioner, oracle, tmp_path
):
    metrics, report = captioned(scenes, captioner, tmp_path)
    assert metrics["test_f1"] == metrics["test_exact"] == 1
    assert metrics["unseen_f1"] < 1
    assert 0 < metrics["alt_f1"] < metrics["f1"] < 1
    assert [row["attribute"] for row in report["errors"]] == [
        "presence", "shape", "color", "size", "place", "background",
    ]  # fmt: skip
    assert json.loads((tmp_path / "card.json").read_text())["metrics"] == metrics
    shown = report["examples"]
    assert len(shown) == min(10, CuratedDataset(scenes).num("test"))
    assert all(e["image"].startswith("data:image/png;base64,") and e["new"] == e["truth"] for e in shown)


def test_captioning_again_gives_the_same_bytes(scenes, captioner, tmp_path):
    for name in ("a", "b"):
        captioned(scenes, captioner, tmp_path / name)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("a", "b"))
    assert first == second


def test_a_folder_without_captioner_keeps_its_given_captions_and_says_why(folder, tmp_path):
    metrics, report = captioned(folder, None, tmp_path)
    rows = read_rows(tmp_path)
    assert sorted(row.text for row in rows) == [f"a photo of thing {i}" for i in range(6)]
    assert {row.kind for row in rows} == {"given"}
    assert report["provenance"]["captioner"] is None
    assert "no captioner" in report["provenance"]["reason"]
    assert metrics["num_captioned"] == 0


def test_a_folder_captioned_again_decodes_nothing(folder, captioner, tmp_path, monkeypatch):
    caption_dataset(folder, captioner, make(tmp_path / "first"), SETTINGS, cache=tmp_path / "cache")
    monkeypatch.setattr(decode, "decode", lambda *_: pytest.fail("an image was decoded again"))
    caption_dataset(folder, captioner, make(tmp_path / "second"), SETTINGS, cache=tmp_path / "cache")
    for name in ("captions.parquet", "captions.json", "captions.html"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def make(directory):
    directory.mkdir()
    return directory


def test_a_folder_is_captioned_by_a_model_of_the_users_own(folder, captioner, tmp_path):
    metrics, report = captioned(folder, captioner, tmp_path, low_score=-100.0)
    kinds = {row.kind for row in read_rows(tmp_path)}
    assert kinds == {
        "given",
        "detailed",
    }  # no grammar is known, so nothing is shortened and nothing unparsable
    assert metrics["num_captioned"] == 6
    assert UNPARSABLE not in report["flags"]
    assert "f1" not in metrics
    assert all(e["truth"] is None and e["original"].startswith("a photo") for e in report["examples"])


@pytest.mark.parametrize("num_shards", [1, 3, 9])
def test_shards_give_the_same_bytes_as_one_process(scenes, captioner, tmp_path, num_shards):
    captioned(scenes, captioner, tmp_path / "whole", batch_size=4)
    settings = SETTINGS.model_copy(update={"batch_size": 4})
    places = [tmp_path / str(number) for number in range(num_shards)]
    for number, place in enumerate(places):
        place.mkdir()
        caption_shard(scenes, captioner, place, number, num_shards, settings)
    (tmp_path / "merged").mkdir()
    caption_dataset(scenes, captioner, tmp_path / "merged", settings, shards=places)
    for name in ("captions.parquet", "captions.json", "card.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    if num_shards > 1:
        with pytest.raises(ArtifactError, match="The shards hold 0 captions of batch 1, which has 4 images"):
            caption_dataset(scenes, captioner, tmp_path, settings, shards=places[:1])
    with pytest.raises(ArtifactError, match="no shard of captions there"):
        caption_dataset(scenes, captioner, tmp_path, settings, shards=[tmp_path])


def test_progress_counts_every_image(scenes, captioner, oracle, tmp_path):
    told = []
    caption_dataset(scenes, captioner, tmp_path, SETTINGS, lambda *report: told.append(report[:2]))
    assert told[-1] == (36, 36)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_bad_input_is_refused_by_name(scenes, tmp_path):
    with pytest.raises(InputError, match=r"no config\.json there"):
        caption_dataset(scenes, tmp_path / "nothing", tmp_path)
    with pytest.raises(ArtifactError, match="caption again"):
        read_rows(tmp_path)
    with pytest.raises(ArtifactError, match="no curated dataset"):
        caption_dataset(tmp_path, None, tmp_path)


def test_rows_come_back_as_they_were(tmp_path):
    rows = [
        CaptionRow("1", "train", "a dog", "detailed", "llava", "abc", "def", 3, -0.25, (LOW_SCORE,)),
        CaptionRow("2", "test", "ein Hund", "given"),
    ]
    write_rows(rows, tmp_path / "captions.parquet")
    assert read_rows(tmp_path) == rows
    assert read_rows(tmp_path, "test") == rows[1:]
