"""The MM-DiT against diffusers' FluxTransformer2DModel with the same weights, and against FLUX.1's counts."""

import copy

import pytest
import torch
from pydantic import ValidationError

from fluxmodel.flow.packing import image_ids
from fluxmodel.mmdit.attention import normalize_and_turn
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.rope import rotate
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.randomness import keyed_generator
from tests.fluxmodel.tiny_weights import new_in_diffusers

HIDDEN, HEADS, NUM_TEXT = 48, 2, 5
SIZES = {"wide": (6, 8), "odd": (10, 14)}
"""Height and width of the latents; odd: 5 x 7 tokens."""


def tiny_config(guidance_embed: bool) -> MMDiTConfig:
    return MMDiTConfig(
        in_channels=16,
        out_channels=16,
        vec_in_dim=12,
        context_in_dim=20,
        hidden_size=HIDDEN,
        num_heads=HEADS,
        depth=2,
        depth_single_blocks=2,
        axes_dim=(8, 8, 8),
        guidance_embed=guidance_embed,
    )


def random_model(guidance_embed: bool, seed: int = 1) -> MMDiT:
    model, generator = MMDiT(tiny_config(guidance_embed)), keyed_generator(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator) + name.endswith("scale"))
    return model


def inputs(guidance: bool, batch: int = 2, size: tuple[int, int] = SIZES["wide"]) -> dict[str, torch.Tensor]:
    generator, (height, width) = keyed_generator(2), size
    given = {
        "img": torch.randn(batch, height * width // 4, 16, generator=generator),
        "img_ids": image_ids(batch, height, width),
        "txt": torch.randn(batch, NUM_TEXT, 20, generator=generator),
        "txt_ids": torch.zeros(batch, NUM_TEXT, 3),
        "timesteps": torch.rand(batch, generator=generator),
        "y": torch.randn(batch, 12, generator=generator),
    }
    return given | ({"guidance": 1 + 4 * torch.rand(batch, generator=generator)} if guidance else {})


# The original's names in diffusers' words


def stream_names(ours: str, theirs: str, stream: str) -> dict[str, list[str]]:
    is_text = stream == "txt"
    attention = f"{theirs}.attn."
    qkv = ("add_q_proj", "add_k_proj", "add_v_proj") if is_text else ("to_q", "to_k", "to_v")
    norms = ("norm_added_q", "norm_added_k") if is_text else ("norm_q", "norm_k")
    feed = f"{theirs}.ff_context" if is_text else f"{theirs}.ff"
    return {
        f"{ours}.{stream}_mod.lin": [f"{theirs}.norm1{'_context' if is_text else ''}.linear"],
        f"{ours}.{stream}_attn.qkv": [attention + name for name in qkv],
        f"{ours}.{stream}_attn.norm.query_norm.scale": [f"{attention}{norms[0]}.weight"],
        f"{ours}.{stream}_attn.norm.key_norm.scale": [f"{attention}{norms[1]}.weight"],
        f"{ours}.{stream}_attn.proj": [attention + ("to_add_out" if is_text else "to_out.0")],
        f"{ours}.{stream}_mlp.0": [f"{feed}.net.0.proj"],
        f"{ours}.{stream}_mlp.2": [f"{feed}.net.2"],
    }


def diffusers_names(config: MMDiTConfig) -> dict[str, list[str]]:
    names = {
        "img_in": ["x_embedder"],
        "txt_in": ["context_embedder"],
        "final_layer.linear": ["proj_out"],
        "final_layer.adaLN_modulation.1": ["norm_out.linear"],
    }
    embedders = {"time_in": "timestep_embedder", "vector_in": "text_embedder"}
    if config.guidance_embed:
        embedders["guidance_in"] = "guidance_embedder"
    for ours, theirs in embedders.items():
        names[f"{ours}.in_layer"] = [f"time_text_embed.{theirs}.linear_1"]
        names[f"{ours}.out_layer"] = [f"time_text_embed.{theirs}.linear_2"]
    for i in range(config.depth):
        for stream in ("img", "txt"):
            names |= stream_names(f"double_blocks.{i}", f"transformer_blocks.{i}", stream)
    for i in range(config.depth_single_blocks):
        ours, theirs = f"single_blocks.{i}", f"single_transformer_blocks.{i}"
        names |= {
            f"{ours}.modulation.lin": [f"{theirs}.norm.linear"],
            f"{ours}.linear1": [f"{theirs}.attn.to_{n}" for n in "qkv"] + [f"{theirs}.proj_mlp"],
            f"{ours}.linear2": [f"{theirs}.proj_out"],
            f"{ours}.norm.query_norm.scale": [f"{theirs}.attn.norm_q.weight"],
            f"{ours}.norm.key_norm.scale": [f"{theirs}.attn.norm_k.weight"],
        }
    return names


def to_diffusers(model: MMDiT) -> dict[str, torch.Tensor]:
    names, result = diffusers_names(model.config), {}
    for key, tensor in model.state_dict().items():
        stem, _, ending = key.rpartition(".")
        parts, suffix = (names[key], "") if key in names else (names[stem], f".{ending}")
        if stem == "final_layer.adaLN_modulation.1":  # (shift, scale) there, (scale, shift) here
            tensor = torch.cat(tensor.chunk(2)[::-1])
        rows = [HIDDEN] * 3 + [len(tensor) - 3 * HIDDEN] if len(parts) > 1 else [len(tensor)]
        result |= {f"{p}{suffix}": t for p, t in zip(parts, tensor.split(rows[: len(parts)]), strict=True)}
    return result


def diffusers_twin(model: MMDiT):
    twin = new_in_diffusers(model.config)
    twin.load_state_dict(to_diffusers(model), strict=True)
    return twin


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def output_of(twin, given: dict[str, torch.Tensor]) -> torch.Tensor:
    return twin(
        hidden_states=given["img"],
        encoder_hidden_states=given["txt"],
        pooled_projections=given["y"],
        timestep=given["timesteps"],
        img_ids=given["img_ids"][0],
        txt_ids=given["txt_ids"][0],
        guidance=given.get("guidance"),
        return_dict=False,
    )[0]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
def test_output_and_gradients_equal_those_of_diffusers(guidance, batch, size):
    model = random_model(guidance)
    twin = diffusers_twin(model)
    mine, its = inputs(guidance, batch, size), inputs(guidance, batch, size)
    for given in (mine, its):
        for name in ("img", "txt", "y"):
            given[name].requires_grad_()
    ours, theirs = model(**mine), output_of(twin, its)
    assert relative_error(ours, theirs) < 1e-5
    for output in (ours, theirs):
        output.square().sum().backward()
    for name in ("img", "txt", "y"):
        my_slope, its_slope = mine[name].grad, its[name].grad
        assert my_slope is not None
        assert its_slope is not None
        assert relative_error(my_slope, its_slope) < 1e-5, name
    slopes = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
    for name, slope in to_diffusers(model).items():
        assert relative_error(slope, slopes[name]) < 1e-5, name


def bf16_errors(exact: MMDiT, guidance: bool) -> tuple[float, float]:
    """Squared distance of bf16 outputs from the fp32 ones: ours, diffusers'."""
    twin = torch.nn.Module.to(diffusers_twin(exact), torch.bfloat16)
    model = copy.deepcopy(exact).to(torch.bfloat16)
    ours, theirs = 0.0, 0.0
    for size in SIZES.values():
        for batch in (1, 4):
            given = inputs(guidance, batch, size)
            # diffusers rounds 1000 t and 1000 guidance to bf16, which these survive; others put it 2000 times as far.
            given["timesteps"] = torch.tensor([0.5, 0.25, 1.0, 0.125])[:batch]
            if guidance:
                given["guidance"] = torch.tensor([4.0, 2.0, 1.0, 4.0])[:batch]
            narrow = {n: v.bfloat16() if n in ("img", "txt", "y") else v for n, v in given.items()}
            with torch.no_grad():
                truth = exact(**{n: v.float() for n, v in narrow.items()})
                ours += (model(**narrow).float() - truth).square().sum().item()
                theirs += (output_of(twin, narrow).float() - truth).square().sum().item()
    return ours, theirs


@pytest.mark.parametrize("sharpness", [1.0, 4.0], ids=["soft attention", "sharp attention"])
@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
def test_in_bf16_no_further_from_the_truth_than_diffusers(guidance, sharpness):
    ratios = []
    for seed in range(5):  # one network alone may come out 20 % either way
        exact = random_model(guidance, seed)
        with torch.no_grad():
            for name, parameter in exact.named_parameters():
                parameter.mul_(sharpness if name.endswith("scale") else 1.0)
        ours, theirs = bf16_errors(exact, guidance)
        ratios.append(ours / theirs)
    assert sum(ratios) / len(ratios) <= 1.0


def test_second_derivatives_are_refused_and_not_wrong():
    x = torch.randn(1, 2, 2, 1, 4, requires_grad=True)
    turned = normalize_and_turn(x, torch.ones(1, 2, 1, 4), torch.ones(1, 2, 2, dtype=torch.complex64))
    (slope,) = torch.autograd.grad((turned**3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
def test_all_steps_prepared_at_once_are_the_steps_one_by_one(guidance):
    model, given = random_model(guidance), inputs(guidance, batch=3)
    img, times = given.pop("img"), torch.tensor([1.0, 0.6, 0.25])
    given.pop("timesteps")
    with torch.no_grad():
        for t, conditioning in zip(times, model.condition_steps(times=times, **given), strict=True):
            alone = model(img=img, timesteps=t.expand(3), **given)
            assert relative_error(model.velocity(img, conditioning), alone) < 1e-5


def test_one_row_of_positions_serves_a_batch():
    model, given = random_model(False), inputs(False, batch=3)
    shared = given | {name: given[name][:1] for name in ("img_ids", "txt_ids")}
    assert torch.equal(model(**given), model(**shared))


def test_the_slope_of_the_normalised_turn_is_that_of_its_definition():
    generator = keyed_generator(5)
    x = torch.randn(2, 3, 2, 2, 6, generator=generator, dtype=torch.float64).float().requires_grad_()
    scale = torch.randn(3, 2, 1, 6, generator=generator).requires_grad_()
    pe = torch.polar(torch.ones(1, 3, 3), torch.randn(1, 3, 3, generator=generator))
    weight = torch.randn(x.shape, generator=generator)
    plain = rotate(torch.nn.functional.rms_norm(x, (6,), eps=1e-6) * scale, pe)
    expected = torch.autograd.grad((plain * weight).sum(), (x, scale))
    ours = normalize_and_turn(x, scale, pe)
    torch.testing.assert_close(ours, plain)
    for mine, its in zip(torch.autograd.grad((ours * weight).sum(), (x, scale)), expected, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("guidance_embed", "num_parameters", "num_tensors"),
    [(True, 11_901_408_320, 780), (False, 11_891_178_560, 776)],
    ids=["dev", "schnell"],
)
def test_the_defaults_are_flux_1(guidance_embed, num_parameters, num_tensors):
    with torch.device("meta"):
        model = MMDiT(MMDiTConfig(guidance_embed=guidance_embed))
    assert sum(p.numel() for p in model.parameters()) == num_parameters
    assert len(model.state_dict()) == num_tensors


def test_samples_of_a_batch_do_not_meet():
    model, given = random_model(False), inputs(False)
    alone = model(**{name: tensor[1:] for name, tensor in given.items()})
    torch.testing.assert_close(model(**given)[1:], alone, rtol=1e-5, atol=1e-5)


def test_order_of_text_matters_only_through_its_embeddings():
    model, given = random_model(False), inputs(False)
    shuffled = given | {"txt": given["txt"].flip(1)}
    torch.testing.assert_close(model(**given), model(**shuffled), rtol=1e-4, atol=1e-5)


def test_a_new_network_predicts_zero_velocity():
    model = MMDiT(tiny_config(True))
    model.initialize(keyed_generator(0))
    assert not model(**inputs(True)).any()


def test_initialization_is_a_function_of_its_generator():
    states = []
    for seed in (0, 0, 1):
        model = MMDiT(tiny_config(True))
        model.initialize(keyed_generator(seed))
        states.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_bf16_stays_close_to_fp32():
    model, given = random_model(True), inputs(True)
    exact = model(**given)
    rounded = model.to(torch.bfloat16)(**given)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() / exact.norm() < 0.05


def test_missing_guidance_is_named():
    with pytest.raises(ValueError, match="pass guidance"):
        random_model(True)(**inputs(False))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_heads": 5}, "num_heads 5"),
        ({"axes_dim": (8, 8, 6)}, "axes_dim"),
        ({"axes_dim": (9, 9, 6)}, "axes_dim"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"width": 3}, "width"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(change, named):
    with pytest.raises(ValidationError, match=named):
        MMDiTConfig.model_validate(tiny_config(True).model_dump() | change)
