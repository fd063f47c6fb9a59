"""Diffusers pipelines as contestants: each drawn as diffusers draws it, and refused where it cannot be trusted."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation import EvaluationSettings, evaluate
from evaluation.compare import compare_evaluations
from evaluation.contestants import FAMILIES, Contestant, family_of
from evaluation.settings import ContestantSettings
from fluxmodel.errors import IncomparableError, InputError
from fluxmodel.pretrained_folder import is_pipeline
from tests.tiny_pipelines import NAMES, save_pipeline

PROMPTS = [
    "a red circle top left",
    "a blue square bottom right and a green circle top left",
    "a photo of a red square",
]
SEEDS = [7, 11, 2**40]


pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # diffusers and transformers deprecate themselves and each other


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory):
    """A function that returns the directory of a tiny pipeline by name, made once."""
    root, made = tmp_path_factory.mktemp("pipelines"), {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = save_pipeline(name, root / name)
        return made[name]

    return get


def _direct(directory: Path, prompt: str, seed: int, steps: int, **options) -> np.ndarray:
    """What diffusers draws when it is called as its documentation says; uint8 [H, W, 3]."""
    import diffusers

    index = json.loads((directory / "model_index.json").read_text())
    more = {"safety_checker": None} if "safety_checker" in index else {}
    pipe = getattr(diffusers, index["_class_name"]).from_pretrained(directory, **more)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(seed)
    made = pipe(prompt, num_inference_steps=steps, generator=generator, height=32, width=32, **options)
    return np.asarray(made.images[0])


@pytest.mark.parametrize(
    ("name", "guidance", "options"),
    [
        ("sd", 7.5, {"guidance_scale": 7.5}),
        pytest.param("sdxl", 5.0, {"guidance_scale": 5.0}, marks=pytest.mark.slow),
        ("sdxl-turbo", 1.0, {"guidance_scale": 0.0}),
        ("flux-dev", 3.5, {"guidance_scale": 3.5}),
        pytest.param(
            "flux-schnell",
            1.0,
            {"guidance_scale": 0.0, "max_sequence_length": 256},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_image_is_the_one_diffusers_draws(pipeline, name, guidance, options):
    contestant = Contestant.from_directory(pipeline(name), 32, ContestantSettings(size=32, batch_size=1))
    drawn = contestant.sample(PROMPTS[:1], num_steps=3, guidance=guidance, seeds=SEEDS[:1])
    assert drawn.shape == (1, 3, 32, 32)
    assert drawn.dtype == torch.uint8
    direct = _direct(pipeline(name), PROMPTS[0], SEEDS[0], 3, **options)
    np.testing.assert_array_equal(drawn[0].permute(1, 2, 0).numpy(), direct)
    assert direct.std() > 5  # an even picture would equal anything


@pytest.mark.parametrize("name", ["sd", "flux-dev"])
def test_an_image_depends_on_its_own_seed_and_not_on_its_batch(pipeline, name):
    contestant = Contestant.from_directory(pipeline(name), 32, ContestantSettings(size=32))
    how = {"num_steps": 2, "guidance": 3.0}
    together = contestant.sample(PROMPTS, seeds=SEEDS, **how).int()
    alone = torch.cat(
        [contestant.sample([p], seeds=[s], **how) for p, s in zip(PROMPTS, SEEDS, strict=True)]
    ).int()
    assert (together - alone).abs().max() <= 1  # sums are rounded in another order, no more
    other = contestant.sample(PROMPTS, seeds=[8, 12, 13], **how).int()
    assert (together - other).abs().float().mean() > 2


def test_images_are_drawn_at_their_own_size_and_resized_cleanly(pipeline):
    from evaluation.resize import resize_clean

    large = Contestant.from_directory(pipeline("sd"), 64, ContestantSettings(size=64))
    small = Contestant.from_directory(pipeline("sd"), 32, ContestantSettings(size=64))
    how = {"num_steps": 1, "guidance": 1.0, "seeds": SEEDS[:2]}
    drawn = large.sample(PROMPTS[:2], **how)
    assert drawn.shape == (2, 3, 64, 64)
    assert torch.equal(small.sample(PROMPTS[:2], **how), resize_clean(drawn, 32))
    assert small.identity()["resize"] == "32x32, from 64x64, antialiased bicubic"
    assert Contestant.from_directory(pipeline("sd"), 32).size == 32  # its network's own 16 latent pixels


@pytest.mark.parametrize("name", NAMES)
def test_a_pipeline_is_known_by_what_lies_in_its_directory(pipeline, name):
    assert is_pipeline(pipeline(name))
    assert family_of(pipeline(name)) == FAMILIES[name]


@pytest.mark.slow
def test_guidance_costs_what_its_family_pays(pipeline):
    def calls(name: str, **asked) -> list[int]:
        contestant = Contestant.from_directory(pipeline(name), 32, ContestantSettings(size=32, **asked))
        return [contestant.calls(*place) for place in contestant.places]

    assert calls("sdxl", steps=(4,)) == [8]
    assert calls("sdxl-turbo", steps=(1, 4)) == [1, 4]
    assert calls("sd", steps=(10,), guidance=1.0) == [11]  # PNDM asks once more than its steps
    assert calls("flux-dev") == [28]  # guidance is an input: one call a step
    assert calls("flux-schnell") == [4]
    with pytest.raises(InputError, match=r"FLUX\.1 schnell was distilled to draw unguided"):
        calls("flux-schnell", guidance=3.0)


@pytest.mark.parametrize(
    ("name", "limit"),
    [("sd", 77), ("flux-dev", 512), pytest.param("flux-schnell", 256, marks=pytest.mark.slow)],
)
def test_prompts_beyond_the_tokens_are_counted(pipeline, name, limit):
    contestant = Contestant.from_directory(pipeline(name), 32, ContestantSettings(size=32))
    fits = " ".join(["red"] * (limit - 2))
    long = " ".join(["red"] * limit)
    contestant.sample([fits, long, long], num_steps=1, guidance=contestant.family.guidance, seeds=[1, 2, 3])
    assert contestant.record()["max_tokens"] == limit
    assert contestant.record()["truncated_prompts"] == 1


def test_a_full_gpu_is_one_sentence_with_the_cure(pipeline, monkeypatch):
    contestant = Contestant.from_directory(pipeline("sd"), 32)

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(type(contestant.pipe), "__call__", full)
    with pytest.raises(
        InputError, match="does not hold 2 images of 32 pixels by Stable Diffusion; lower --batch-size"
    ):
        contestant.sample(PROMPTS[:2], num_steps=1, guidance=1.0, seeds=SEEDS[:2])


def _spoilt(source: Path, target: Path, spoil) -> Path:
    shutil.copytree(source, target)
    spoil(target)
    return target


def _index(**changes):
    def spoil(directory: Path) -> None:
        path = directory / "model_index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def _pickle(directory: Path) -> None:
    weights = directory / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            _index(_class_name="KolorsPipeline"),
            r"_class_name is 'KolorsPipeline'; the pipelines that can be judged are",
        ),
        (
            _index(unet=["my_unet", "MyUNet"]),
            r"model_index\.json: unet wants code from 'my_unet', which is not run",
        ),
        (_pickle, r"unet/diffusion_pytorch_model\.bin is a pickle, which can run code"),
        (
            lambda d: (d / "scheduler" / "scheduler_config.json").unlink(),
            r"scheduler_config\.json: cannot be read",
        ),
        (lambda d: (d / "model_index.json").write_text("[]"), r"model_index\.json: holds no object"),
        (lambda d: shutil.rmtree(d / "vae"), r"diffusers cannot load this pipeline \("),
    ],
)
def test_what_cannot_be_trusted_is_refused_in_one_sentence(pipeline, tmp_path, spoil, said):
    directory = _spoilt(pipeline("sd"), tmp_path / "spoilt", spoil)
    with pytest.raises(InputError, match=said) as caught:
        Contestant.from_directory(directory, 32)
    assert "\n" not in str(caught.value)


def test_without_diffusers_the_cure_is_named(pipeline, monkeypatch):
    directory = pipeline("sd")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(
        InputError, match=r"diffusers is not installed; install it with `pip install fluxline\[flux\]`"
    ):
        Contestant.from_directory(directory, 32)


SETTINGS = EvaluationSettings(
    num_images=12,
    steps=(1, 2),
    num_held_out=0,
    num_detailed=0,
    num_paths=0,
    num_calibration=0,
    num_latency_trials=1,
    precision="fp32",
    grid_size=4,
)


def _judge(directory, scenes_dataset, evaluators, output, settings=SETTINGS, **asked):
    how = ContestantSettings(size=32, **asked)
    return evaluate(directory, scenes_dataset, evaluators, settings, output, contestant=how)


@pytest.fixture(scope="module")
def ours(tmp_path_factory, drawing_pipe, model_directory, scenes_dataset, evaluators):
    output = tmp_path_factory.mktemp("ours")
    return evaluate(model_directory, scenes_dataset, evaluators, SETTINGS, output, pipe=drawing_pipe("demo"))


@pytest.mark.parametrize(
    "name",
    [
        "sd",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("sdxl", "sdxl-turbo", "flux-dev", "flux-schnell")
        ),
    ],
)
def test_the_whole_evaluation_runs_on_each_and_compares_with_ours(
    pipeline, name, ours, scenes_dataset, evaluators, tmp_path
):
    report = _judge(pipeline(name), scenes_dataset, evaluators, tmp_path, steps=(1,))
    assert {"attr_acc", "all_correct", "fd", "kid", "retrieval", "latency_ms"} <= {
        each["name"] for each in report.document["metrics"]
    }
    assert report.document["contestant"]["safety_checker"].startswith("off")
    assert report.document["contestant"]["truncated_prompts"] == 0
    page = report.html.read_text()
    assert page.count("<h1>") == 1
    assert f"{FAMILIES[name].name} (" in page
    assert "safety checker off; no prompts cut at" in page
    assert "where the time went" in page
    head = report.document["headline"]
    assert (head["steps"], head["curve"] == "base_guided") == (1, FAMILIES[name].guidance > 1)
    found = compare_evaluations(report.directory, ours.directory)
    assert found["all_correct"].n == 12
    assert found["all_correct"].challenger == pytest.approx(report.value("all_correct"))


@pytest.mark.slow
def test_what_is_asked_of_a_contestant_has_to_be_asked_of_ours_too(
    pipeline, ours, scenes_dataset, evaluators, tmp_path
):
    other = SETTINGS.model_copy(update={"num_images": 8})
    report = _judge(pipeline("sdxl-turbo"), scenes_dataset, evaluators, tmp_path, other)
    with pytest.raises(IncomparableError, match="prompts"):
        compare_evaluations(report.directory, ours.directory)


def test_two_models_of_ours_still_need_the_same_solver_size_and_precision(ours, tmp_path):
    for field in ("solver", "resize", "dtype"):
        changed = tmp_path / field
        shutil.copytree(ours.directory, changed)
        document = json.loads((changed / "evaluation.json").read_text())
        document["identity"][field] += " changed"
        (changed / "evaluation.json").write_text(json.dumps(document))
        with pytest.raises(IncomparableError, match=field):
            compare_evaluations(changed, ours.directory)
