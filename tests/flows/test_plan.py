"""A configuration becomes the settings of each stage."""

import pytest
from PIL import Image

from evaluation.gate_settings import GateSettings
from flows.config import PipelineConfig
from flows.plan import make_plan
from fluxmodel.errors import InputError
from fluxmodel.presets import PRESETS
from tests.fluxmodel.data.tiny_scorers import save_clip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cat.png").write_bytes(b"not looked at yet")
    return str(tmp_path)


@pytest.fixture
def styled(tmp_path):
    for number in range(4):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("a cat")
    return str(tmp_path)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_makes_a_plan(preset):
    plan = make_plan(PipelineConfig(preset=preset))
    assert set(plan.parts) == {"autoencoder", "detector", "dual_encoder", "captioner"}
    assert plan.name == f"fluxline-{preset}"
    assert plan.rectify.objective["coupling"] == "pairs"
    assert plan.gate.thresholds == plan.evaluation.thresholds


def test_the_precision_asked_for_reaches_every_training_job():
    plan = make_plan(PipelineConfig(precision="fp32"))
    jobs = [plan.flow, plan.rectify, plan.lora, plan.style_classifier, *plan.parts.values()]
    assert {job.precision for job in jobs} == {"fp32"}


def test_the_seed_is_the_models_alone_so_that_judges_stay_the_same():
    plan = make_plan(PipelineConfig(seed=7))
    assert {plan.flow.seed, plan.rectify.seed, plan.lora.seed} == {7}
    assert {job.seed for job in [plan.style_classifier, *plan.parts.values()]} == {0}


def test_a_folder_has_no_detector_since_nobody_knows_its_scenes(folder):
    plan = make_plan(PipelineConfig(data=folder))
    assert set(plan.parts) == {"autoencoder", "dual_encoder"}
    assert plan.style is None  # nobody said which


def test_the_style_is_drawn_at_the_level_of_the_data():
    plan = make_plan(PipelineConfig(data="procedural:shapes?level=lite&n=50&seed=0"))
    assert plan.style is not None
    assert "level=lite" in plan.style.source
    assert "level=full" not in plan.style.source


def test_a_typed_level_that_is_the_datas_is_taken():
    typed = PipelineConfig(data="procedural:shapes?level=lite&n=50&seed=0", style="style:glow?level=lite&n=8")
    plan = make_plan(typed)
    assert plan.style is not None
    assert plan.style.source == "style:glow?level=lite&n=8"


def test_the_gates_rules_are_the_presets_with_what_the_user_asks():
    asked = {"needs_approval": True, "thresholds": {"all_correct": 0.9, "coverage": 0.5}}
    plan = make_plan(PipelineConfig(preset="demo", gate=GateSettings.model_validate(asked)))
    preset = PRESETS["demo"].evaluation.get("thresholds", {})
    assert plan.gate.thresholds == preset | asked["thresholds"]
    assert plan.gate.needs_approval


def test_a_style_can_be_left_out():
    assert make_plan(PipelineConfig(style="none")).style is None


def test_a_folder_of_styled_images_has_a_fingerprint_and_both_who_read_it_its_trigger_word(styled):
    plan = make_plan(PipelineConfig(style=styled, trigger="catling"))
    assert plan.style is not None
    assert plan.style.fingerprint
    assert plan.lora.objective["trigger"] == plan.style_classifier.objective["trigger"] == "catling"


@pytest.mark.parametrize("trigger", ["", "Cat ling"])
def test_a_folder_of_styled_images_without_a_word_for_it_is_refused_before_anything_runs(styled, trigger):
    with pytest.raises(InputError, match=f'trigger is "{trigger}"'):
        make_plan(PipelineConfig(style=styled, trigger=trigger))


def test_a_styled_image_that_does_not_read_is_named_before_anything_runs(folder):
    with pytest.raises(InputError, match=r"cat\.png: has no caption"):
        make_plan(PipelineConfig(style=folder, trigger="catling"))


def test_another_guidance_changes_the_evaluation_alone_so_that_nothing_is_trained_again():
    usual, other = make_plan(PipelineConfig()), make_plan(PipelineConfig(guidance=3.0))
    assert other.evaluation.guidance == 3.0
    assert (other.flow, other.sampler, other.parts) == (usual.flow, usual.sampler, usual.parts)


def test_how_often_a_captioner_of_the_users_own_may_fail_goes_with_it(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    asked = PipelineConfig(captioner=str(tmp_path), max_failed_share=0.5, max_failed=7)
    own = make_plan(asked).captioner
    assert own is not None
    assert (own.max_failed_share, own.max_failed) == (0.5, 7)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"preset": "huge"}, "preset is 'huge'"),
        ({"guidance": 0.5}, "guidance is 0.5"),
        ({"style": "style:unheard_of"}, "unheard_of"),
        (
            {"trigger": "catling"},
            "trigger is 'catling', but a drawn style has a word of its own; leave --trigger",
        ),
        ({"style": "style:glow", "trigger": "catling"}, "trigger is 'catling', but a drawn style"),
        (
            {"style": "style:glow?level=lite&n=8", "data": "procedural:shapes?level=full&n=50"},
            "but the data are of level full; leave level=lite out",
        ),
        ({"captioner": "nowhere"}, "nowhere"),
    ],
)
def test_a_wrong_value_is_named(fields, named):
    with pytest.raises(InputError, match=named):
        make_plan(PipelineConfig(**fields))


def test_models_that_score_reach_the_curation_and_the_clip_the_captions_as_well(folder, tmp_path):
    places = {"agreement": str(save_clip(tmp_path / "clip"))}
    plan = make_plan(PipelineConfig(data=folder, models=places))
    assert plan.models is not None
    assert plan.agreement == plan.models.models[0]
    assert make_plan(PipelineConfig(data=folder)).agreement is None
    with pytest.raises(InputError, match=r"models\.safety is .*nowhere"):
        make_plan(PipelineConfig(data=folder, models={"safety": str(tmp_path / "nowhere")}))
