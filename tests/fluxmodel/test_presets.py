"""Every named size fits together; the numbers themselves are free to change."""

import pytest
import torch

from evaluation.settings import EvaluationSettings
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.procedural import ProceduralSource, detailed_caption, draw_scene
from fluxmodel.encoders.autoencoder import Autoencoder, AutoencoderConfig
from fluxmodel.encoders.detector import SceneDetector, SceneDetectorConfig
from fluxmodel.encoders.dual_encoder import DualEncoder, DualEncoderConfig
from fluxmodel.encoders.text import words
from fluxmodel.encoders.tokens import build_tokenizer
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.presets import PRESETS
from fluxmodel.training.objectives.autoencoder import AutoencoderSettings
from fluxmodel.training.objectives.detector import DetectorSettings
from fluxmodel.training.objectives.dual_encoder import DualEncoderSettings
from fluxmodel.training.objectives.flow import FlowSettings

SETTINGS = {
    "autoencoder": AutoencoderSettings,
    "detector": DetectorSettings,
    "dual_encoder": DualEncoderSettings,
    "flow": FlowSettings,
}
each_preset = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)


def captions(preset, num=200):
    level = ProceduralSource.parse(preset.data).level
    return [detailed_caption(draw_scene(level, 0, i)) for i in range(num)]


def num_parameters(module) -> int:
    return sum(p.numel() for p in module.parameters())


@each_preset
def test_rules_and_evaluation_settings_are_valid(preset):
    assert PRESETS[preset.name] is preset
    rules = CurationRules.model_validate(preset.rules)
    assert rules.image_size == ProceduralSource.parse(preset.data).level.image_size
    EvaluationSettings.model_validate(preset.evaluation)


@each_preset
@pytest.mark.parametrize("kind", SETTINGS)
def test_each_job_is_valid_and_its_batch_divides(preset, kind):
    template = getattr(preset, kind)
    job = template.job(data=preset.data, output="somewhere", seed=3)
    assert (job.kind, job.seed, job.output) == (kind, 3, "somewhere")
    assert job.batch_size % job.world_size == 0
    SETTINGS[kind].model_validate(job.objective)


@each_preset
def test_each_network_can_be_built_and_the_flow_fits_its_latents_and_words(preset):
    level = ProceduralSource.parse(preset.data).level
    with torch.device("meta"):
        autoencoder = Autoencoder(AutoencoderConfig.model_validate(preset.autoencoder.model))
        flow = MMDiT(MMDiTConfig.model_validate(preset.flow.model))
        detector = SceneDetector(
            SceneDetectorConfig(
                grid=level.grid,
                shapes=level.shapes,
                colors=level.colors,
                sizes=level.sizes,
                backgrounds=level.backgrounds,
                **preset.detector.model,
            )
        )
    config = DualEncoderConfig.model_validate(preset.dual_encoder.model)
    dual_encoder = DualEncoder.create(config, build_tokenizer(captions(preset), config.max_tokens))
    for network in (autoencoder, flow, detector, dual_encoder):
        assert 1_000 < num_parameters(network) < 50_000_000
    settings = FlowSettings.model_validate(preset.flow.objective)
    assert flow.config.in_channels == flow.config.out_channels == 4 * autoencoder.config.latent_channels
    assert flow.config.vec_in_dim == flow.config.context_in_dim == settings.text.dim
    assert not flow.config.guidance_embed


@each_preset
def test_no_word_of_a_caption_is_cut(preset):
    longest = max(len(words(caption)) for caption in captions(preset))
    assert longest <= FlowSettings.model_validate(preset.flow.objective).text.max_tokens
    assert longest + 2 <= DualEncoderConfig.model_validate(preset.dual_encoder.model).max_tokens
