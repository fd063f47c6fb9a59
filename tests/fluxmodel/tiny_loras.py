"""Small networks and random LoRAs of them, of any width, rank and alpha."""

from collections.abc import Callable

import torch
from torch import Tensor

import fluxmodel
from fluxmodel.lora import Lora, LowRank
from fluxmodel.lora_layouts import layer_shapes
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.randomness import keyed_generator

SMALL = MMDiTConfig(
    in_channels=8,
    out_channels=8,
    vec_in_dim=6,
    context_in_dim=10,
    hidden_size=16,
    num_heads=2,
    depth=1,
    depth_single_blocks=2,
    axes_dim=(2, 2, 4),
    guidance_embed=True,
)
WIDER = SMALL.model_copy(update={"hidden_size": 24, "num_heads": 3, "mlp_ratio": 3.0, "depth": 2})


def small_model(config: MMDiTConfig = SMALL, seed: int = 0) -> fluxmodel.MMDiT:
    model, generator = fluxmodel.MMDiT(config), keyed_generator(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + name.endswith("scale"))
    return model.eval()


def velocity(model: fluxmodel.MMDiT) -> Tensor:
    generator = keyed_generator(3)
    img, txt = torch.randn(2, 4, 8, generator=generator), torch.randn(2, 3, 10, generator=generator)
    t, y = torch.tensor([0.2, 0.9]), torch.randn(2, 6, generator=generator)
    guidance = torch.tensor([3.5, 1.0]) if model.config.guidance_embed else None
    with torch.inference_mode():
        return model(img, torch.zeros(2, 4, 3), txt, torch.zeros(2, 3, 3), t, y, guidance)


def random_change(out: int, width: int, rank: int, alpha: float, seed: int) -> LowRank:
    generator = keyed_generator(seed)
    a, b = torch.randn(rank, width, generator=generator), torch.randn(out, rank, generator=generator)
    return LowRank(0.3 * a, 0.3 * b, alpha)


def random_lora(
    config: MMDiTConfig = SMALL,
    rank: int = 3,
    alpha: float = 6.0,
    seed: int = 0,
    chosen: Callable[[str], bool] = lambda name: True,
) -> Lora:
    """A LoRA on every linear layer `chosen` takes, embedders, modulations and the last layer included."""
    shapes = {name: shape for name, shape in layer_shapes(config).items() if chosen(name)}
    return Lora(
        {
            name: random_change(*shape, rank, alpha, 100 * seed + n)
            for n, (name, shape) in enumerate(shapes.items())
        }
    )


def mixed_lora(config: MMDiTConfig = SMALL) -> Lora:
    """Another rank and alpha in every layer."""
    shapes = layer_shapes(config)
    return Lora(
        {
            name: random_change(*shape, 1 + n % 4, 0.5 + n % 3, n)
            for n, (name, shape) in enumerate(shapes.items())
        }
    )


def exact_delta(change: LowRank) -> Tensor:
    """The change in fp64, straight from its definition."""
    return change.alpha / len(change.a) * (change.b.double() @ change.a.double())


def deltas(lora: Lora) -> dict[str, Tensor]:
    return {name: exact_delta(change) for name, change in lora.modules.items()}


def assert_same_deltas(ours: Lora, source: Lora, tolerance: float = 1e-6) -> None:
    got, wanted = deltas(ours), deltas(source)
    assert got.keys() == wanted.keys()
    for name, delta in wanted.items():
        size = delta.norm()
        assert size > 0
        assert (got[name] - delta).norm() / size <= tolerance, name
