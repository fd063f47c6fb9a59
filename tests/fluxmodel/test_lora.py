"""The algebra of low-rank changes, and LoRAs merged, taken out, injected and taken off."""

import pytest
import torch

from fluxmodel.errors import InputError
from fluxmodel.lora import Lora, LowRank, fuse, relative_difference, split, swap_halves
from fluxmodel.lora_adapters import adapter_names, adapters_of, eject, inject
from fluxmodel.lora_merging import merge, unmerge
from fluxmodel.training.lora import TARGETS, add_adapters, target_layers

from .tiny_loras import (
    SMALL,
    WIDER,
    assert_same_deltas,
    exact_delta,
    mixed_lora,
    random_change,
    random_lora,
    small_model,
    velocity,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
ROWS = [4, 4, 4, 16]


def pieces_of(parts):
    starts = [sum(ROWS[:n]) for n in range(len(ROWS))]
    return [
        (slice(at, at + rows), part)
        for at, rows, part in zip(starts, ROWS, parts, strict=True)
        if part is not None
    ]


# Theorems of the algebra


def test_splitting_and_fusing_gives_the_very_same_matrices():
    whole = random_change(sum(ROWS), 6, 3, 6.0, 0)
    again = fuse(pieces_of(split(whole, ROWS)), sum(ROWS))
    torch.testing.assert_close(again.b, whole.b, rtol=0, atol=0)
    torch.testing.assert_close(again.a, whole.a, rtol=0, atol=0)
    assert again.alpha == whole.alpha


@pytest.mark.parametrize("ranks", [(2, 2, 2, 2), (1, 2, 3, 4)])
@pytest.mark.parametrize("alphas", [(2, 2, 2, 2), (1.0, 0.7, 8.0, 3.0)])
def test_fused_parts_are_each_part_on_its_rows_whatever_their_ranks_and_alphas(ranks, alphas):
    parts = [
        random_change(r, 6, k, a, n) for n, (r, k, a) in enumerate(zip(ROWS, ranks, alphas, strict=True))
    ]
    fused = fuse(pieces_of(parts), sum(ROWS))
    wanted = torch.cat([exact_delta(part) for part in parts])
    torch.testing.assert_close(exact_delta(fused), wanted, rtol=1e-6, atol=1e-7)
    again = split(fused, ROWS)
    assert [part.rank for part in again if part] == list(ranks), (
        "what was stacked comes apart at its old ranks"
    )
    for part, other in zip(parts, again, strict=True):
        assert other is not None
        torch.testing.assert_close(exact_delta(other), exact_delta(part), rtol=1e-6, atol=1e-7)


def test_parts_that_share_their_a_add_no_rank_and_others_do():
    q, k, v, mlp = (random_change(rows, 6, 2, 2.0, n) for n, rows in enumerate(ROWS))
    shared = LowRank(q.a.clone(), k.b, 2.0)
    fused = fuse(pieces_of([q, shared, v, mlp]), sum(ROWS))
    assert fused.rank == 6
    again = split(fused, ROWS)
    assert [part.rank for part in again if part] == [2, 2, 2, 2]


def test_a_column_that_one_part_does_not_read_costs_no_rank():
    whole = random_change(sum(ROWS), 6, 3, 6.0, 0)
    whole.b[:4, 1] = 0
    again = fuse(pieces_of(split(whole, ROWS)), sum(ROWS))
    assert again.rank == whole.rank
    torch.testing.assert_close(exact_delta(again), exact_delta(whole), rtol=0, atol=0)


def test_rows_without_a_part_do_not_change():
    q, k, v, _ = (random_change(rows, 6, 2, 4.0, n) for n, rows in enumerate(ROWS))
    fused = fuse(pieces_of([q, k, v, None]), sum(ROWS))
    assert not fused.b[12:].any()
    assert split(fused, ROWS)[3] is None


def test_an_untrained_lora_keeps_all_its_parts():
    whole = random_change(sum(ROWS), 6, 3, 6.0, 0)
    parts = split(LowRank(whole.a, torch.zeros_like(whole.b), 6.0), ROWS)
    assert [part.rank for part in parts if part] == [3, 3, 3, 3]


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-5, 0.3])
def test_the_difference_is_that_of_the_dense_products(size):
    source = random_change(12, 8, 3, 6.0, 0)
    other = LowRank(source.a.double() * (1 + size), source.b, 6.0)
    dense = (exact_delta(other) - exact_delta(source)).norm() / exact_delta(source).norm()
    assert relative_difference(source, other) == pytest.approx(float(dense), rel=1e-4, abs=1e-15)


def test_the_difference_sees_swapped_halves_and_another_alpha():
    source = random_change(12, 8, 3, 6.0, 0)
    assert relative_difference(source, swap_halves(source)) > 0.1
    assert relative_difference(source, swap_halves(swap_halves(source))) == 0
    assert relative_difference(source, LowRank(source.a, source.b, 3.0)) == pytest.approx(0.5)
    zero = LowRank(source.a, torch.zeros_like(source.b), 6.0)
    assert relative_difference(zero, zero) == 0
    assert relative_difference(zero, source) == float("inf")


def test_folding_keeps_the_changes_and_makes_alpha_the_rank():
    lora = mixed_lora()
    folded = lora.folded()
    assert_same_deltas(folded, lora)
    assert all(change.alpha == change.rank for change in folded.modules.values())


# Merge and unmerge


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unmerging_gives_back_the_weights_bit_for_bit(dtype):
    model = small_model().to(dtype)
    before = {name: p.clone() for name, p in model.named_parameters()}
    merged = merge(model, [(random_lora(seed=1), 0.7), (mixed_lora(), -2.0)])
    assert all(
        not torch.equal(model.get_parameter(f"{n}.weight"), before[f"{n}.weight"]) for n in merged.originals
    )
    unmerge(model, merged)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, before[name], rtol=0, atol=0)


def test_several_loras_add_up_with_their_weights():
    one, two = random_lora(seed=1), random_lora(seed=2, chosen=lambda name: "blocks" in name)
    model, plain = small_model(), small_model()
    merge(model, [(one, 0.7), (two, -2.0)], keep=False)
    for name, change in one.modules.items():
        wanted = plain.get_parameter(f"{name}.weight").double() + 0.7 * exact_delta(change)
        wanted += -2.0 * exact_delta(two.modules[name]) if name in two.modules else 0
        got = model.get_parameter(f"{name}.weight").double()
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_a_merge_in_bfloat16_rounds_once():
    lora, model = random_lora(), small_model().to(torch.bfloat16)
    name = "single_blocks.0.linear1"
    weight = model.get_parameter(f"{name}.weight").double()
    merge(model, lora, keep=False)
    nearest = (weight + exact_delta(lora.modules[name])).to(torch.bfloat16)
    share = (model.get_parameter(f"{name}.weight") == nearest).double().mean()
    assert share > 0.999, "the rest are ties within fp32's own rounding"


def test_merges_come_out_in_reverse_order_only():
    model = small_model()
    first, second = (merge(model, random_lora(seed=seed)) for seed in (1, 2))
    between = velocity(model)
    with pytest.raises(InputError, match="last merge first"):
        unmerge(model, first)
    torch.testing.assert_close(velocity(model), between, rtol=0, atol=0)
    unmerge(model, second)
    unmerge(model, first)
    torch.testing.assert_close(velocity(model), velocity(small_model()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("lora", "says"),
    [
        (random_lora(WIDER, chosen=lambda name: name == "img_in"), r"img_in is \(24, 8\) in the LoRA"),
        (Lora({"nowhere": random_change(2, 2, 1, 1.0, 0)}), "nowhere is no linear layer"),
        (Lora({"double_blocks.0": random_change(2, 2, 1, 1.0, 0)}), "double_blocks.0 is no linear layer"),
    ],
    ids=["wider", "nowhere", "no linear layer"],
)
@pytest.mark.parametrize("way", [merge, inject])
def test_a_lora_without_a_place_changes_nothing(lora, says, way):
    model = small_model()
    whole = Lora({**random_lora(chosen=lambda name: name == "txt_in").modules, **lora.modules})
    with pytest.raises(InputError, match=says):
        way(model, whole)
    torch.testing.assert_close(velocity(model), velocity(small_model()), rtol=0, atol=0)


# Adapters


@pytest.mark.parametrize("config", [SMALL, WIDER], ids=["16 wide", "24 wide"])
def test_injected_and_merged_loras_give_the_same_velocity_on_every_layer(config):
    one, two = random_lora(config, rank=2, seed=1), mixed_lora(config)
    beside, merged = small_model(config), small_model(config)
    inject(inject(beside, one, 0.3, "one"), two, -0.1, "two")
    merge(merged, [(one, 0.3), (two, -0.1)], keep=False)
    got, wanted = velocity(beside), velocity(merged)
    assert (wanted - velocity(small_model(config))).abs().max() > 0.05
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_adapters_act_in_conditions_of_all_steps_at_once_too():
    model = inject(small_model(), random_lora())
    generator, times = torch.Generator().manual_seed(3), torch.tensor([0.9, 0.2])
    img, txt = torch.randn(1, 4, 8, generator=generator), torch.randn(1, 3, 10, generator=generator)
    y, ids = torch.randn(1, 6, generator=generator), (torch.zeros(1, 4, 3), torch.zeros(1, 3, 3))
    guidance = torch.tensor([3.5])
    with torch.inference_mode():
        steps = model.condition_steps(ids[0], txt, ids[1], times, y, guidance)
        for t, step in zip(times, steps, strict=True):
            alone = model(img, ids[0], txt, ids[1], t[None], y, guidance)
            torch.testing.assert_close(model.velocity(img, step), alone, rtol=1e-4, atol=1e-4)


def test_ejecting_leaves_the_plain_model():
    model, plain = small_model(), small_model()
    inject(inject(model, random_lora(seed=1), name="one"), mixed_lora(), name="two")
    two = adapters_of(model, "two")
    assert_same_deltas(two, mixed_lora())
    eject(model, "one")
    assert adapter_names(model) == ["two"]
    assert_same_deltas(adapters_of(model), mixed_lora())
    eject(model)
    assert model.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(velocity(model), velocity(plain), rtol=0, atol=0)


def test_an_injected_lora_is_trained_alone_where_asked():
    model = inject(
        inject(small_model(), random_lora(seed=1), name="fixed"), mixed_lora(), name="new", trainable=True
    )
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".new." in name for name in trained)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda m: inject(m, random_lora(), name="one"), 'an adapter "one" already'),
        (lambda m: adapters_of(m, "three"), 'adapter is "three"; the model has one, two'),
        (lambda m: adapters_of(m), "the model has one, two, name one"),
        (lambda m: eject(m, "three"), 'adapter is "three"'),
        (lambda m: merge(m, random_lora()), r"has an adapter on it; take it off with eject\(\)"),
    ],
)
def test_adapters_are_asked_for_by_name(act, says):
    model = inject(inject(small_model(), random_lora(seed=1), name="one"), random_lora(seed=2), name="two")
    with pytest.raises(InputError, match=says):
        act(model)


# Fresh adapters


def test_fresh_adapters_change_nothing_and_only_they_are_trained():
    model = add_adapters(small_model(), rank=3, alpha=6.0, seed=0)
    torch.testing.assert_close(velocity(model), velocity(small_model()))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(".lora_" in name for name in trained)
    assert not any(name.startswith(("img_in", "final_layer", "time_in")) for name in trained)


@pytest.mark.parametrize(
    ("targets", "num", "first"),
    [
        ("blocks", 16, "double_blocks.0.img_mod.lin"),
        ("attention", 8, "double_blocks.0.img_attn.qkv"),
        ("modulation", 4, "double_blocks.0.img_mod.lin"),
        ("embedders+final", 10, "img_in"),
        ("all", 26, "img_in"),
        (r"single_blocks\.1\.linear2", 1, "single_blocks.1.linear2"),
    ],
)
def test_targets_are_groups_or_an_expression(targets, num, first):
    found = target_layers(small_model(), targets)
    assert (len(found), found[0]) == (num, first)
    model = add_adapters(small_model(), 2, 2.0, 0, targets)
    assert list(adapters_of(model).modules) == [
        name for name, _ in small_model().named_modules() if name in found
    ]


@pytest.mark.parametrize("targets", ["atention", "(", "", "attention+blocs"])
def test_targets_that_name_no_layer_are_refused(targets):
    with pytest.raises(InputError, match=r"targets is .*blocks, attention"):
        target_layers(small_model(), targets)


def test_all_is_every_linear_layer():
    model = small_model()
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert set(target_layers(model, "all")) == linear
    named = "+".join(group for group in TARGETS if group not in ("all", "blocks"))
    assert set(target_layers(model, named)) == linear
