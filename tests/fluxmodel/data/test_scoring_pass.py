"""Models that score images: the numbers of transformers itself, kept by content, and what the rules make of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fluxmodel.data import image_scorers, spool
from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.data.curation import curate
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.image_scorers import AgreementScorer, open_scorer
from fluxmodel.data.measurements import numbers, read_measurements
from fluxmodel.data.scoring_models import BATCH, ScoringModel, identify_models
from fluxmodel.encoders.dual_encoder import DualEncoder
from fluxmodel.errors import InputError, StageError
from fluxmodel.pixels import to_signed
from tests.fluxmodel.data.pictures import encoded, picture
from tests.fluxmodel.data.tiny_scorers import save_classifier, save_clip

NUM = 24
LABELS = ("normal", "nsfw")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def safety(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("models") / "safety", LABELS)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(NUM):
        (folder / f"{seed:02}.png").write_bytes(encoded(picture(seed)))
        (folder / f"{seed:02}.txt").write_text(f"a picture of number {seed}")
    (folder / "damaged.png").write_bytes(b"\x89PNG")
    return folder


def models(**given: Path) -> tuple[ScoringModel, ...]:
    found = identify_models({name: str(place) for name, place in given.items()})
    assert found is not None
    return found.models


def run(photos: Path, output: Path, chosen=(), cache=None, **rules):
    output.mkdir()
    return curate(str(photos), CurationRules(**rules), output, cache=cache, models=chosen)


def scores_of(output: Path, column: str) -> dict[str, float]:
    table = read_measurements(output)
    return dict(zip(table["id"].to_pylist(), numbers(table, column).tolist(), strict=True))


def pixels_of(photos: Path, name: str) -> Image.Image:
    return Image.open(photos / name).convert("RGB")


@torch.inference_mode()
def test_a_probability_is_the_one_transformers_itself_gives(safety, photos, tmp_path):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    run(photos, tmp_path / "out", models(safety=safety))
    found = scores_of(tmp_path / "out", "safety")
    network = AutoModelForImageClassification.from_pretrained(safety).eval()
    processor = AutoImageProcessor.from_pretrained(safety)
    for seed in range(NUM):
        name = f"{seed:02}.png"
        logits = network(**processor(images=pixels_of(photos, name), return_tensors="pt")).logits
        assert found[name] == pytest.approx(logits.softmax(1)[0, 0].item(), abs=1e-5)
    assert np.isnan(found["damaged.png"])
    assert np.ptp([value for name, value in found.items() if name != "damaged.png"]) > 0.1


@torch.inference_mode()
def test_labels_that_do_not_exclude_each_other_have_a_sigmoid_and_asked_ones_are_added(tmp_path):
    place = save_classifier(
        tmp_path / "many", ("drawing", "neutral", "porn"), problem="multi_label_classification"
    )
    scorer = open_scorer(models(safety=Path(f"{place}?label=neutral"))[0])
    prepared = [scorer.prepare(picture(3))]
    logits = scorer._network(pixel_values=prepared[0][None]).logits  # type: ignore[attr-defined]
    assert scorer.score(prepared, [""]).tolist() == [pytest.approx(logits.sigmoid()[0, 1].item(), abs=1e-5)]
    save_classifier(tmp_path / "one", ("drawing", "neutral", "porn"))
    scorer = open_scorer(models(safety=Path(f"{tmp_path / 'one'}?label=neutral,drawing"))[0])
    shares = scorer._network(pixel_values=prepared[0][None]).logits.softmax(1)  # type: ignore[attr-defined]
    assert scorer.score(prepared, [""]).tolist() == [pytest.approx(shares[0, :2].sum().item(), abs=1e-5)]


@torch.inference_mode()
def test_agreement_is_the_cosine_of_the_middle_square_and_the_first_caption(clip, photos, tmp_path):
    run(photos, tmp_path / "out", models(agreement=clip))
    found = scores_of(tmp_path / "out", "agreement")
    encoder = DualEncoder.from_directory(clip)
    for seed in (0, 7):
        square = ImageOps.fit(pixels_of(photos, f"{seed:02}.png"), (16, 16), Image.Resampling.BICUBIC)
        seen = encoder.image_embeddings(to_signed(torch.from_numpy(np.array(square))[None]))
        read = encoder.text_embeddings([f"a picture of number {seed}"])
        assert found[f"{seed:02}.png"] == pytest.approx((seen * read).sum().item(), abs=1e-5)


@pytest.mark.parametrize("column", ["agreement", "embedding", "safety"])
def test_a_score_does_not_depend_on_the_images_beside_it(column, clip, safety):
    scorer = open_scorer(models(**{column: safety if column == "safety" else clip})[0])
    prepared = [scorer.prepare(picture(seed)) for seed in range(BATCH)]
    captions = [f"number {seed}" for seed in range(BATCH)]
    together = scorer.score(prepared, captions)
    for some in ([0], [3, 5, 9], list(range(BATCH - 1))):
        alone = scorer.score([prepared[i] for i in some], [captions[i] for i in some])
        assert np.array_equal(alone, together[some])


def test_a_rule_on_a_score_is_asked_and_its_images_are_dropped(safety, photos, tmp_path):
    run(photos, tmp_path / "measured", models(safety=safety))
    found = {
        name: value for name, value in scores_of(tmp_path / "measured", "safety").items() if value == value
    }
    limit = round(float(np.median(list(found.values()))), 6)
    report = run(photos, tmp_path / "ruled", models(safety=safety), min_safety=limit)
    fits = {name for name, value in found.items() if value >= limit}
    assert 0 < len(fits) < NUM
    kept = {
        row["id"]
        for split in ("train", "test")
        for row in CuratedDataset(tmp_path / "ruled").rows(split, ["id"])
    }
    assert kept == fits
    assert report.dropped["unsafe"] == NUM - len(fits)
    assert report.seen == report.kept + sum(report.dropped.values())
    assert "min_safety" not in report.skipped_rules
    assert report.skipped_rules["min_aesthetic"] == "switched off by the rule min_aesthetic"
    record = json.loads((tmp_path / "ruled" / "curation.json").read_text())
    assert record["models"]["safety"]["scored"] == NUM
    assert record["models"]["safety"]["labels"] == ["normal"]
    assert record["models"]["safety"]["failed"] == 0
    [funnel] = [step for step in record["funnel"] if step["rule"] == "min_safety"]
    assert funnel["removed"] == NUM - len(fits)
    for change in next(each for each in record["sensitivity"] if each["field"] == "min_safety")["changes"]:
        if change["value"] is not None and change["kept"] is not None:
            assert change["kept"] == sum(value >= change["value"] for value in found.values())
    page = (tmp_path / "ruled" / "report.html").read_text()
    assert record["models"]["safety"]["revision"] in page
    assert "safety, probability" in page  # its histogram


def test_what_was_scored_is_not_scored_again_and_another_model_is_asked_anew(
    safety, clip, photos, tmp_path, monkeypatch
):
    both = models(safety=safety, agreement=clip)
    run(photos, tmp_path / "first", both, tmp_path / "cache")
    loaded: list[str] = []

    def counted(model):
        loaded.append(model.column)
        return open_scorer(model)

    monkeypatch.setattr(image_scorers, "open_scorer", counted)
    run(photos, tmp_path / "again", both, tmp_path / "cache")
    assert loaded == []
    for path in sorted((tmp_path / "first").iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    moved = shutil.copytree(safety, tmp_path / "moved")
    run(photos, tmp_path / "third", models(safety=moved), tmp_path / "cache")
    assert loaded == []  # the same model in another place
    other = save_classifier(tmp_path / "other", LABELS, seed=1)
    run(photos, tmp_path / "fourth", models(safety=other), tmp_path / "cache")
    assert loaded == ["safety"]


def test_another_caption_is_another_agreement_and_the_same_safety(
    safety, clip, photos, tmp_path, monkeypatch
):
    folder = shutil.copytree(photos, tmp_path / "photos")
    run(folder, tmp_path / "first", models(safety=safety, agreement=clip), tmp_path / "cache")
    (folder / "05.txt").write_text("number 31")
    asked: list[str] = []
    real = AgreementScorer.score
    monkeypatch.setattr(
        AgreementScorer,
        "score",
        lambda self, some, captions: asked.extend(captions) or real(self, some, captions),
    )
    run(folder, tmp_path / "second", models(safety=safety, agreement=clip), tmp_path / "cache")
    assert asked == ["number 31"]


class Blind:
    """Scores 0.9, and cannot look at some images."""

    reads_captions = False

    def __init__(self, unseen: list[np.ndarray]):
        self.unseen = unseen

    def prepare(self, pixels):
        if any(np.array_equal(pixels, each) for each in self.unseen):
            raise ValueError("mean must have 1 elements")
        return torch.zeros(1)

    def score(self, prepared, captions):
        return np.full(len(prepared), 0.9)


def test_an_image_that_cannot_be_scored_is_dropped_where_a_rule_asks_and_kept_where_none_does(
    safety, photos, tmp_path, monkeypatch
):
    unseen = np.asarray(pixels_of(photos, "07.png"))
    monkeypatch.setattr(image_scorers, "open_scorer", lambda _: Blind([unseen]))
    free = run(photos, tmp_path / "free", models(safety=safety))
    assert free.kept == NUM
    assert free.models["safety"]["failed"] == 1
    assert free.models["safety"]["first_failure"] == "07.png: ValueError: mean must have 1 elements"
    ruled = run(photos, tmp_path / "ruled", models(safety=safety), min_safety=0.5)
    assert ruled.kept == NUM - 1
    assert ruled.dropped["not_scored"] == 1
    assert ruled.seen == ruled.kept + sum(ruled.dropped.values())


def test_failures_count_against_all_images_whatever_their_order(safety, photos, tmp_path, monkeypatch):
    """Two bad images at the beginning of two hundred are as many as two at their end."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(200):
        (folder / f"{seed:03}.png").write_bytes(encoded(picture(seed, 24, 16)))
        (folder / f"{seed:03}.txt").write_text(f"picture {seed}")
    monkeypatch.setattr(spool, "_BATCH_IMAGES", 16)
    unseen = [np.asarray(pixels_of(folder, f"{seed:03}.png")) for seed in range(2)]
    monkeypatch.setattr(image_scorers, "open_scorer", lambda _: Blind(unseen))
    assert run(folder, tmp_path / "out", models(safety=safety)).models["safety"]["failed"] == 2


def test_without_memory_for_one_image_the_stage_ends(safety, photos, tmp_path, monkeypatch):
    blind = Blind([])
    monkeypatch.setattr(blind, "score", lambda *_: (_ for _ in ()).throw(MemoryError()))
    monkeypatch.setattr(image_scorers, "open_scorer", lambda _: blind)
    with pytest.raises(StageError, match="no memory to score a single image"):
        run(photos, tmp_path / "out", models(safety=safety))


def test_a_model_that_fails_on_many_or_gives_no_number_ends_the_stage(safety, photos, tmp_path, monkeypatch):
    unseen = [np.asarray(pixels_of(photos, f"{seed:02}.png")) for seed in range(3)]
    monkeypatch.setattr(image_scorers, "open_scorer", lambda _: Blind(unseen))
    with pytest.raises(
        StageError, match=r"models\.safety failed on 3 images, 1 may fail \(the first: 00\.png: ValueError"
    ):
        run(photos, tmp_path / "many", models(safety=safety))
    blind = Blind([])
    monkeypatch.setattr(blind, "score", lambda some, _: np.full(len(some), np.nan))
    monkeypatch.setattr(image_scorers, "open_scorer", lambda _: blind)
    with pytest.raises(StageError, match=r"models\.safety gives image '00\.png' the score nan"):
        run(photos, tmp_path / "nan", models(safety=safety))


def test_a_model_that_cannot_do_it_is_refused_before_the_run(clip, safety, tmp_path):
    def refused(**given: object) -> str:
        with pytest.raises(InputError) as caught:
            identify_models({name: str(place) for name, place in given.items()})
        return str(caught.value)

    assert identify_models({}) is None
    assert "models.beauty is no measure that a model makes; there are agreement" in refused(beauty=clip)
    assert "no config.json can be read there" in refused(safety=tmp_path / "nowhere")
    assert "type 'vit'; name a CLIP" in refused(agreement=safety)
    assert "has no id2label" in refused(safety=clip)
    assert "asks for the label 'kind'; the model has normal, nsfw" in refused(safety=f"{safety}?label=kind")
    assert "none is known to mean watermark; say which" in refused(watermark=safety)
    three = save_classifier(tmp_path / "three", ("drawing", "neutral", "porn"))
    assert "say which" in refused(safety=three)  # drawings are safe as well: nobody but the user knows
    (tmp_path / "broken").mkdir()
    for text, said in (("{", "no JSON"), ("[]", "no JSON object")):
        (tmp_path / "broken" / "config.json").write_text(text)
        assert said in refused(safety=tmp_path / "broken")
    (three / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="transformers cannot read it"):
        open_scorer(models(safety=Path(f"{three}?label=neutral"))[0])


def test_images_that_an_embedding_holds_for_the_same_are_dropped_but_one(clip, photos, tmp_path):
    """As the cosines of all pairs say; what is not alike by any of them stays."""
    run(photos, tmp_path / "measured", models(embedding=clip), tmp_path / "cache")
    table = read_measurements(tmp_path / "measured")
    vectors = {
        name: np.frombuffer(value, np.float16).astype(np.float32)
        for name, value in zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True)
        if value is not None
    }
    names = sorted(vectors)
    assert len(names) == NUM
    matrix = np.stack([vectors[name] for name in names])
    assert np.linalg.norm(matrix, axis=1) == pytest.approx(1, abs=2e-3)
    cosines = np.sort((matrix @ matrix.T)[np.triu_indices(NUM, 1)])
    limit = float((cosines[-6] + cosines[-5]) / 2)  # five pairs are alike
    report = run(photos, tmp_path / "ruled", models(embedding=clip), tmp_path / "cache", max_similarity=limit)
    alike = matrix @ matrix.T > limit
    groups = [min(np.flatnonzero(np.linalg.matrix_power(alike.astype(np.int64), NUM)[i])) for i in range(NUM)]
    assert report.dropped["embedding_duplicate"] == NUM - len(set(groups)) > 0
    assert report.seen == report.kept + sum(report.dropped.values())
    record = json.loads((tmp_path / "ruled" / "curation.json").read_text())
    assert any(each["field"] == "max_similarity" for each in record["sensitivity"])
    assert "cosine" in (tmp_path / "ruled" / "report.html").read_text()
    off = run(photos, tmp_path / "off", (), max_similarity=limit)
    assert off.skipped_rules["embedding_duplicate"] == "there is no model that gives an embedding"
