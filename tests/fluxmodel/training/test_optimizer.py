"""The optimizer: learning-rate shape, Muon's orthogonal updates, fp32 masters."""

import pytest
import torch
from torch import nn

from fluxmodel.randomness import keyed_generator
from fluxmodel.training.optimizer import (
    MasterOptimizer,
    is_inner_matrix,
    learning_rate_factor,
    orthogonalize,
)
from fluxmodel.training_job import OptimizerSettings


def naive_newton_schulz(x: torch.Tensor, num_iterations: int) -> torch.Tensor:
    """The iteration as published, one matrix, the long way round."""
    x = x / x.norm()
    for _ in range(num_iterations):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6), (16, 64)])
def test_orthogonalizing_brings_singular_values_near_one(shape):
    matrices = torch.randn(3, *shape, generator=keyed_generator(0))
    values = torch.linalg.svdvals(torch.stack(orthogonalize(matrices)))
    # The smallest ones of a square matrix may still be on their way up: compare the bulk.
    bulk = values if shape[0] != shape[1] else values[:, :-2]
    assert bulk.min() > 0.6
    assert values.max() < 1.25


def test_orthogonalizing_keeps_singular_vectors():
    matrix = torch.randn(6, 20, generator=keyed_generator(1))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ orthogonalize(matrix[None])[0] @ right.T
    off_diagonal = turned - torch.diag(turned.diagonal())
    assert off_diagonal.abs().max() < 1e-4


@pytest.mark.parametrize("num_iterations", [0, 1, 2, 5])
@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_orthogonalizing_equals_the_naive_iteration(shape, num_iterations):
    matrices = torch.randn(2, *shape, generator=keyed_generator(2))
    expected = torch.stack([naive_newton_schulz(m.double(), num_iterations) for m in matrices])
    torch.testing.assert_close(
        torch.stack(orthogonalize(matrices, num_iterations)).double(), expected, rtol=1e-3, atol=1e-4
    )


def test_a_zero_gradient_gives_a_zero_update():
    assert not orthogonalize(torch.zeros(1, 4, 6))[0].any()


def test_the_learning_rate_rises_stays_and_falls():
    settings = OptimizerSettings(warmup_steps=10, decay_fraction=0.4)
    factors = [learning_rate_factor(step, 100, settings) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:60] == [1.0] * 51
    assert factors[60:] == pytest.approx([(100 - step) / 40 for step in range(60, 100)])
    assert all(0 < f <= 1 for f in factors)


def test_without_warm_up_and_decay_the_rate_is_constant():
    settings = OptimizerSettings(warmup_steps=0, decay_fraction=0.0)
    assert {learning_rate_factor(step, 7, settings) for step in range(7)} == {1.0}


@pytest.mark.parametrize(
    ("name", "shape", "fits"),
    [
        ("double_blocks.0.img_attn.qkv.weight", (6, 2), True),
        ("single_blocks.3.linear1.weight", (6, 2), True),
        ("double_blocks.0.img_attn.qkv.bias", (6,), False),
        ("double_blocks.0.txt_mod.lin.weight", (6, 2), False),
        ("single_blocks.3.modulation.lin.weight", (6, 2), False),
        ("encoder.5.conv1.weight", (8, 8, 3, 3), True),
        ("model.text_model.encoder.layers.0.mlp.fc1.weight", (6, 2), True),
        ("model.text_model.embeddings.token_embedding.weight", (6, 2), False),
        ("img_in.weight", (6, 2), False),
        ("final_layer.linear.weight", (6, 2), False),
        ("time_in.in_layer.weight", (6, 2), False),
    ],
)
def test_muon_takes_the_matrices_inside_blocks(name, shape, fits):
    assert is_inner_matrix(name, torch.empty(shape)) is fits


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, 4), nn.Linear(4, 6)])
        self.end = nn.Linear(6, 2)

    def forward(self, x):
        for block in self.blocks:
            x = block(x).tanh()
        return self.end(x)


def regress(muon: float | None, num_steps: int, dtype=torch.float32, optimizer=None, module=None, start=0):
    torch.manual_seed(0)
    module = module or Block()
    settings = OptimizerSettings(
        muon_learning_rate=muon, learning_rate=1e-2, warmup_steps=0, decay_fraction=0
    )
    optimizer = optimizer or MasterOptimizer(module, settings)
    module.to(dtype)
    x, y = torch.randn(32, 8, generator=keyed_generator(3)).split([6, 2], dim=1)
    losses = []
    for step in range(start, start + num_steps):
        loss = (module(x.to(dtype)).float() - y).square().mean()
        loss.backward()
        optimizer.step(step, 1000)
        losses.append(loss.item())
    return losses, optimizer, module


@pytest.mark.parametrize("muon", [None, 0.02])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_falls(muon, dtype):
    losses, optimizer, module = regress(muon, 60, dtype)
    assert losses[-1] < 0.7 * losses[0]
    assert all(master.dtype == torch.float32 for master in optimizer.masters)
    assert all(p.dtype == dtype for p in module.parameters())


def test_without_muon_it_is_adamw_with_clipping():
    torch.manual_seed(0)
    twin = Block()
    plain = torch.optim.AdamW(twin.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.01)
    x, y = torch.randn(32, 8, generator=keyed_generator(3)).split([6, 2], dim=1)
    for _ in range(20):
        plain.zero_grad()
        (twin(x) - y).square().mean().backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        plain.step()
    _, _, module = regress(None, 20)
    for ours, theirs in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_masters_keep_what_bf16_would_round_away():
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    settings = OptimizerSettings(learning_rate=1e-4, warmup_steps=0, decay_fraction=0, weight_decay=0)
    optimizer = MasterOptimizer(module, settings)
    module.to(torch.bfloat16)
    for step in range(40):
        module.weight.grad = torch.ones_like(module.weight)
        optimizer.step(step, 100)
    assert optimizer.masters[0].item() == pytest.approx(1 - 40e-4, rel=1e-4)
    assert module.weight.item() == pytest.approx(1 - 40e-4, abs=2e-3)


@pytest.mark.parametrize("muon", [None, 0.02])
def test_a_saved_state_goes_on_bit_for_bit(muon, tmp_path):
    whole, _, _ = regress(muon, 20)
    _, optimizer, _ = regress(muon, 12)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    module = Block()
    again = MasterOptimizer(module, optimizer.settings)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    rest, _, _ = regress(muon, 8, optimizer=again, module=module, start=12)
    assert rest == whole[12:]


def test_a_parameter_without_gradient_is_left_but_for_decay():
    module = Block()
    optimizer = MasterOptimizer(module, OptimizerSettings(weight_decay=0.0, muon_learning_rate=0.02))
    before = [p.detach().clone() for p in module.parameters()]
    assert optimizer.step(0, 10) == 0.0
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
