"""Latents from a network with and without embedded guidance: equal to diffusers', and prepared before the loop."""

import warnings
from dataclasses import replace
from itertools import chain
from typing import Any, cast

import pytest
import torch

from fluxmodel import flow_sampler
from fluxmodel.encoders.text import EncodedText
from fluxmodel.flow.guidance import Guidance, choose_guidance
from fluxmodel.flow.packing import pack, unpack
from fluxmodel.flow.schedule import dynamic_shift, sampling_times
from fluxmodel.flow.solvers import SOLVERS, call_times
from fluxmodel.flow_sampler import FlowSampler, NetworkField
from fluxmodel.randomness import keyed_generator
from tests.fluxmodel.mmdit.test_transformer import NUM_TEXT, diffusers_twin, random_model, relative_error

PROMPTS, NEGATIVE, SEEDS, SIZE = ["a cat", "a dog", "a cat"], "blur", [4, 9, 2], (48, 64)


class Encoder:
    """Text whose embedding is drawn from its letters; counts the texts it has read."""

    def __init__(self):
        self.read = []

    def __call__(self, captions):
        self.read += captions
        streams = [keyed_generator(*caption.encode()) for caption in captions]
        tokens, pooled = zip(
            *((torch.randn(NUM_TEXT, 20, generator=g), torch.randn(12, generator=g)) for g in streams),
            strict=True,
        )
        return EncodedText(torch.stack(tokens), torch.stack(pooled))

    def text_ids(self, batch):
        return torch.zeros(batch, NUM_TEXT, 3)


@pytest.fixture(scope="module", params=[True, False], ids=["dev", "schnell"])
def sampler(request):
    is_dev, text = request.param, cast("Any", Encoder())
    return FlowSampler(
        random_model(is_dev).eval(), text, 8, dynamic_shift if is_dev else lambda _: 0.0, "latents"
    )


@torch.inference_mode()
def draw(sampler, guidance, true_guidance=1.0, negative="", num_steps=3, solver="euler"):
    chosen = choose_guidance(sampler.network.config.guidance_embed, guidance, true_guidance, negative)
    return sampler.latents(PROMPTS, num_steps, chosen, SEEDS, SIZE, solver)


def their_latents(sampler, guidance, true_guidance, num_steps):
    """What `FluxPipeline` draws with the same weights from generators of the same seeds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what diffusers and its dependencies warn of is theirs to mend
        from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

        is_dev = sampler.network.config.guidance_embed
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0 if is_dev else 1.0, use_dynamic_shifting=is_dev)
        pipeline: Any = FluxPipeline(scheduler, None, None, None, None, None, diffusers_twin(sampler.network))  # type: ignore[arg-type]
        pipeline.set_progress_bar_config(disable=True)
        text, negative = sampler.text_encoder(PROMPTS), sampler.text_encoder([NEGATIVE] * len(PROMPTS))
        packed = pipeline(
            prompt_embeds=text.tokens,
            pooled_prompt_embeds=text.pooled,
            negative_prompt_embeds=negative.tokens,
            negative_pooled_prompt_embeds=negative.pooled,
            true_cfg_scale=true_guidance,
            guidance_scale=guidance,
            height=SIZE[0],
            width=SIZE[1],
            num_inference_steps=num_steps,
            generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
            output_type="latent",
        ).images
    return unpack(packed, 6, 8)


@pytest.mark.parametrize("strength", [1.0, 2.5])
def test_latents_equal_those_of_diffusers_from_the_same_seeds(sampler, strength):
    if sampler.network.config.guidance_embed:
        ours = draw(sampler, 3.5, strength, NEGATIVE if strength > 1 else "")
    else:
        ours = draw(sampler, strength, 1.0, NEGATIVE if strength > 1 else "")
    assert relative_error(ours, their_latents(sampler, 3.5, strength, 3)) <= 1e-4


def test_guidance_is_heard(sampler):
    calls = len(sampler.text_encoder.read)
    assert relative_error(draw(sampler, 3.5), draw(sampler, 1.5)) > 1e-3
    unguided = len(set(PROMPTS))  # guidance that is embedded reads no negative prompt
    extra = 0 if sampler.network.config.guidance_embed else 1
    assert len(sampler.text_encoder.read) - calls == 2 * (unguided + extra)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_call_for_both_halves_equals_two(sampler, solver, monkeypatch):
    is_dev = sampler.network.config.guidance_embed
    how = {"guidance": 3.5, "true_guidance": 2.0} if is_dev else {"guidance": 2.0}
    together = draw(sampler, negative=NEGATIVE, solver=solver, num_steps=2, **how)
    monkeypatch.setattr(flow_sampler, "STACKED_NUMBERS", 0)
    assert (
        relative_error(together, draw(sampler, negative=NEGATIVE, solver=solver, num_steps=2, **how)) <= 1e-6
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_all_that_the_steps_need_is_prepared_before_the_first(sampler, solver):
    calls = []
    network = sampler.network

    class Listening:
        img_in, config = network.img_in, network.config

        def condition_steps(self, **told):
            calls.append(len(told["times"]))
            return network.condition_steps(**told)

        def velocity(self, x, given):
            calls.append("velocity")
            return network.velocity(x, given)

    listening = replace(sampler, network=Listening())
    draw(listening, 3.5, num_steps=4, solver=solver)
    times = call_times(sampling_times(4), solver)
    assert calls == [len(set(times))] + ["velocity"] * len(times)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kept", [1, 2, 3])
def test_steps_prepared_in_turns_draw_the_same(sampler, solver, kept, monkeypatch):
    whole = draw(sampler, 3.5, num_steps=4, solver=solver)
    row = flow_sampler._modulation_numbers(sampler.network)
    doubled = len(PROMPTS) * (1 if sampler.network.config.guidance_embed else 2)
    monkeypatch.setattr(flow_sampler, "PREPARED_NUMBERS", kept * doubled * row)
    assert relative_error(draw(sampler, 3.5, num_steps=4, solver=solver), whole) <= 1e-6


def test_modulation_is_counted_right(sampler):
    text = sampler.text_encoder(PROMPTS[:1])
    field = NetworkField(sampler.network, text, torch.zeros(1, NUM_TEXT, 3), (6, 8), 3.5, [1.0])
    given = field._prepared[1.0]
    mods = [*chain(*given.img_mods, *given.txt_mods), *given.single_mods, given.last]
    numbers = sum(tensor.numel() for mod in mods for tensor in mod)
    assert numbers == flow_sampler._modulation_numbers(sampler.network)


def test_each_different_text_is_encoded_once(sampler):
    encoder = Encoder()
    replace(sampler, text_encoder=encoder).velocity(PROMPTS, Guidance(2.0, 3.5), SIZE)
    assert encoder.read == ["a cat", "a dog", ""]


def test_a_network_in_bfloat16_is_followed_in_fp32(sampler):
    half = replace(sampler, network=random_model(sampler.network.config.guidance_embed).bfloat16())
    field = half.velocity(PROMPTS, Guidance(1.0, 3.5), SIZE, [1.0])
    noise = half.noise(SEEDS, SIZE)
    with torch.inference_mode():
        drawn = field(noise, 1.0)
        exact = sampler.velocity(PROMPTS, Guidance(1.0, 3.5), SIZE)(noise, 1.0)
    assert noise.dtype == drawn.dtype == torch.float32
    assert relative_error(drawn, exact) < 0.1


def test_packed_noise_of_latents_depends_on_its_own_seed_alone(sampler):
    alone = sampler.noise(SEEDS[1:2], SIZE)
    assert torch.equal(sampler.noise(SEEDS, SIZE)[1:2], alone)
    latents = torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(SEEDS[1]))
    assert torch.equal(alone, pack(latents))
