"""Small random networks of FLUX.1's architecture, and their twins in diffusers, for the tests of weights in files."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from fluxmodel.flow.packing import image_ids
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.randomness import keyed_generator

DEV = MMDiTConfig(
    in_channels=16,
    out_channels=16,
    vec_in_dim=12,
    context_in_dim=20,
    hidden_size=32,
    num_heads=2,
    depth=2,
    depth_single_blocks=2,
    axes_dim=(4, 4, 8),
)


def changed(config: MMDiTConfig = DEV, **changes: Any) -> MMDiTConfig:
    return MMDiTConfig.model_validate(config.model_dump() | changes)


def random_model(config: MMDiTConfig = DEV, seed: int = 1, dtype: torch.dtype = torch.float32) -> MMDiT:
    model, generator = MMDiT(config), keyed_generator(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator) + name.endswith("scale"))
    return model.to(dtype).eval()


def are_identical(one: MMDiT, other: MMDiT) -> bool:
    mine, its = one.state_dict(), other.state_dict()
    return mine.keys() == its.keys() and all(
        mine[name].dtype == its[name].dtype and torch.equal(mine[name], its[name]) for name in mine
    )


def open_in_diffusers(directory: Path) -> Any:
    """Return diffusers' network from a directory; every key was found and none was left over."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what diffusers and its dependencies warn of is theirs to mend
        from diffusers import FluxTransformer2DModel

        loaded: Any = FluxTransformer2DModel.from_pretrained(directory, output_loading_info=True)
    twin, told = loaded
    assert not any(told.values()), told
    return twin


def new_in_diffusers(config: MMDiTConfig) -> Any:
    """Return diffusers' own network of the same shape, made by its own constructor, all weights random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import FluxTransformer2DModel

        twin = FluxTransformer2DModel(
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            num_layers=config.depth,
            num_single_layers=config.depth_single_blocks,
            attention_head_dim=config.head_dim,
            num_attention_heads=config.num_heads,
            joint_attention_dim=config.context_in_dim,
            pooled_projection_dim=config.vec_in_dim,
            guidance_embeds=config.guidance_embed,
            axes_dims_rope=config.axes_dim,  # pyright: ignore[reportArgumentType] (typed for three axes)
        )
    generator = keyed_generator(3)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    return twin


@torch.no_grad()
def relative_error(model: MMDiT, twin: Any) -> float:
    """Return the largest difference of the two networks' output over the largest output."""
    config, generator = model.config, keyed_generator(2)
    img = torch.randn(2, 12, config.in_channels, generator=generator)
    txt, y = (
        torch.randn(*s, generator=generator) for s in ((2, 5, config.context_in_dim), (2, config.vec_in_dim))
    )
    img_ids, txt_ids = image_ids(2, 6, 8), torch.zeros(2, 5, 3)
    times, guidance = (
        torch.tensor([0.83, 0.21]),
        torch.tensor([3.5, 1.5]) if config.guidance_embed else None,
    )
    ours = model(img, img_ids, txt, txt_ids, times, y, guidance)
    theirs = twin(
        hidden_states=img,
        encoder_hidden_states=txt,
        pooled_projections=y,
        timestep=times,
        img_ids=img_ids[0],
        txt_ids=txt_ids[0],
        guidance=guidance,
        return_dict=False,
    )[0]
    assert ours.shape == theirs.shape == (2, 12, config.out_channels)
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def write_hollow(path: Path, shapes: dict[str, tuple[int, ...]], word: str = "BF16") -> Path:
    """Write a safetensors file whose header is whole and whose tensors are a hole in the disk."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + {"BF16": 2, "F32": 4}[word] * torch.Size(shape).numel()
        header[name] = {"dtype": word, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path
