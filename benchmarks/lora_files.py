"""LoRA files read by ours and by diffusers: of the layers a file changes, how many get the change it says?

Random LoRAs of a small FLUX.1 (48 wide) in files as trainers write them. The truth is alpha / rank * B A straight from
the matrices, fp64; a layer is right within 1e-5 of its size. diffusers loads by FluxPipeline.load_lora_weights
unless a row says otherwise. Nothing is timed.
Run: python -m benchmarks.lora_files --json
"""

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.measure import Row, publish, show
from fluxmodel.lora import Lora, LowRank
from fluxmodel.lora_files import FILES, read_lora, write_lora
from fluxmodel.lora_layouts import layer_shapes
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.randomness import keyed_generator
from fluxmodel.weight_names import SWAPPED, linear_layers

CONFIG = MMDiTConfig(
    in_channels=16,
    out_channels=16,
    vec_in_dim=12,
    context_in_dim=20,
    hidden_size=48,
    num_heads=2,
    depth=1,
    depth_single_blocks=1,
    axes_dim=(8, 8, 8),
)
RANK = 2
OUTSIDE_BLOCKS = [name for name in linear_layers(CONFIG) if "blocks" not in name]
"""Embedders and the last layer."""
IN_BLOCKS = ["double_blocks.0.img_attn.proj", "double_blocks.0.img_mod.lin", "double_blocks.0.img_mlp.2"]


@dataclass(frozen=True)
class Outcome:
    """Layers that got the right change, how strong the changes are (1 is right), and what was said."""

    right: int
    strength: float
    said: str


@dataclass(frozen=True)
class Case:
    """One file in the field, and who reads it how."""

    name: str
    truth: dict[str, Tensor]
    ours: Callable[[], dict[str, Tensor]]
    peer: Callable[[], dict[str, Tensor]]

    def measure(self) -> tuple[Outcome, Outcome]:
        """Return ours and diffusers'."""
        return self._outcome(self.ours), self._outcome(self.peer)

    def _outcome(self, read: Callable[[], dict[str, Tensor]]) -> Outcome:
        with listening() as said:
            try:
                found = read()
            except (AssertionError, ValueError, KeyError, RuntimeError) as error:
                return Outcome(0, 0.0, f"{type(error).__name__} {error}".strip())
        near = [
            name
            for name, delta in self.truth.items()
            if name in found and (found[name] - delta).norm() <= 1e-5 * delta.norm()
        ]
        strengths = [float(found[n].norm() / d.norm()) for n, d in self.truth.items() if n in found]
        return Outcome(
            len(near), sum(strengths) / len(strengths) if strengths else 0.0, said[0] if said else ""
        )


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description="Layers that get the change a LoRA file says.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(Path(folder)):
            ours, peer = case.measure()
            rows.append(Row(case.name, ours.right, peer.right, ours.right / max(peer.right, 1), "layers"))
            figures |= {f"{case.name}: layers": float(len(case.truth))}
            figures |= {f"{case.name}: strength, ours": ours.strength}
            figures |= {f"{case.name}: strength, diffusers": peer.strength}
            print(f"{case.name}: diffusers says {peer.said[:120] or 'nothing'}", file=sys.stderr)
        collapsed = converted(Path(folder) / "underscored.safetensors", by_ours=False)
    figures["lora_transformer_ names: names after diffusers' conversion"] = float(len(collapsed))
    show(publish("lora_files", rows, ("torch", "diffusers", "peft"), figures), arguments.json)


def cases(folder: Path) -> Iterator[Case]:
    """Write each file and say how it is read; the first five are the defects docs/lora.md tells of."""
    yield _kohya(folder, "kohya, with embedders and last layer", OUTSIDE_BLOCKS + IN_BLOCKS[:1], alpha=RANK)
    last = _kohya(folder, "kohya, last layer, alpha 1 of rank 2", ["final_layer.linear", SWAPPED], alpha=1)
    yield Case(last.name, last.truth, last.ours, lambda: converted(folder / f"{last.name}.safetensors"))
    yield _underscored(folder)
    yield _kohya(folder, "kohya, 48 wide, linear1", ["single_blocks.0.linear1"], alpha=RANK)
    yield from _alpha(folder)
    yield _native(folder)


def random_lora(names: list[str], alpha: float) -> Lora:
    """A LoRA of rank `RANK` on some layers."""
    shapes, generator = layer_shapes(CONFIG), keyed_generator(7)
    modules = {}
    for name in names:
        out, width = shapes[name]
        a, b = torch.randn(RANK, width, generator=generator), torch.randn(out, RANK, generator=generator)
        modules[name] = LowRank(a, b, alpha)
    return Lora(modules)


def exact(lora: Lora) -> dict[str, Tensor]:
    """The changes in fp64."""
    return {n: m.alpha / m.rank * (m.b.double() @ m.a.double()) for n, m in lora.modules.items()}


def ours(path: Path) -> dict[str, Tensor]:
    """Read a file by ours."""
    return exact(read_lora(path, CONFIG))


def _kohya(folder: Path, name: str, layers: list[str], alpha: float) -> Case:
    lora, path = random_lora(layers, alpha), folder / f"{name}.safetensors"
    write_lora(lora, path, CONFIG, "kohya")
    return Case(name, exact(lora), lambda: ours(path), lambda: loaded(path))


def _underscored(folder: Path) -> Case:
    """Diffusers' names with underscores, alpha beside the matrices, as some trainers write them."""
    layers = [*IN_BLOCKS, "double_blocks.0.txt_attn.proj", "double_blocks.0.txt_mlp.2"]
    lora, path, tensors = random_lora(layers, alpha=1), folder / "underscored.safetensors", {}
    for module, change in lora.modules.items():
        stem = "lora_transformer_" + linear_layers(CONFIG)[module][0].name.replace(".", "_")
        tensors |= {f"{stem}.lora_down.weight": change.a, f"{stem}.lora_up.weight": change.b}
        tensors[f"{stem}.alpha"] = torch.tensor(float(change.alpha))
    save_file(tensors, path)
    return Case("lora_transformer_ names", exact(lora), lambda: ours(path), lambda: loaded(path))


def _alpha(folder: Path) -> Iterator[Case]:
    """Alpha 8 at rank 2: a file that lost its header, diffusers' own file as it reads it, and ours folded."""
    lora = random_lora(IN_BLOCKS, alpha=4.0 * RANK)
    for place in ("whole", "folded"):
        (folder / place).mkdir()
        write_lora(lora, folder / place, CONFIG, folded=place == "folded")
        save_file(load_file(folder / place / FILES["peft"]), folder / f"{place}-bare.safetensors")
    whole, bare, folded = (
        folder / "whole",
        folder / "whole-bare.safetensors",
        folder / "folded-bare.safetensors",
    )
    yield Case(
        "alpha 8 of rank 2, header lost; ours wrote it folded",
        exact(lora),
        lambda: loaded(folded),
        lambda: loaded(bare),
    )
    yield Case(
        "alpha 8 of rank 2, header there, load_lora_adapter(file)",
        exact(lora),
        lambda: ours(whole),
        lambda: loaded(whole / FILES["peft"], by_adapter=True),
    )


def _native(folder: Path) -> Case:
    lora, path = random_lora(IN_BLOCKS, alpha=1), folder / "native.safetensors"
    write_lora(lora, path, CONFIG, "comfy")
    return Case("ComfyUI's native names", exact(lora), lambda: ours(path), lambda: loaded(path))


def loaded(path: Path, by_adapter: bool = False) -> dict[str, Tensor]:
    """Return the changes diffusers applies, by our layers' names."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    twin = transformer()
    if by_adapter:
        twin.load_lora_adapter(str(path))
    else:
        empty: Any = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
        pipe = FluxPipeline(transformer=twin, scheduler=FlowMatchEulerDiscreteScheduler(), **empty)
        pipe.load_lora_weights(str(path))
    found = {
        name: module.get_delta_weight(next(iter(module.lora_A))).detach().double()
        for name, module in twin.named_modules()
        if hasattr(module, "get_delta_weight") and module.lora_A
    }
    return by_our_names(found)


def converted(path: Path, by_ours: bool = True) -> dict[str, Tensor]:
    """Return the changes in what diffusers makes of a file, though it would not apply them (the first defect)."""
    from diffusers import FluxPipeline

    state: Any = FluxPipeline.lora_state_dict(str(path))
    names = {key.split(".lora_")[0] for key in state}
    product = {n: state[f"{n}.lora_B.weight"].double() @ state[f"{n}.lora_A.weight"].double() for n in names}
    theirs = {name.removeprefix("transformer."): delta for name, delta in product.items()}
    return by_our_names(theirs) if by_ours else theirs


def by_our_names(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put diffusers' layers together to ours; of a fused layer all parts or none."""
    whole = {}
    for module, parts in linear_layers(CONFIG).items():
        if all(part.name in found for part in parts):
            delta = torch.cat([found[part.name] for part in parts])
            whole[module] = torch.cat(delta.chunk(2)[::-1]) if module == SWAPPED else delta
    return whole


def transformer() -> Any:
    """Diffusers' transformer of the small shape."""
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        in_channels=CONFIG.in_channels,
        num_layers=CONFIG.depth,
        num_single_layers=CONFIG.depth_single_blocks,
        attention_head_dim=CONFIG.head_dim,
        num_attention_heads=CONFIG.num_heads,
        joint_attention_dim=CONFIG.context_in_dim,
        pooled_projection_dim=CONFIG.vec_in_dim,
        guidance_embeds=CONFIG.guidance_embed,
        axes_dims_rope=(8, 8, 8),
    )


@contextmanager
def listening() -> Iterator[list[str]]:
    """Collect what diffusers warns of, by its log or by warnings."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.addFilter(
        lambda record: "text_encoder" not in record.getMessage()
    )  # there is none in our pipeline
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("diffusers")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
        said += [str(each.message) for each in caught if "LoRA" in str(each.message)]
    finally:
        logger.removeHandler(handler)


if __name__ == "__main__":
    main()
